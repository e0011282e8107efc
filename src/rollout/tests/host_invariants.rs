//! Invariants about a single host.

use std::time::Duration;

use super::fixture::secs;
use super::invariants::{deployment, finish_timeout, is_not_asked, limits_of};
use super::ledger::Ledger;
use super::observed_host::{ObservedHost, is_busy};
use super::sim::Entry;
use crate::protocol::Status;
use crate::rollout::{Effect, EventKind, HostOutcome};

/// A host gets one request and its retries, and is asked for its state only while it is in flight.
pub(super) fn once(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        // Rollback requests have invariants of their own.
        Entry::Did(Effect::Send(dispatch) | Effect::AskState(dispatch)) if dispatch.request.returns.is_some() => true,
        Entry::Did(Effect::Send(dispatch)) => ledger.addressee(dispatch).is_some_and(|seen| {
            let retries = limits_of(ledger, seen).retries as usize;
            let is_foreign_id = ledger.hosts.iter().filter(|other| other.host.hostname != seen.host.hostname);
            let mut is_foreign_id = is_foreign_id.flat_map(|other| &other.sent);
            seen.outcome.is_none()
                && seen.sent.len() <= retries
                && is_foreign_id.all(|(_, id)| Some(id) != dispatch.request.id.as_ref())
        }),
        Entry::Did(Effect::AskState(dispatch)) => ledger.addressee(dispatch).is_some_and(|seen| {
            let same_id = dispatch.request.id.as_ref().is_some_and(|id| seen.last_sent(id));
            // After a crash there is no other way to ask a host in flight, even if it takes that for a new request.
            let has_to_be = dispatch.request.id.as_ref().is_some_and(|id| ledger.to_be_asked.contains(id));
            seen.is_open() && (seen.supports_ids || has_to_be) && same_id
        }),
        _ => true,
    }
}

/// Only silent and busy hosts get another request: a silent one under the same id, a busy one under a new id.
pub(super) fn retries(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    let Some(dispatch) = deployment(entry) else {
        return true;
    };
    ledger.addressee(dispatch).is_some_and(|seen| {
        let Some(since) = seen.waiting_since else {
            return seen.sent.is_empty();
        };
        let is_new_id = dispatch.request.id.as_ref().is_some_and(|id| !seen.last_sent(id));
        let delayed = since + limits_of(ledger, seen).retry_delay <= at;
        delayed && seen.said.first().map_or(!is_new_id, |response| is_busy(response) && is_new_id)
    })
}

/// A host that may run a request is asked under no other id, and never again under one that it rejected or failed.
pub(super) fn same_id(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let asked = match entry {
        // The record comes before its request, and changes which request the host may run.
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::Dispatched { host, request, .. } => Some((ledger.host(host), request)),
            _ => return true,
        },
        Entry::Did(Effect::AskState(dispatch)) if dispatch.request.returns.is_none() => {
            ledger.addressee(dispatch).zip(dispatch.request.id.as_ref())
        }
        _ => return true,
    };
    let Some((seen, id)) = asked else {
        return false;
    };
    seen.may_run.as_ref().is_none_or(|known| known == id) && !seen.ended.contains(id) && !seen.fetches.contains(id)
}

/// An outcome never changes, no event of the host follows it, and before it the host's state only moves forward.
pub(super) fn one_final(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let Entry::Did(Effect::Report(event)) = entry else {
        return true;
    };
    match &event.kind {
        EventKind::Accepted { host } => {
            let seen = ledger.host(host);
            seen.outcome.is_none() && seen.said.iter().all(|response| response.status == Status::Accepted)
        }
        EventKind::Final { host, .. }
        | EventKind::Started { host, .. }
        | EventKind::Retrying { host, .. }
        | EventKind::Dispatched { host, .. } => ledger.host(host).outcome.is_none(),
        _ => true,
    }
}

/// A host is completed, failed or rejected only by the first final response to its last request, and at once.
pub(super) fn finals_are_what_hosts_said(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::Final { host, outcome, response } => {
                let first_final = ledger.host(host).first_final();
                let said = first_final.and_then(|response| outcome_of(response.status));
                let is_answer = !matches!(outcome, HostOutcome::Unreachable | HostOutcome::TimedOut);
                let is_skipped = matches!(outcome, HostOutcome::Skipped(_));
                let seen = ledger.host(host);
                if *outcome == HostOutcome::Current {
                    return ledger.knows_current && seen.host.is_current && seen.sent.is_empty() && response.is_none();
                }
                is_skipped
                    || (response.as_deref() == first_final && is_answer == first_final.is_some())
                        && (!is_answer || said == Some(*outcome))
            }
            _ => true,
        },
        Entry::Told(_) | Entry::Woken => ledger
            .hosts
            .iter()
            .filter(|seen| seen.is_in_flight())
            .all(|seen| seen.first_final().is_none_or(|response| is_busy(response) && seen.waiting_since.is_some())),
        Entry::Did(_) | Entry::Restarted => true,
    }
}

