//! Tests journals in temporary folders.

use std::io::Write;

use jiff::Timestamp;

use super::*;
use crate::operator::testing::rollout;
use crate::rollout::{Effect, Event, EventKind, Machine, Outcome, Rollout};

fn begin(rollout: &Arc<Rollout>) -> Vec<Event> {
    let mut machine = Machine::new(Arc::clone(rollout), Timestamp::UNIX_EPOCH, 3);
    let effects = std::iter::from_fn(|| machine.poll_effect());
    effects.filter_map(|effect| if let Effect::Report(event) = effect { Some(event) } else { None }).collect()
}

fn write(journal: &mut Journal, events: &[Event]) {
    for event in events {
        journal.record(event).unwrap();
    }
    journal.write().unwrap();
}

/// Releases the lock. Closing the file may not: a process forked by another test has it open until it calls `exec`.
pub(super) fn give_back(journal: &Journal) {
    journal.file.unlock().unwrap();
}

fn ended() -> Event {
    Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Ended { outcome: Outcome::Failed } }
}

#[test]
fn what_was_recorded_is_read_again_and_a_torn_line_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
    let id = rollout.id.to_string();
    let mut journal = journals.create(rollout.id).unwrap();
    let events = begin(&rollout);
    write(&mut journal, &events);
    assert!(journals.read(&id).unwrap().running, "its process holds the lock");
    give_back(&journal);

    let path = journals.path(&id, JOURNAL);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], b"{\"at\":\"2026-"].concat()).unwrap();
    let recorded = journals.read(&id).unwrap();
    assert!(!recorded.running);
    assert_eq!(recorded.summary, Summary::of(&events));

    let (_, mut journal) = journals.take_over(&id).unwrap();
    write(&mut journal, &[ended()]);
    let recorded = journals.read(&id).unwrap();
    assert_eq!(recorded.summary.outcome, Some(Outcome::Failed), "the torn line is gone");
}

#[test]
fn a_journal_of_a_version_in_which_a_host_found_the_commit_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut rollout = rollout(&[&["a", "b"]]);
    Arc::make_mut(&mut rollout).revision = "main".parse().unwrap();
    let (journals, id) = (Journals::below(folder.path()), rollout.id.to_string());
    write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
    let revision = |journals: &Journals| journals.read(&id).unwrap().summary.rollout.unwrap().revision.clone();
    assert_eq!(revision(&journals), rollout.revision, "nobody has found it");

    let found = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
    let lines = [
        format!(r#"{{"at":"2026-11-23T10:00:00Z","event":"resolved","host":"a","revision":"{found}"}}"#),
        r#"{"at":"2026-11-23T10:00:00Z","event":"draining","wave":1,"cause":"unresolved"}"#.to_owned(),
        r#"{"at":"2026-11-23T10:00:00Z","event":"final","host":"b","outcome":"skipped","cause":"unresolved"}"#
            .to_owned(),
        r#"{"at":"2026-11-23T10:00:00Z","event":"wave_ended","wave":1,"verdict":"failed","cause":"unresolved"}"#
            .to_owned(),
    ];
    let mut journal = File::options().append(true).open(journals.path(&id, JOURNAL)).unwrap();
    writeln!(journal, "{}", lines.join("\n")).unwrap();
    assert_eq!(revision(&journals).as_str(), found);
}

#[test]
fn every_cut_of_a_journal_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, mut rollout) = (Journals::below(folder.path()), rollout(&[&["a", "b"]]));
    // A cut may be in the middle of a character.
    Arc::make_mut(&mut rollout).plan.name = "söndag".to_owned();
    write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
    let path = journals.path(&rollout.id.to_string(), JOURNAL);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        journals.read(&rollout.id.to_string()).unwrap();
    }
}

#[test]
fn a_line_in_the_middle_that_is_no_event_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
    write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
    let path = journals.path(&rollout.id.to_string(), JOURNAL);
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, whole.replacen('{', "x", 1)).unwrap();
    let error = journals.read(&rollout.id.to_string()).unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { line: 1, .. }), "{error}");
}

#[test]
fn what_others_can_have_written_is_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let (journals, rollout) = (Journals::below(&state), rollout(&[&["a"]]));
    let id = rollout.id.to_string();
    write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
    journals.stop(rollout.id).unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let bits = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let (folder, journal, stop) = (state.join(FOLDER), journals.path(&id, JOURNAL), journals.stop_file(rollout.id));
    assert_eq!([&state, &folder, &journal, &stop].map(|path| bits(path)), [0o700, 0o700, 0o600, 0o600]);

    for (path, private) in [(&state, 0o700), (&folder, 0o700), (&journal, 0o600)] {
        mode(path, private | 0o020);
        let error = journals.read(&id).unwrap_err();
        assert!(matches!(error, JournalError::Folder(PrivateDirError::Untrusted { .. })), "{error}");
        assert!(journals.since(Timestamp::MIN).is_empty());
        assert!(path == &journal || journals.create(RolloutId::from(uuid::Uuid::max())).is_err());
        mode(path, private);
    }
    mode(&folder, 0o755);
    journals.read(&id).unwrap();
    assert_eq!(bits(&folder), 0o700, "it was only readable");

    std::fs::rename(&folder, place.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path().join("elsewhere"), &folder).unwrap();
    assert!(matches!(journals.read(&id), Err(JournalError::Folder(PrivateDirError::Kind(..)))));
    assert!(journals.ids().is_err());
}

