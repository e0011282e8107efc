use std::sync::Arc;

use super::*;
use crate::protocol::{Action, Status};
use crate::report::tests::scenario::{NEW, OLD, answer, commit, name, request, rollout, start, wave};
use crate::rollout::{Event, EventKind, Summary};

/// Formats the status of a host after these events, and which commit it runs.
fn said(action: Action, events: &[EventKind]) -> String {
    let mut only = wave("all", &["ns1"]);
    only.action = action;
    let mut summary = Summary::default();
    let rollout = Arc::new(rollout("plan", vec![only]));
    summary.apply(&Event { at: start(), kind: EventKind::Begun(Arc::clone(&rollout)) });
    for kind in events {
        summary.apply(&Event { at: start(), kind: kind.clone() });
    }
    let facts = describe(summary.host(&name("ns1")).unwrap(), &rollout);
    assert_eq!(facts.ran_before, Some(commit(OLD)));
    let runs = facts.runs_now.map_or("?", |runs| if runs == commit(NEW) { "new" } else { "old" });
    format!("{} {runs}", facts.status)
}

fn ended(outcome: HostOutcome, error: Option<ErrorCode>, rolled_back: Option<bool>) -> EventKind {
    let mut response =
        answer("ns1", if outcome == HostOutcome::Completed { Status::Completed } else { Status::Failed });
    (response.error, response.rolled_back, response.revision) = (error, rolled_back, Some(commit(NEW)));
    EventKind::Final { host: name("ns1"), outcome, response: Some(Arc::new(response)) }
}

#[test]
fn a_host_runs_what_it_is_known_to_run() {
    use Action::{Boot, DryActivate, Switch, Test};
    use HostOutcome::{Completed, Failed, Rejected};
    let completed = || ended(Completed, None, None);
    assert_eq!(said(Switch, &[]), "pending old");
    let actions = [Switch, Test, Boot, DryActivate].map(|action| said(action, &[completed()]));
    assert_eq!(actions, ["completed new", "completed new", "completed old", "completed old"]);
    let failed = |error, rolled_back| said(Switch, &[ended(Failed, Some(error), rolled_back)]);
    assert_eq!(failed(ErrorCode::BuildFailed, None), "failed old");
    assert_eq!(failed(ErrorCode::ActivationFailed, None), "failed ?");
    assert_eq!(failed(ErrorCode::ActivationFailed, Some(true)), "failed old");
    assert_eq!(failed(ErrorCode::ActivationFailed, Some(false)), "failed ?");
    assert_eq!(said(Switch, &[ended(Rejected, Some(ErrorCode::AlreadyRunning), None)]), "rejected old");
    let silent = |outcome| said(Switch, &[EventKind::Final { host: name("ns1"), outcome, response: None }]);
    assert_eq!(silent(HostOutcome::Unreachable), "unreachable ?");
    assert_eq!(silent(HostOutcome::TimedOut), "timed_out ?");
    assert_eq!(silent(HostOutcome::Skipped(SkipReason::EarlierWave)), "skipped old");
    let returning = || EventKind::RollingBack { host: name("ns1"), request: request(2) };
    assert_eq!(said(Switch, &[completed(), returning()]), "returning ?");
    let returned = |outcome| EventKind::RollbackEnded { host: name("ns1"), outcome, response: None };
    assert_eq!(said(Switch, &[completed(), returning(), returned(Completed)]), "returned old");
    assert_eq!(said(Switch, &[completed(), returning(), returned(Failed)]), "could_not_return ?");
}

#[test]
fn a_host_that_was_silent_about_its_rollback_says_that_it_could_not_return() {
    let rollout = Arc::new(rollout("plan", vec![wave("all", &["ns1"])]));
    let (host, outcome) = (name("ns1"), HostOutcome::Unreachable);
    let kinds = [
        EventKind::Begun(Arc::clone(&rollout)),
        ended(HostOutcome::Completed, None, None),
        EventKind::RollingBack { host: host.clone(), request: request(2) },
        EventKind::RollbackEnded { host: host.clone(), outcome, response: None },
    ];
    let summary = Summary::of(&kinds.map(|kind| Event { at: start(), kind }));
    let facts = describe(summary.host(&host).unwrap(), &rollout);
    assert_eq!((facts.status, facts.message.as_str()), ("could_not_return", "could NOT return: unreachable"));
}