fn outcome_of(status: Status) -> Option<HostOutcome> {
    match status {
        Status::Completed => Some(HostOutcome::Completed),
        Status::Failed => Some(HostOutcome::Failed),
        Status::Rejected => Some(HostOutcome::Rejected),
        Status::Accepted | Status::Started => None,
    }
}

/// A host is unreachable if it never responded, and timed out if it did, neither too soon nor too late.
pub(super) fn silence(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    let given_up_rightly = match given_up(ledger, entry) {
        Some((seen, HostOutcome::Unreachable)) => {
            let waited = seen.heard_since + limits_of(ledger, seen).accept_timeout <= at;
            let had_time = |rolled_at| rolled_at + limits_of(ledger, seen).accept_timeout <= at;
            let is_first = ledger.begun_at == Duration::ZERO && seen.wave == 0;
            let was_called = ledger.rolled_at.map_or(is_first, had_time);
            let is_known_to_be_silent = is_not_asked(ledger, seen) && seen.sent.is_empty() && was_called;
            seen.said.is_empty() && (waited || seen.nobody || seen.waiting_since.is_some() || is_known_to_be_silent)
        }
        Some((seen, HostOutcome::TimedOut)) => {
            let timeout = finish_timeout(limits_of(ledger, seen));
            let bus_was_lost = ledger.down_since.is_some_and(|since| since + timeout <= at);
            bus_was_lost || (!seen.said.is_empty() && seen.last_sent_at() + seen.unheard_for + timeout <= at)
        }
        _ => true,
    };
    let is_input = matches!(entry, Entry::Told(_) | Entry::Woken);
    let waits_for_ever = |seen: &&ObservedHost| {
        let limits = limits_of(ledger, seen);
        let silent = seen.said.is_empty() && (seen.nobody || seen.last_sent_at() + limits.accept_timeout < at);
        // For a host that responded while it waited for a retry, the time counts from that response.
        let late = seen.last_sent_at() + limits.accept_timeout + limits.retry_delay + finish_timeout(limits) < at;
        silent || late
    };
    let in_time = || !ledger.hosts.iter().filter(|seen| seen.is_open()).any(|seen| waits_for_ever(&seen));
    given_up_rightly && (!is_input || ledger.was_disturbed || in_time())
}

/// Returns the host that is given up now, for good or until a retry.
fn given_up<'a, 'b>(ledger: &'b Ledger<'a>, entry: &Entry) -> Option<(&'b ObservedHost<'a>, HostOutcome)> {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::Final { host, outcome, .. } | EventKind::Retrying { host, outcome, .. } => {
                Some((ledger.host(host), *outcome))
            }
            _ => None,
        },
        _ => None,
    }
}

/// A host that supports ids is asked again once after each of 1, 3 and 7 s of silence, and one that responded after 75
/// s. After an outage a host whose listener is not back is asked once a second.
pub(super) fn repeats(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    let is_silent = |seen: &ObservedHost| seen.is_open() && seen.supports_ids && seen.said.is_empty();
    let runs_it = |seen: &ObservedHost| seen.is_open() && seen.supports_ids && !seen.said.is_empty();
    let quiet_since = |seen: &ObservedHost| {
        let asked = seen.asked_again.last().copied().unwrap_or(seen.heard_since);
        asked.max(seen.said_at)
    };
    match entry {
        Entry::Did(Effect::AskState(dispatch)) if dispatch.request.returns.is_none() => {
            let has_to_be = dispatch.request.id.as_ref().is_some_and(|id| ledger.to_be_asked.contains(id));
            has_to_be
                || ledger.addressee(dispatch).is_some_and(|seen| {
                    let before = seen.asked_again.last().copied().unwrap_or(seen.heard_since);
                    let is_due = REPEATS.iter().any(|after| seen.heard_since + *after == at);
                    let is_quiet = runs_it(seen) && quiet_since(seen) + QUIET <= at;
                    is_quiet || (is_silent(seen) && before < at && (is_due || before + secs(1) <= at))
                })
        }
        Entry::Told(_) | Entry::Woken
            if ledger.down_since.is_none()
                && ledger.hosts.iter().any(|seen| runs_it(seen) && quiet_since(seen) + QUIET < at) =>
        {
            false
        }
        Entry::Told(_) | Entry::Woken => ledger.hosts.iter().filter(|seen| is_silent(seen)).all(|seen| {
            let accept = limits_of(ledger, seen).accept_timeout;
            let due = REPEATS.iter().filter(|after| **after < accept).map(|after| seen.heard_since + *after);
            ledger.down_since.is_some()
                || due.filter(|due| *due < at).all(|due| seen.asked_again.iter().any(|asked| *asked >= due))
        }),
        Entry::Did(_) | Entry::Restarted => true,
    }
}

/// When a silent host is asked again.
const REPEATS: [Duration; 3] = [secs(1), secs(3), secs(7)];

/// How long a host that responded may be silent until it is asked again.
const QUIET: Duration = secs(75);

/// After a reconnect or lost responses, every host in flight that supports ids is asked for its state.
pub(super) fn outage_asks(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    !matches!(entry, Entry::Told(_) | Entry::Woken) || ledger.to_be_asked.is_empty()
}
