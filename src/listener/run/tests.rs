use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::output::TAIL_BYTES;
use super::*;
use crate::listener::config::UserUnits;
use crate::listener::nixos::Profile;
use crate::protocol::{Phase, Response};

/// Returns a run with this key.
pub(crate) fn spec(key: &str) -> RunSpec {
    RunSpec {
        key: key.to_owned(),
        id: key.parse().ok(),
        reply_to: "deploy.responses.r".parse().unwrap(),
        action: Action::Switch,
        revision: "main".parse().unwrap(),
        operator: Some("ops@desk".to_owned()),
        accepted_at: "2026-11-23T10:00:00Z".parse().unwrap(),
        number: 0,
        boot_id: None,
        settings: RunSettings {
            flake: "git+https://h/x".parse().unwrap(),
            host: "ns1".parse().unwrap(),
            attr: None,
            rebuild_flags: Vec::new(),
            system_keys: Vec::new(),
            root: "/nowhere".into(),
            user_units: UserUnits::Fail,
            timeout: Duration::from_secs(10),
            grace: Duration::from_secs(1),
        },
        system: None,
        confirm_timeout_ms: None,
        rollback_to: None,
    }
}

fn result() -> RunResult {
    let (now, after) = (Timestamp::UNIX_EPOCH, SystemSnapshot::default());
    RunResult {
        verdict: Verdict::failed(ErrorCode::Timeout, ""),
        started_at: now,
        ended_at: now,
        after,
        tail: Vec::new(),
    }
}

fn completed() -> Response {
    Response::new("ns1".parse().unwrap(), Status::Completed, "")
}

/// Releases a lock at once. A closed file may still be open in a process that another test has forked and that has not
/// called exec yet.
pub(crate) fn give_back(lock: &File) {
    lock.unlock().unwrap();
}

#[test]
fn a_run_is_locked_from_the_moment_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::in_one(folder.path().join("runs/a"));
    let lock = dir.create(&spec("a")).unwrap();
    assert_eq!(dir.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    give_back(&lock);
    assert!(dir.lock().is_ok());
    assert_eq!(dir.spec().unwrap(), spec("a"));
    assert_eq!(dir.get(RESULT), None);
    assert_eq!(dir.get(FINAL), None);
}

#[test]
fn the_tail_reaches_back_into_what_was_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::in_one(folder.path().to_owned());
    assert_eq!(dir.output_tail(), "");
    fs::write(dir.output_part(0), format!("{}before\n", "x".repeat(200_000))).unwrap();
    let next = dir.output_part(200_007);
    fs::write(&next, "after\n").unwrap();
    let tail = dir.output_tail();
    assert!(tail.ends_with("xbefore\nafter\n"));
    assert_eq!(tail.len(), TAIL_BYTES);
    fs::write(next, "y".repeat(200_000)).unwrap();
    assert_eq!(dir.output_tail(), "y".repeat(TAIL_BYTES));
}

#[test]
fn the_output_of_an_earlier_supervisor_has_its_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::in_one(folder.path().to_owned());
    fs::write(folder.path().join("output.log.1"), "building\n").unwrap();
    fs::write(folder.path().join("output.log"), "activating\n").unwrap();
    assert_eq!(dir.output_parts().into_keys().collect::<Vec<_>>(), [0, 9]);
    assert_eq!(dir.output_tail(), "building\nactivating\n");
    dir.shrink().unwrap();
    assert_eq!(dir.output_parts().len(), 0);
}

