use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::protocol::{Phase, Status, Tier};
use crate::report::tests::scenario::{Scenario, SharedBuffer, answer, build_failure, demo, name, request, start};
use crate::rollout::{
    Connection, EventKind, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason, UnexpectedResponse, WaveIndex,
    WaveVerdict,
};

/// Returns every kind of event, with every variant of its fields.
fn every_kind() -> Vec<EventKind> {
    let wave = WaveIndex(1);
    let host = || name("ns1");
    let mut kinds = vec![
        EventKind::Begun(Arc::new(demo())),
        EventKind::Resumed,
        EventKind::AwaitingConfirmation { wave },
        EventKind::WaveStarted { wave },
        EventKind::Dispatched { host: host(), request: request(1), attempt: 2 },
        EventKind::Accepted { host: host() },
        EventKind::Started { host: host(), phase: None },
        EventKind::Started { host: host(), phase: Some(Phase::Build) },
        EventKind::Retrying { host: host(), outcome: HostOutcome::Rejected, delay: Duration::from_millis(1500) },
        EventKind::Baking { wave, remaining: Duration::from_mins(10) },
        EventKind::Checking { wave },
        EventKind::Resolved {
            host: host(),
            revision: crate::report::tests::scenario::commit(crate::report::tests::scenario::NEW),
        },
        EventKind::AnsweredLate { host: host(), wave },
        EventKind::RollingBack { host: host(), request: request(2) },
        EventKind::RollbackEnded { host: host(), outcome: HostOutcome::Unreachable, response: None },
        EventKind::Interrupted { how: Interrupt::Drain },
        EventKind::Interrupted { how: Interrupt::Abort },
        EventKind::Connection { state: Connection::Down },
        EventKind::Connection { state: Connection::Up },
        EventKind::Final {
            host: host(),
            outcome: HostOutcome::Completed,
            response: Some(Arc::new(answer("ns1", Status::Completed))),
        },
        EventKind::Final { host: host(), outcome: HostOutcome::Failed, response: Some(Arc::new(build_failure("ns1"))) },
    ];
    let skips = [
        SkipReason::WaveHalted,
        SkipReason::EarlierWave,
        SkipReason::Interrupt,
        SkipReason::NotConfirmed,
        SkipReason::Disconnected,
    ];
    let outcomes = [HostOutcome::Unreachable, HostOutcome::TimedOut].into_iter().chain(skips.map(HostOutcome::Skipped));
    kinds.extend(outcomes.map(|outcome| EventKind::Final { host: host(), outcome, response: None }));
    let causes = [
        FailureReason::TooManyFailures { failures: 2, max_failures: 1 },
        FailureReason::TooFewCompleted { completed: 0, min_hosts: 1 },
        FailureReason::CheckFailed { reason: "exit code 1".to_owned() },
        FailureReason::Disconnected,
        FailureReason::Unknown,
    ];
    kinds.extend(causes.clone().map(|cause| EventKind::Draining { wave, cause }));
    let verdicts = [WaveVerdict::Succeeded, WaveVerdict::Interrupted, WaveVerdict::Skipped];
    let verdicts = verdicts.into_iter().chain(causes.map(WaveVerdict::Failed));
    kinds.extend(verdicts.map(|verdict| EventKind::WaveEnded { wave, verdict }));
    let anomalies = [
        UnexpectedResponse::Late { status: Status::Completed },
        UnexpectedResponse::Conflict { status: Status::Failed },
        UnexpectedResponse::WrongHost { said: name("mallory"), tier: Some(Tier::Test) },
        UnexpectedResponse::AnotherRequest,
        UnexpectedResponse::TwoMachines,
    ];
    kinds.extend(anomalies.map(|anomaly| EventKind::UnexpectedResponse { host: host(), anomaly }));
    let ends = [Outcome::Succeeded, Outcome::Failed, Outcome::Interrupted, Outcome::Declined, Outcome::Paused];
    kinds.extend(ends.map(|outcome| EventKind::Ended { outcome }));
    kinds
}

