//! Invariants of every rollout, checked at every step. The numbers are those of the design.

use std::collections::BTreeSet;
use std::time::Duration;

use super::commit_invariants::one_commit;
use super::fixture::EPOCH;
use super::host_invariants::{self, finals_are_what_hosts_said, outage_asks, retries, silence};
use super::ledger::{Ledger, ObservedWave};
use super::observed_host::ObservedHost;
use super::roll_call_invariants::{late_hosts_are_named, roll_is_called};
use super::rollback;
use super::sim::{Entry, Log};
use super::staging_invariants::staged;
use super::world::World;
use crate::plan::{Limits, Rollback};
use crate::protocol::{ROLLBACK_WITHIN, Replies, Request};
use crate::rollout::summary::{HostState, WaveState};
use crate::rollout::{
    Confirmation, Dispatch, Effect, EventKind, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason, Summary,
    WaveVerdict,
};

/// Whether an entry may follow what was observed before.
type Invariant = fn(&Ledger, Duration, &Entry) -> bool;

const INVARIANTS: [(&str, Invariant); 34] = [
    ("P1 barrier", barrier),
    ("P2 budget", budget),
    ("P3 bound", bound),
    ("P4 window", window),
    ("P5 once", host_invariants::once),
    ("P5 retries", retries),
    ("P5 repeats", host_invariants::repeats),
    ("P6 frozen", frozen),
    ("P6 one commit", one_commit),
    ("P6 late hosts", late_hosts_are_named),
    ("P6 roll call", roll_is_called),
    ("P7 prefix", prefix),
    ("P8 final", host_invariants::one_final),
    ("P9 truth", finals_are_what_hosts_said),
    ("P9 silence", silence),
    ("P9 oracle", oracle),
    ("P10 total", total),
    ("P11 cause", skip_cause),
    ("P15 write-ahead", write_ahead),
    ("P16 same id", host_invariants::same_id),
    ("P16 one question", one_question),
    ("P18 interrupt", interrupt),
    ("P19 offline", offline),
    ("P19 outage", outage_asks),
    ("P20 outcome", outcome),
    ("P23 confirmation", rollback::confirmation),
    ("P24 who returns", rollback::who_returns),
    ("P24 one way back", rollback::one_rollback),
    ("P24 newest first", rollback::newest_first),
    ("P24 one at a time", rollback::one_at_a_time),
    ("P24 truth", rollback::rollbacks_are_what_hosts_said),
    ("P24 everybody", rollback::all_roll_back),
    ("P26 staged", staged),
    ("P25 no more", rollback::nothing_after_a_failure),
];

/// Returns the names of the broken invariants.
pub(super) fn broken(world: &World, log: &Log) -> Vec<&'static str> {
    let mut ledger = Ledger::new(world);
    let mut summary = Summary::default();
    let mut broken = Vec::new();
    let mut check = |name, holds: bool| {
        if !holds && !broken.contains(&name) {
            broken.push(name);
        }
    };
    for (at, entry) in log {
        for (name, holds) in INVARIANTS {
            check(name, holds(&ledger, *at, entry));
        }
        match entry {
            Entry::Did(Effect::Report(event)) => summary.apply(event),
            Entry::Restarted => summary = recorded(&ledger),
            Entry::Told(_) | Entry::Woken | Entry::Did(_) => check("P17 fold", fold(&ledger, &summary)),
        }
        ledger.note(*at, entry);
    }
    check("P17 fold", fold(&ledger, &summary) && summary == Summary::of(&ledger.events));
    check("P17 record", is_same_in_the_end(&summary, &recorded(&ledger)));
    check("P12 ends", ends_in_time(world, &ledger, log));
    broken
}

/// Returns the state that a crash leaves: that of the journal.
fn recorded(ledger: &Ledger) -> Summary {
    Summary::of(ledger.events.iter().filter(|event| event.kind.is_fact()))
}

/// Whether two states are equal, except for the progress of hosts left in flight, which the journal does not record.
fn is_same_in_the_end(shown: &Summary, recorded: &Summary) -> bool {
    let same_hosts = shown.hosts.iter().zip(&recorded.hosts).all(|(shown, recorded)| {
        let in_flight = shown.state.is_in_flight() && recorded.state.is_in_flight();
        shown == recorded || (in_flight && shown.request == recorded.request)
    });
    let rest = |summary: &Summary| {
        let mut rest = summary.clone();
        rest.hosts.clear();
        rest
    };
    same_hosts && rest(shown) == rest(recorded)
}