#[test]
fn nothing_of_an_earlier_run_is_taken_for_this_ones() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::in_one(folder.path().join("run"));
    drop(dir.create(&spec("a")).unwrap());
    dir.write_and_copy(RESULT, &result()).unwrap();
    dir.write_and_copy(BEFORE, &SystemSnapshot::default()).unwrap();
    dir.write_volatile(COMMIT, &"8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap()).unwrap();
    fs::write(dir.output_part(0), "old").unwrap();
    fs::write(dir.output_part(3), "older").unwrap();
    dir.write_volatile(PHASE, &Phase::Activate).unwrap();
    dir.write_and_copy(FINAL, &completed()).unwrap();

    let _lock = dir.create(&spec("a")).unwrap();
    assert_eq!((dir.get(RESULT), dir.phase(), dir.output_tail().as_str()), (None, Phase::Resolve, ""));
    assert_eq!((dir.get(BEFORE), dir.get(COMMIT)), (None, None));
    assert_eq!(dir.get(FINAL), None);
    assert!(dir.create(&spec("a")).is_err(), "a run that goes on is not begun again");
}

#[test]
fn the_operator_is_shown_without_anything_that_steers_a_terminal() {
    let json =
        r#"{"action":"switch","revision":"main","reply_to":"deploy.responses.x","operator":"\u001b[2Jroot\n@desk"}"#;
    let request = Request::parse(json.as_bytes()).unwrap();
    let spec = RunSpec::new(request, &spec("a").settings, Timestamp::UNIX_EPOCH);
    assert_eq!(spec.holder().operator.as_deref(), Some("root@desk"));
}

#[test]
fn a_record_of_a_version_that_left_out_what_is_absent_is_read() {
    let json = r#"{"key":"a","id":"a","reply_to":"deploy.responses.r","action":"switch","revision":"main","operator":"ops@desk",
        "accepted_at":"2026-11-23T10:00:00Z","flake":"git+https://h/x","host":"ns1","root":"/nowhere","timeout_ms":10000,
        "grace_ms":1000}"#;
    assert_eq!(serde_json::from_str::<RunSpec>(json).unwrap(), spec("a"));
    let verdict = Verdict { message: "x".to_owned(), ..Verdict::failed(ErrorCode::Timeout, "") };
    let json = r#"{"status":"failed","error":"timeout","message":"x"}"#;
    assert_eq!(serde_json::from_str::<Verdict>(json).unwrap(), verdict);
    let profile = r#"{"system":{"path":"a","kernel":[null,null,null]}}"#;
    assert_eq!(serde_json::from_str::<Profile>(profile).unwrap().generation, None);
    let target = r#"{"run":"a","facts":{},"made":"/nix/store/a"}"#;
    let target: RollbackTarget = serde_json::from_str(target).unwrap();
    assert_eq!((target.revision, target.built_system.as_deref()), (None, Some("/nix/store/a")));
}

/// Returns a run whose disk takes neither files nor directories.
fn on_a_full_disk(folder: &Path) -> RunDir {
    RunDir::new(folder.join("run"), "/dev/full/run".into())
}

#[test]
fn what_must_be_known_needs_no_room_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let dir = on_a_full_disk(folder.path());
    let lock = dir.create(&spec("a")).unwrap();
    assert_eq!(dir.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    dir.write_and_copy(BEFORE, &SystemSnapshot::default()).unwrap();
    dir.write_volatile(PHASE, &Phase::Confirm).unwrap();
    dir.write_volatile(CONFIRMED, &()).unwrap();
    fs::write(dir.environment_file(), "A=1").unwrap();
    let response = completed();
    dir.write_and_copy(RESULT, &result()).unwrap();
    dir.write_and_copy(FINAL, &response).unwrap();
    assert_eq!((dir.spec().unwrap(), dir.get(BEFORE)), (spec("a"), Some(SystemSnapshot::default())));
    assert_eq!((dir.phase(), dir.has(CONFIRMED), dir.get(RESULT)), (Phase::Confirm, true, Some(result())));
    assert_eq!(dir.get(FINAL), Some(response));
    assert!(dir.copy_all().is_err());
}

