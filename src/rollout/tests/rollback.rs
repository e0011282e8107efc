//! Invariants about confirmations and rollbacks.

use std::time::Duration;

use super::invariants::finish_timeout;
use super::ledger::Ledger;
use super::observed_host::{ObservedHost, ObservedRollback};
use super::sim::Entry;
use crate::plan::Rollback;
use crate::protocol::{Phase, RequestId, Response, Status};
use crate::rollout::{Dispatch, Effect, EventKind, HostOutcome, Interrupt, Outcome, WaveVerdict};

/// A host is confirmed each time that it reports that it waits for that, about its current request, and only then.
pub(super) fn confirmation(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Confirm(dispatch)) => ledger.addressee(dispatch).is_some_and(|seen| {
            let said_so = seen.said.iter().any(waits_to_be_confirmed);
            let is_awaited = dispatch.request.id.as_ref().is_some_and(|id| ledger.to_be_confirmed.contains(id));
            seen.is_open() && said_so && is_awaited && dispatch.request.id.as_ref().is_some_and(|id| seen.last_sent(id))
        }),
        Entry::Told(_) | Entry::Woken => ledger.to_be_confirmed.is_empty(),
        Entry::Did(_) | Entry::Restarted => true,
    }
}

pub(super) fn waits_to_be_confirmed(response: &Response) -> bool {
    response.status == Status::Started && response.phase == Some(Phase::Confirm)
}

/// Only completed hosts of a failed wave that rolls rollback are asked to, each once, from what it completed.
pub(super) fn who_returns(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let Some((dispatch, completed)) = rollback_sent(entry) else {
        return true;
    };
    ledger.addressee(dispatch).is_some_and(|seen| {
        let progress = &ledger.waves[seen.wave];
        let wave_failed = matches!(progress.verdict, Some(WaveVerdict::Failed(_)));
        let is_asked_once = seen
            .rollback
            .as_ref()
            .is_some_and(|rollback| rollback.outcome.is_none() && !rollback.was_sent_by_this_process);
        wave_failed
            && progress.wave.limits.rollback == Rollback::Wave
            && seen.is_completed()
            && seen.last_sent(completed)
            && is_asked_once
    })
}

/// A host has one rollback id, before and after a crash, and no deployment has that id.
pub(super) fn one_rollback(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::RollingBack { host, request } => {
                let seen = ledger.host(host);
                seen.rollback.is_none() && ledger.hosts.iter().all(|other| !other.ever_knew(request))
            }
            EventKind::RollbackEnded { host, .. } => ledger.host(host).is_rolling_back(),
            _ => true,
        },
        Entry::Did(Effect::Send(dispatch) | Effect::AskState(dispatch)) if dispatch.request.returns.is_some() => {
            let rollback = ledger.addressee(dispatch).and_then(|seen| seen.rollback.as_ref());
            rollback.is_some_and(|rollback| {
                dispatch.request.id.as_ref() == Some(&rollback.request) && rollback.outcome.is_none()
            })
        }
        _ => true,
    }
}

/// Hosts roll rollback in reverse order of completion: all that completed later in the wave have finished before.
pub(super) fn newest_first(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    rollback_sent(entry).and_then(|(dispatch, _)| ledger.addressee(dispatch)).is_none_or(|seen| {
        let newer = ledger.completions.iter().rev().take_while(|name| **name != seen.host.hostname);
        let mut newer = newer.map(|name| ledger.host(name)).filter(|other| other.wave == seen.wave);
        newer.all(|other| other.rollback.as_ref().is_some_and(|rollback| rollback.outcome.is_some()))
    })
}

pub(super) fn one_at_a_time(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    rollback_sent(entry).and_then(|(dispatch, _)| ledger.addressee(dispatch)).is_none_or(|seen| {
        let mut others = ledger.hosts.iter().filter(|other| other.host.hostname != seen.host.hostname);
        others.all(|other| !other.is_rolling_back())
    })
}