/// No host of a wave is sent a request before all earlier waves succeeded, baked and passed their checks.
fn barrier(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    let Some(dispatch) = deployment(entry) else {
        return true;
    };
    let Some(wave) = ledger.addressee(dispatch).map(|seen| seen.wave) else {
        return false;
    };
    let confirmed = match ledger.waves[wave].answered {
        Some((_, answer)) => answer == Confirmation::Yes,
        None => !ledger.waves[wave].wave.limits.confirm,
    };
    confirmed && ledger.waves[..wave].iter().enumerate().all(|(earlier, wave)| is_behind(ledger, earlier, wave, at))
}

fn is_behind(ledger: &Ledger, number: usize, progress: &ObservedWave, now: Duration) -> bool {
    let limits = &progress.wave.limits;
    let mut finals = ledger.hosts_of(number).map(|seen| seen.outcome);
    let is_current = |seen: &ObservedHost| matches!(seen.outcome, Some((_, HostOutcome::Current)));
    let bake_time = if ledger.hosts_of(number).all(is_current) { Duration::ZERO } else { limits.bake_time };
    let all_final_and_baked = finals.all(|outcome| outcome.is_some_and(|(at, _)| at + bake_time <= now));
    let checked = limits.check.is_none() || progress.check == Some(Ok(()));
    all_final_and_baked && checked && progress.verdict == Some(WaveVerdict::Succeeded)
}

/// No request is sent in a wave whose budget is used up.
fn budget(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    sent_to(ledger, entry).is_none_or(|seen| ledger.charged(seen.wave) <= limits_of(ledger, seen).max_failures)
}

fn bound(ledger: &Ledger, _: Duration, _: &Entry) -> bool {
    ledger.waves.iter().enumerate().all(|(number, progress)| {
        let limits = &progress.wave.limits;
        ledger.charged(number) <= limits.max_failures + limits.max_parallel
    })
}

fn window(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    sent_to(ledger, entry).is_none_or(|seen| {
        let others = ledger.hosts_of(seen.wave).filter(|other| other.is_in_flight());
        let others = others.filter(|other| other.host.hostname != seen.host.hostname);
        others.count() < limits_of(ledger, seen).max_parallel
    })
}

/// Every request goes to a host of the plan and carries what the plan says.
fn frozen(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    let Entry::Did(effect @ (Effect::Send(dispatch) | Effect::AskState(dispatch) | Effect::Confirm(dispatch))) = entry
    else {
        return true;
    };
    let Some(seen) = ledger.addressee(dispatch) else {
        return false;
    };
    let wave = &ledger.waves[seen.wave];
    let rolls_back = wave.wave.limits.rollback != Rollback::None;
    let confirm_timeout =
        (rolls_back && dispatch.request.returns.is_none()).then_some(wave.wave.limits.confirm_timeout);
    let rollout = super::fixture::rollout([]);
    let Request { action, reply_to, id, expires_at, rollout: named, wave: wave_name, .. } = &*dispatch.request;
    wave.started_at.is_some()
        && wave.verdict.is_none() == dispatch.request.returns.is_none()
        && (seen.supports_rollback || !rolls_back)
        && (seen.supports_system || seen.host.system.is_none())
        && dispatch.request.system == seen.host.system.clone().filter(|_| dispatch.request.returns.is_none())
        && dispatch.request.confirm_timeout_s == confirm_timeout.map(|timeout| timeout.as_secs())
        && dispatch.request.confirmed == matches!(effect, Effect::Confirm(_))
        && *action == wave.wave.action
        && id
            .as_ref()
            .is_some_and(|id| *reply_to == Replies::of(rollout.id).to(seen.host.tier, &seen.host.hostname, id))
        && expires_at.is_some_and(|expires_at| expires_at > EPOCH + at)
        && named.as_deref() == Some("sunday")
        && wave_name.as_ref() == Some(&wave.wave.name)
}