#[test]
fn what_outlives_a_reboot_is_copied_as_soon_as_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (live, kept) = (folder.path().join("live"), folder.path().join("disk/run"));
    fs::write(folder.path().join("disk"), "in the way").unwrap();
    let dir = RunDir::new(live.clone(), kept.clone());
    drop(dir.create(&spec("a")).unwrap());
    dir.write_and_copy(BEFORE, &SystemSnapshot::default()).unwrap();
    dir.copy_all().unwrap_err();
    fs::remove_file(folder.path().join("disk")).unwrap();
    dir.write_and_copy(FINAL, &completed()).unwrap();
    dir.copy_all().unwrap();

    // The reboot.
    fs::remove_dir_all(live).unwrap();
    let dir = RunDir::in_one(kept);
    assert_eq!((dir.spec().unwrap(), dir.get(BEFORE)), (spec("a"), Some(SystemSnapshot::default())));
    assert!(dir.get(FINAL).is_some());
}

#[test]
fn a_request_that_is_damaged_in_one_place_is_read_in_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (live, kept) = (folder.path().join("live"), folder.path().join("kept"));
    let dir = RunDir::new(live.clone(), kept.clone());
    drop(dir.create(&spec("a")).unwrap());
    fs::write(live.join("request.json"), "").unwrap();
    assert_eq!(dir.spec().unwrap(), spec("a"));
    fs::write(kept.join("request.json"), "").unwrap();
    assert!(dir.spec().is_err());
}

#[test]
fn memory_is_given_back_once_the_disk_has_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let (live, kept) = (folder.path().join("live"), folder.path().join("kept"));
    let dir = RunDir::new(live.clone(), kept.clone());
    drop(dir.create(&spec("a")).unwrap());
    dir.shrink().unwrap();
    assert!(live.exists(), "the disk does not have its end");
    dir.write_and_copy(FINAL, &completed()).unwrap();
    dir.shrink().unwrap();
    assert!(!live.exists() && kept.join("final.json").exists());
    dir.remove().unwrap();
    assert!(!kept.exists());
}

#[test]
fn a_run_is_written_over_room_that_was_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let inodes = |directory: &str, end: &str| {
        ["request.json", "before.json", "result.json", "final.json"]
            .map(|name| fs::metadata(at(directory).join(format!("{name}{end}"))).unwrap().ino())
    };
    fs::create_dir(at("runs")).unwrap();
    prepare_spares(&at("runs"));
    let room = inodes("spares/1", ".new");
    let dir = RunDir::new(at("live"), at("runs/a"));
    drop(dir.create(&spec("a")).unwrap());
    dir.write_and_copy(BEFORE, &SystemSnapshot::default()).unwrap();
    dir.write_and_copy(RESULT, &result()).unwrap();
    dir.write_and_copy(FINAL, &completed()).unwrap();
    assert_eq!(inodes("runs/a", ""), room);
    let kept = RunDir::in_one(at("runs/a"));
    assert!(kept.spec().is_ok() && kept.get(BEFORE).is_some() && kept.get(RESULT).is_some() && kept.lock().is_ok());

    // Unused room is freed with the output, and the next run has its own.
    assert!(at("runs/a/unit.json.new").exists() && !at("spares/1").exists());
    dir.shrink().unwrap();
    prepare_spares(&at("runs"));
    assert!(!at("runs/a/unit.json.new").exists() && at("spares/1").exists());
    drop(dir.create(&spec("a")).unwrap());
    assert!(at("spares/1").exists(), "a run that has its directory needs none");
}

#[test]
fn what_is_on_the_disk_already_needs_no_more_room() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::in_one(folder.path().join("a"));
    drop(dir.create(&spec("a")).unwrap());
    let found = SystemSnapshot::default();
    dir.write_and_copy(BEFORE, &found).unwrap();
    // Nothing can be written there any more.
    fs::create_dir(dir.path().join("before.json.new")).unwrap();
    dir.write_and_copy(BEFORE, &found).unwrap();
    let other = SystemSnapshot { specialisation: Some("lab".to_owned()), ..found.clone() };
    dir.write_and_copy(BEFORE, &other).unwrap_err();
    assert_eq!(dir.get(BEFORE), Some(found));
}