/// A host has rolled rollback if it reports so, and only then. It is given up neither too soon nor too late.
pub(super) fn rollbacks_are_what_hosts_said(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::RollbackEnded { host, outcome, response } => {
                let seen = ledger.host(host);
                let limits = &ledger.waves[seen.wave].wave.limits;
                let Some(rollback) = &seen.rollback else {
                    return false;
                };
                let finish = finish_timeout(limits);
                let bus_was_lost = ledger.down_since.is_some_and(|since| since.max(rollback.sent_at) + finish <= at);
                let is_true = match (rollback.first_final().map(outcome_of), outcome) {
                    (Some(said), outcome) => said == *outcome,
                    (None, HostOutcome::Unreachable) => {
                        rollback.said.is_empty() && rollback.heard_since + limits.accept_timeout <= at
                    }
                    (None, HostOutcome::TimedOut) => {
                        bus_was_lost
                            || (!rollback.said.is_empty() && rollback.sent_at + rollback.unheard_for + finish <= at)
                    }
                    (None, _) => false,
                };
                is_true && response.as_deref() == rollback.first_final()
            }
            _ => true,
        },
        Entry::Told(_) | Entry::Woken => rolling_back(ledger).all(|(seen, rollback)| {
            let limits = &ledger.waves[seen.wave].wave.limits;
            let patience = if rollback.said.is_empty() { limits.accept_timeout } else { finish_timeout(limits) };
            rollback.first_final().is_none() && (ledger.was_disturbed || at <= rollback.sent_at + patience)
        }),
        Entry::Did(_) | Entry::Restarted => true,
    }
}

fn outcome_of(response: &Response) -> HostOutcome {
    match response.status {
        Status::Completed if response.rolled_back == Some(true) => HostOutcome::Completed,
        Status::Rejected => HostOutcome::Rejected,
        _ => HostOutcome::Failed,
    }
}

/// All completed hosts of a failed wave with `rollback = "wave"` roll back, unless there was an interrupt or an outage.
pub(super) fn all_roll_back(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let Entry::Did(Effect::Report(event)) = entry else {
        return true;
    };
    let EventKind::Ended { outcome } = event.kind else {
        return true;
    };
    let mut left = ledger.hosts.iter().filter(|seen| {
        let progress = &ledger.waves[seen.wave];
        let is_to_return = progress.wave.limits.rollback == Rollback::Wave
            && matches!(progress.verdict, Some(WaveVerdict::Failed(_)))
            && seen.is_completed();
        is_to_return && seen.rollback.as_ref().is_none_or(|rollback| rollback.outcome.is_none())
    });
    match outcome {
        Outcome::Interrupted => true,
        _ => left.next().is_none() || ledger.down_since.is_some(),
    }
}

/// After a failed wave nothing more is deployed, and only an abort leaves a host during its rollback.
pub(super) fn nothing_after_a_failure(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let failed = || ledger.waves.iter().any(|progress| matches!(progress.verdict, Some(WaveVerdict::Failed(_))));
    match entry {
        Entry::Did(Effect::Send(dispatch)) if dispatch.request.returns.is_none() => !failed(),
        Entry::Did(Effect::Ask(_) | Effect::RunCheck(_)) => !failed(),
        Entry::Did(Effect::Report(event)) if matches!(event.kind, EventKind::Ended { .. }) => {
            ledger.interrupt == Some(Interrupt::Abort) || rolling_back(ledger).next().is_none()
        }
        _ => true,
    }
}

fn rolling_back<'a, 'b>(ledger: &'b Ledger<'a>) -> impl Iterator<Item = (&'b ObservedHost<'a>, &'b ObservedRollback)> {
    let hosts = ledger.hosts.iter().filter(|seen| seen.is_rolling_back());
    hosts.filter_map(|seen| seen.rollback.as_ref().map(|rollback| (seen, rollback)))
}

/// Returns the rollback request that is sent now, and the request that the host completed.
fn rollback_sent(entry: &Entry) -> Option<(&Dispatch, &RequestId)> {
    match entry {
        Entry::Did(Effect::Send(dispatch)) => Some((dispatch, dispatch.request.returns.as_ref()?)),
        _ => None,
    }
}