/// The hosts of a wave are sent requests in the order of the preview, and none is left out.
fn prefix(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    sent_to(ledger, entry).is_none_or(|seen| {
        let mut before = ledger.hosts_of(seen.wave).take_while(|other| other.host.hostname != seen.host.hostname);
        // A host in flight at a crash may be asked again before earlier hosts that failed get a new request.
        let is_retry = !seen.sent.is_empty();
        is_retry || before.all(|other| !other.sent.is_empty() || other.outcome.is_some())
    })
}

/// The verdict on a wave follows from the outcomes of its hosts, the check and the answers of the operator.
fn oracle(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let Entry::Did(Effect::Report(event)) = entry else {
        return true;
    };
    let EventKind::WaveEnded { wave, verdict } = &event.kind else {
        return true;
    };
    *verdict == expected_verdict(ledger, wave.0)
}

fn expected_verdict(ledger: &Ledger, number: usize) -> WaveVerdict {
    let progress = &ledger.waves[number];
    let outcomes = || ledger.hosts_of(number).filter_map(|seen| seen.outcome.map(|(_, outcome)| outcome));
    let Limits { max_failures, min_hosts, .. } = progress.wave.limits;
    let failures = ledger.charged(number);
    let is_good = |outcome: &HostOutcome| matches!(outcome, HostOutcome::Completed | HostOutcome::Current);
    let completed = outcomes().filter(is_good).count();
    let declined = progress.answered.is_some_and(|(_, answer)| answer != Confirmation::Yes);
    let skipped = |cause| outcomes().any(|outcome| outcome == HostOutcome::Skipped(cause));
    let is_under_way = progress.asked_at.is_some() || progress.started_at.is_some();

    if !is_under_way || declined {
        WaveVerdict::Skipped
    } else if progress.started_at.is_none() || ledger.interrupt == Some(Interrupt::Abort) {
        WaveVerdict::Interrupted
    } else if failures > max_failures {
        WaveVerdict::Failed(FailureReason::TooManyFailures { failures, max_failures })
    } else if skipped(SkipReason::Disconnected) {
        WaveVerdict::Failed(FailureReason::Disconnected)
    } else if skipped(SkipReason::Interrupt) {
        WaveVerdict::Interrupted
    } else if completed < min_hosts {
        WaveVerdict::Failed(FailureReason::TooFewCompleted { completed, min_hosts })
    } else if let Some(Err(reason)) = &progress.check {
        WaveVerdict::Failed(FailureReason::CheckFailed { reason: reason.clone() })
    } else if ledger.interrupt.is_some()
        && progress.check.is_none()
        && (progress.is_baking || progress.wave.limits.check.is_some())
    {
        WaveVerdict::Interrupted
    } else {
        WaveVerdict::Succeeded
    }
}

/// At the end every host has an outcome, except hosts in flight when the operator aborted.
fn total(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let aborted = ledger.interrupt == Some(Interrupt::Abort);
    let is_settled = |seen: &ObservedHost| seen.outcome.is_some() || (aborted && !seen.sent.is_empty());
    let all_waves = || ledger.waves.iter().all(|progress| progress.verdict.is_some());
    ended(entry).is_none() || (all_waves() && ledger.hosts.iter().all(is_settled))
}

/// A host is skipped only for a reason that is true.
fn skip_cause(ledger: &Ledger, at: Duration, entry: &Entry) -> bool {
    let Some((seen, HostOutcome::Skipped(cause))) = settled(ledger, entry) else {
        return true;
    };
    let progress = &ledger.waves[seen.wave];
    let failed = |progress: &ObservedWave| matches!(progress.verdict, Some(WaveVerdict::Failed(_)));
    let is_true = match cause {
        SkipReason::WaveHalted => ledger.charged(seen.wave) > progress.wave.limits.max_failures,
        SkipReason::EarlierWave => ledger.waves[..seen.wave].iter().any(failed),
        SkipReason::Interrupt => ledger.interrupt.is_some(),
        SkipReason::NotConfirmed => {
            ledger.waves.iter().any(|progress| progress.answered.is_some_and(|(_, answer)| answer != Confirmation::Yes))
        }
        SkipReason::Disconnected => {
            ledger.down_since.is_some_and(|since| since + finish_timeout(&progress.wave.limits) <= at)
        }
    };
    is_true && seen.sent.is_empty()
}