#[test]
fn a_rollout_is_found_by_the_beginning_of_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let journals = Journals::below(folder.path());
    assert!(matches!(journals.find("0"), Err(JournalError::Unknown { .. })));
    for id in [1, 2 << 100] {
        journals.create(RolloutId::from(uuid::Uuid::from_u128(id))).unwrap();
    }
    assert_eq!(journals.find("00000000").unwrap(), "00000000-0000-0000-0000-000000000001");
    assert!(matches!(journals.find("0"), Err(JournalError::Ambiguous { .. })));
}

#[test]
fn what_another_process_runs_is_not_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
    let id = rollout.id.to_string();
    let mut journal = journals.create(rollout.id).unwrap();
    write(&mut journal, &begin(&rollout));
    assert!(matches!(journals.take_over(&id), Err(JournalError::Running(running)) if running == id));
    // The events of the last moment are part of the state.
    write(&mut journal, &[ended()]);
    give_back(&journal);
    let (left, _journal) = journals.take_over(&id).unwrap();
    assert_eq!(left.outcome, Some(Outcome::Failed));
    assert!(matches!(journals.take_over(&id), Err(JournalError::Running(_))), "it has the lock from then on");
}

#[test]
fn a_rollout_begins_once() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
    let id = rollout.id.to_string();
    let begun = begin(&rollout);
    let mut journal = journals.create(rollout.id).unwrap();
    write(&mut journal, &[&begun[..], &begun[..1]].concat());
    give_back(&journal);
    let error = journals.read(&id).unwrap_err().to_string();
    assert!(error.ends_with("cannot be read: another rollout begins here"), "{error}");
    assert!(journals.take_over(&id).is_err());
    assert!(journals.follow(&id).unwrap().look(|_, _| {}).is_err());
}

#[test]
fn old_records_go_by_themselves_and_the_last_200_stay() {
    let folder = tempfile::tempdir().unwrap();
    let journals = Journals::below(folder.path());
    let id = |number: u128| RolloutId::from(uuid::Uuid::from_u128(number));
    let now = clock::now();
    let day = |number: i64| now + jiff::SignedDuration::from_hours(24 * number);
    let mut opened = Vec::new();
    for number in 0..203 {
        let begun = EventKind::Begun(Arc::new(Rollout { id: id(number), ..(*rollout(&[&["a"]])).clone() }));
        let mut journal = journals.create(id(number)).unwrap();
        // The latest rollouts all begin on one day.
        let at = day(i64::try_from(number).unwrap().min(100));
        write(&mut journal, &[Event { at, kind: begun }]);
        journals.create_output(id(number)).unwrap();
        if number != 1 {
            give_back(&journal);
        }
        opened.push(journal);
    }
    assert_eq!(journals.prune(day(90)).unwrap(), 0, "not one is older than 90 days");
    assert_eq!(journals.prune(day(1000)).unwrap(), 2, "two of three: one is running");
    let left = journals.ids().unwrap();
    let is_left = |number| left.contains(&id(number).to_string());
    assert_eq!([0, 1, 2, 3].map(is_left), [false, true, false, true]);
    assert!(journals.open_output(id(0)).is_err() && journals.open_output(id(1)).is_ok());
    assert_eq!(journals.latest().unwrap(), Some(id(202).to_string()));
}

#[test]
fn who_begins_a_rollout_removes_what_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, begun) = (Journals::below(folder.path()), begin(&rollout(&[&["a"]])));
    for number in 0..203 {
        let mut journal = journals.create(RolloutId::from(uuid::Uuid::from_u128(number))).unwrap();
        write(&mut journal, &begun[..1]);
        give_back(&journal);
    }
    assert_eq!(journals.ids().unwrap().len(), 201, "the last 200, and the one that begins");
}

#[test]
fn a_journal_of_the_first_version_is_read_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (journals, id) = (Journals::below(folder.path()), "a69cfb7f-8072-41c3-b290-06a904bc5aae");
    give_back(&journals.create(RolloutId::from(id.parse::<uuid::Uuid>().unwrap())).unwrap());
    std::fs::write(journals.path(id, JOURNAL), include_str!("tests/first-version.jsonl")).unwrap();
    let (left, _journal) = journals.take_over(id).unwrap();
    let states: Vec<_> = left.hosts.iter().map(|host| (host.name.as_str(), host.state, host.used_ids)).collect();
    insta::assert_debug_snapshot!(states, @r#"
    [
        (
            "a",
            Final(
                Completed,
            ),
            0,
        ),
        (
            "b",
            Final(
                Failed,
            ),
            1,
        ),
        (
            "gone",
            Final(
                Unreachable,
            ),
            0,
        ),
        (
            "c",
            Final(
                Completed,
            ),
            0,
        ),
        (
            "d",
            Dispatched,
            0,
        ),
    ]
    "#);
    let mut machine = Machine::resume(left, Timestamp::UNIX_EPOCH, 3).unwrap();
    let asked: Vec<String> = std::iter::from_fn(|| machine.poll_effect())
        .filter_map(|effect| match effect {
            Effect::Send(dispatch) => Some(format!("sent to {}", dispatch.subject)),
            Effect::AskState(dispatch) => Some(format!("{} asked for its state", dispatch.subject)),
            _ => None,
        })
        .collect();
    insta::assert_debug_snapshot!(asked, @r#"
    [
        "deploy.test.d asked for its state",
    ]
    "#);
}

#[test]
fn an_empty_text_names_no_rollout_even_if_there_is_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let journals = Journals::below(folder.path());
    journals.create(RolloutId::from(uuid::Uuid::from_u128(1))).unwrap();
    assert!(matches!(journals.find(""), Err(JournalError::Unknown { .. })));
}