fn written(events: &[Event]) -> String {
    let paper = SharedBuffer::default();
    let mut json = Json::new(paper.clone());
    for event in events {
        json.event(event, &[], &Summary::default()).unwrap();
    }
    json.tick(start(), &Summary::default()).unwrap();
    json.flush().unwrap();
    paper.text()
}

#[test]
fn every_event_is_a_line_that_reads_back_as_the_same() {
    // Each two events share a time.
    let at = |index: usize| start() + Duration::from_secs((index / 2) as u64);
    let events = every_kind().into_iter().enumerate().map(|(index, kind)| Event { at: at(index), kind });
    let events: Vec<Event> = events.collect();
    let text: Vec<String> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let read: Vec<Event> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, events);
    let mut writer = EventWriter::default();
    for (event, text) in events.iter().zip(&text) {
        let mut json = Vec::new();
        writer.write(event, &mut json).unwrap();
        assert_eq!(String::from_utf8(json).unwrap(), *text);
    }
}

#[test]
fn the_secret_of_a_rollout_is_not_printed() {
    let story = Scenario::begin(demo());
    let journaled = serde_json::to_string(&story.events[0]).unwrap();
    assert!(journaled.contains("secret") && !written(&story.events[..1]).contains("secret"));
}

#[test]
fn what_is_on_record_is_shown_as_it_would_be_without_a_record() {
    let mut story = Scenario::begin(demo());
    story.sent("ns1").wait(2).at("ns1", Phase::Build).answered(answer("ns1", Status::Completed));
    let (paper, mut summary) = (SharedBuffer::default(), Summary::default());
    let mut json = Json::new(paper.clone());
    for event in &story.events {
        summary.apply(event);
        let record = serde_json::to_vec(event).unwrap();
        for record in [&record, &[][..]] {
            json.event(event, record, &summary).unwrap();
        }
    }
    json.flush().unwrap();
    let (text, lines) = (paper.text(), story.events.len());
    let lines_of = |kind: usize| text.lines().skip(kind).step_by(2).collect::<Vec<_>>();
    assert_eq!((lines_of(0), lines_of(0).len()), (lines_of(1), lines));
    assert!(text.contains("runs_now") && !text.contains("secret"), "{text}");
}

#[test]
fn lines_look_like_this() {
    let mut story = Scenario::begin(demo());
    story.sent("ns1").wait(2).at("ns1", Phase::Build).given_up("ns2", HostOutcome::Skipped(SkipReason::EarlierWave));
    story.wave_ends(1, WaveVerdict::Failed(FailureReason::TooManyFailures { failures: 1, max_failures: 0 }));
    insta::assert_snapshot!(written(&story.events[1..]), @r#"
    {"at":"2026-11-23T10:00:00Z","event":"dispatched","host":"ns1","request":"00000000-0000-0000-0000-000000000001","attempt":1}
    {"at":"2026-11-23T10:00:02Z","event":"started","host":"ns1","phase":"build"}
    {"at":"2026-11-23T10:00:02Z","event":"final","host":"ns2","outcome":"skipped","cause":"earlier_wave"}
    {"at":"2026-11-23T10:00:02Z","event":"wave_ended","wave":2,"verdict":"failed","cause":"too_many_failures","failures":1,"max_failures":0}
    "#);
}

/// A writer that always fails, like a closed pipe or a full disk.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_leaves_is_no_error_and_a_full_disk_is_one() {
    let event = Event { at: start(), kind: EventKind::Ended { outcome: Outcome::Succeeded } };
    let summary = Summary::default();
    let mut left = Json::new(Broken(io::ErrorKind::BrokenPipe));
    let show = |display: &mut Json<Broken>| display.event(&event, &[], &summary).and_then(|()| display.flush());
    assert!(show(&mut left).is_ok() && show(&mut left).is_ok());
    let mut full = Json::new(Broken(io::ErrorKind::StorageFull));
    assert_eq!(show(&mut full).unwrap_err().kind(), io::ErrorKind::StorageFull);
}