/// Each request directly follows its record, and each record is followed by its request or by a crash.
fn write_ahead(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Send(Dispatch { request, .. })) => {
            let recorded = match &ledger.last {
                Some(Effect::Report(event)) => {
                    matches!(event.kind, EventKind::Dispatched { .. } | EventKind::RollingBack { .. })
                }
                _ => false,
            };
            recorded && ledger.announced == request.id
        }
        Entry::Restarted => true,
        _ => ledger.announced.is_none(),
    }
}

/// A wave that was confirmed and begun needs no second confirmation.
fn one_question(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let Entry::Did(Effect::Ask(wave)) = entry else {
        return true;
    };
    let progress = &ledger.waves[wave.0];
    progress.started_at.is_none() && progress.asked_at.is_none() && progress.wave.limits.confirm
}

/// Nothing new begins after the first interrupt, in this wave or any later one.
fn interrupt(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let begins = matches!(entry, Entry::Did(Effect::Send(_) | Effect::Ask(_) | Effect::RunCheck(_)));
    ledger.interrupt.is_none() || !begins
}

/// Nothing is published while the bus is down: the client would send it minutes later.
fn offline(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let publishes =
        matches!(entry, Entry::Did(Effect::Send(_) | Effect::AskState(_) | Effect::Confirm(_) | Effect::CallRoll));
    ledger.down_since.is_none() || !publishes
}

/// The rollout succeeded if every wave did; else there is a reason. After the end it can only be resumed.
fn outcome(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let verdict =
        |wanted: fn(&WaveVerdict) -> bool| ledger.waves.iter().any(|c| c.verdict.as_ref().is_some_and(wanted));
    let answered =
        |wanted| ledger.waves.iter().any(|progress| progress.answered.is_some_and(|(_, answer)| answer == wanted));
    let succeeded = !verdict(|verdict| *verdict != WaveVerdict::Succeeded);
    let is_true = match ended(entry) {
        None => true,
        Some(Outcome::Succeeded) => succeeded,
        Some(Outcome::Failed) => verdict(|verdict| matches!(verdict, WaveVerdict::Failed(_))),
        Some(Outcome::Interrupted) => ledger.interrupt.is_some() && !succeeded,
        Some(Outcome::Declined) => answered(Confirmation::No),
        Some(Outcome::Paused) => answered(Confirmation::Unavailable),
    };
    is_true && (ledger.outcome.is_none() || matches!(entry, Entry::Restarted))
}

/// The summary, a fold of the events alone, agrees with the ledger, which observes both sides.
fn fold(ledger: &Ledger, summary: &Summary) -> bool {
    if ledger.events.is_empty() {
        return true;
    }
    let hosts = ledger.hosts.iter().zip(&summary.hosts).all(|(seen, view)| {
        let state = match (view.state, seen.outcome) {
            (HostState::Pending, None) => seen.sent.is_empty(),
            (HostState::Waiting(_), None) => seen.waiting_since.is_some(),
            (HostState::Dispatched, None) => seen.is_in_flight() && seen.said.is_empty(),
            (HostState::Accepted | HostState::Started(_), None) => seen.is_in_flight() && !seen.said.is_empty(),
            (HostState::Final(shown), Some((_, outcome))) => shown == outcome,
            (_, _) => false,
        };
        // A request is recorded before it is sent, so the summary may be one ahead.
        let ahead = usize::from(ledger.announced.is_some() && view.request == ledger.announced);
        let rollback = view.rollback.as_ref().map(|rollback| (&rollback.request, rollback.outcome));
        let same_rollback = rollback == seen.rollback.as_ref().map(|rollback| (&rollback.request, rollback.outcome));
        (state || ahead == 1)
            && same_rollback
            && seen.sent.len() + ahead == view.attempts as usize
            && seen.host.hostname == view.name
    });
    let waves = ledger.waves.iter().zip(&summary.waves).all(|(progress, view)| match &view.state {
        WaveState::Ended(verdict) => progress.verdict.as_ref() == Some(verdict),
        _ => progress.verdict.is_none(),
    });
    let sizes = summary.hosts.len() == ledger.hosts.len() && summary.waves.len() == ledger.waves.len();
    hosts
        && waves
        && sizes
        && sums(ledger, summary)
        && summary.outcome == ledger.outcome
        && summary.interrupt <= ledger.interrupt
        && summary.rollout.as_ref().map(|rollout| &rollout.revision) == Some(ledger.revision)
        && summary.late_hosts.keys().eq(BTreeSet::from_iter(&ledger.named))
}

/// The counts of the recap agree with the outcomes, and add up to all hosts.
fn sums(ledger: &Ledger, summary: &Summary) -> bool {
    let counts = summary.counts();
    let count = |wanted: fn(&HostOutcome) -> bool| {
        ledger.hosts.iter().filter_map(|seen| seen.outcome).filter(|(_, outcome)| wanted(outcome)).count()
    };
    counts.total == ledger.hosts.len()
        && counts.completed + counts.rolled_back == count(|outcome| *outcome == HostOutcome::Completed)
        && counts.rolled_back == ledger.hosts.iter().filter(|seen| has_rolled_back(seen)).count()
        && counts.current == count(|outcome| *outcome == HostOutcome::Current)
        && counts.failed == count(|outcome| *outcome == HostOutcome::Failed)
        && counts.rejected == count(|outcome| *outcome == HostOutcome::Rejected)
        && counts.unreachable == count(|outcome| *outcome == HostOutcome::Unreachable)
        && counts.timed_out == count(|outcome| *outcome == HostOutcome::TimedOut)
        && counts.skipped == count(|outcome| matches!(outcome, HostOutcome::Skipped(_)))
}

/// A rollout ends within the bound that its preview shows, plus the time in which the operator thinks.
fn ends_in_time(world: &World, ledger: &Ledger, log: &Log) -> bool {
    let waves = ledger.waves.iter();
    let thought: Duration =
        waves.filter_map(|progress| Some(progress.answered?.0.saturating_sub(progress.asked_at?))).sum();
    let asked_in_vain = ledger.waves.iter().any(|progress| progress.asked_at.is_some() && progress.answered.is_none());
    let ended_at = log.last().map_or(Duration::ZERO, |(at, _)| *at);
    let bound = ledger.begun_at + world.rollout().plan.longest() + thought;
    !world.connection.is_empty() || asked_in_vain || ended_at <= bound
}

// -- what the entries are about

fn sent_to<'a, 'b>(ledger: &'b Ledger<'a>, entry: &Entry) -> Option<&'b ObservedHost<'a>> {
    deployment(entry).and_then(|dispatch| ledger.addressee(dispatch))
}

/// Returns the deployment request that is sent now, if any.
pub(super) fn deployment(entry: &Entry) -> Option<&Dispatch> {
    match entry {
        Entry::Did(Effect::Send(dispatch)) => Some(dispatch).filter(|dispatch| dispatch.request.returns.is_none()),
        _ => None,
    }
}

/// Whether a host may be sent nothing, since it may not support rollback or would build a system of its own.
pub(super) fn is_not_asked(ledger: &Ledger, seen: &ObservedHost) -> bool {
    let may_stay = limits_of(ledger, seen).rollback != Rollback::None && !seen.supports_rollback;
    may_stay || (seen.host.system.is_some() && !seen.supports_system)
}

fn has_rolled_back(seen: &ObservedHost) -> bool {
    seen.rollback.as_ref().is_some_and(|rollback| rollback.outcome == Some(HostOutcome::Completed))
}

/// Returns how long a host may take, including confirmation and rollback.
pub(super) fn finish_timeout(limits: &Limits) -> Duration {
    match limits.rollback {
        Rollback::None => limits.timeout,
        Rollback::Auto | Rollback::Wave => limits.timeout + limits.confirm_timeout + ROLLBACK_WITHIN,
    }
}

/// Returns the host that becomes final now, and its outcome.
fn settled<'a, 'b>(ledger: &'b Ledger<'a>, entry: &Entry) -> Option<(&'b ObservedHost<'a>, HostOutcome)> {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::Final { host, outcome, .. } => Some((ledger.host(host), *outcome)),
            _ => None,
        },
        _ => None,
    }
}

fn ended(entry: &Entry) -> Option<Outcome> {
    match entry {
        Entry::Did(Effect::Report(event)) => match event.kind {
            EventKind::Ended { outcome } => Some(outcome),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn limits_of<'a>(ledger: &Ledger<'a>, seen: &ObservedHost) -> &'a Limits {
    &ledger.waves[seen.wave].wave.limits
}
