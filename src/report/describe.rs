//! Describes hosts and rollouts, identically for the terminal, `--json`, documents and assistants.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::format::{DisplayDuration, first_line, push_padded, safe, shorten};
use crate::clock;
use crate::plan::ResolvedPlan;
use crate::protocol::{Action, Commit, ErrorCode, HostName, Phase, Response};
use crate::rollout::summary::{Counts, HostProgress, HostRollback, HostState, WaveState};
use crate::rollout::{
    FailureReason, HostOutcome, Outcome, Rollout, SkipReason, Summary, UnexpectedResponse, WaveIndex, WaveVerdict,
};

/// The phrase for a host that rolled back.
const RETURNED: &str = "returned to what ran before";

/// The most names that are listed. More are counted.
const MAX_NAMES: usize = 8;

/// The facts about a host of a rollout. Texts are as the host sent them: a display must make them safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts<'a> {
    pub status: &'static str,
    pub runs_now: Option<Commit>,
    pub ran_before: Option<Commit>,
    /// The error code of the failure, or the reason why the host was skipped.
    pub error: Option<&'a str>,
    /// The message of the host's final response, or a description of its silence.
    pub message: String,
    /// The end of the log of a failed run.
    pub log: &'a [String],
    pub failed_units: &'a [String],
    /// Whether the deployed system takes effect only after a reboot.
    pub reboot_required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Running,
    Over,
}

pub fn describe<'a>(host: &'a HostProgress, rollout: &Rollout) -> HostFacts<'a> {
    let response = last_response(host);
    let error = match host.state {
        HostState::Final(HostOutcome::Skipped(reason)) => Some(reason.as_str()),
        HostState::Waiting(_) | HostState::Final(_) => {
            response.and_then(|response| response.error.as_ref()).map(ErrorCode::as_str)
        }
        _ => None,
    };
    let message = match (host.state, response) {
        (HostState::Final(_), Some(response)) => response.message.clone(),
        (HostState::Final(HostOutcome::Completed), None) => {
            host.rollback.as_ref().map(|rollback| rollback_detail(host, rollback, rollout)).unwrap_or_default()
        }
        (HostState::Final(outcome), None) => final_detail(host, outcome, rollout),
        _ => String::new(),
    };
    HostFacts {
        status: status(host),
        runs_now: host.runs_now(rollout),
        ran_before: host.ran_before(rollout).cloned(),
        error,
        message,
        log: response.map(|response| response.log_tail.as_slice()).unwrap_or_default(),
        failed_units: response.map(|response| response.failed_units.as_slice()).unwrap_or_default(),
        reboot_required: response.is_some_and(|response| response.reboot_required == Some(true)),
    }
}

/// Returns the status of a host as a word. A rollback takes precedence over the deployment.
fn status(host: &HostProgress) -> &'static str {
    match host.rollback.as_ref().map(|rollback| rollback.outcome) {
        Some(None) => return "returning",
        Some(Some(HostOutcome::Completed)) => return "returned",
        Some(Some(_)) => return "could_not_return",
        None => {}
    }
    match host.state {
        HostState::Pending => "pending",
        HostState::Dispatched | HostState::Accepted | HostState::Started(_) => "in_flight",
        HostState::Waiting(_) => "waiting_to_retry",
        HostState::Final(HostOutcome::TimedOut) => "timed_out",
        HostState::Final(outcome) => outcome.as_str(),
    }
}

/// Returns the host's last response: to the rollback once that has ended, else to the deployment.
pub fn last_response(host: &HostProgress) -> Option<&Response> {
    match &host.rollback {
        Some(rollback) if rollback.outcome.is_some() => rollback.response.as_deref(),
        Some(_) | None => host.response.as_deref(),
    }
}

/// Formats a host in columns: its name, its state, the time taken, and a detail.
pub(super) fn host_row(
    name: &str,
    name_width: usize,
    state: &str,
    took: Option<DisplayDuration>,
    detail: &str,
) -> String {
    let took = took.map(|took| took.to_string()).unwrap_or_default();
    let mut row = String::with_capacity(name_width + detail.len() + 32);
    push_padded(&mut row, name, name_width);
    row.push_str("  ");
    push_padded(&mut row, state, 11);
    row.push(' ');
    push_padded(&mut row, &took, 5);
    row.extend(["   ", detail]);
    row.truncate(row.trim_end().len());
    row
}

/// Returns the current state of a host as a word for people, its rollback included.
pub(super) fn state_word(host: &HostProgress) -> &'static str {
    match host.state {
        _ if host.is_rolling_back() || host.has_rolled_back() => status(host),
        // A host that could not roll back did complete, and may still run the new system.
        HostState::Final(outcome) => outcome.as_str(),
        HostState::Pending => "pending",
        HostState::Dispatched => "sent",
        HostState::Accepted => "accepted",
        HostState::Started(phase) => phase.map_or("started", Phase::doing),
        HostState::Waiting(_) => "waiting",
    }
}

/// Describes the current state of a host: what it waits for, what changed, or why it did not complete.
pub(super) fn detail(host: &HostProgress, rollout: &Rollout) -> String {
    match host.state {
        HostState::Pending => String::new(),
        HostState::Waiting(outcome) => format!("{outcome}, to be asked again"),
        HostState::Dispatched | HostState::Accepted | HostState::Started(_) => {
            timeout(host, rollout).map(|timeout| format!("of {timeout}")).unwrap_or_default()
        }
        HostState::Final(outcome) => match &host.rollback {
            Some(rollback) => rollback_detail(host, rollback, rollout),
            None => final_detail(host, outcome, rollout),
        },
    }
}

fn rollback_detail(host: &HostProgress, rollback: &HostRollback, rollout: &Rollout) -> String {
    match rollback.outcome {
        None => "its wave has failed".to_owned(),
        Some(HostOutcome::Completed) => returned_to(host, rollout),
        Some(outcome) => {
            let reason = rollback.response.as_deref().and_then(reason);
            format!("could NOT return: {}", reason.unwrap_or_else(|| outcome.to_string()))
        }
    }
}

fn returned_to(host: &HostProgress, rollout: &Rollout) -> String {
    let before = host.ran_before(rollout).map(|commit| format!(" ({})", commit.short()));
    format!("{RETURNED}{}", before.unwrap_or_default())
}

/// Describes whether a failed host rolled back by itself, if its response says so.
fn rolled_back(host: &HostProgress, rollout: &Rollout) -> Option<String> {
    let returned = host.response.as_deref()?.rolled_back?;
    Some(if returned { returned_to(host, rollout) } else { "could NOT return to what ran before".to_owned() })
}

fn final_detail(host: &HostProgress, outcome: HostOutcome, rollout: &Rollout) -> String {
    match outcome {
        HostOutcome::Completed => change(host, rollout),
        HostOutcome::Current => "it was not asked: it runs and boots this already".to_owned(),
        HostOutcome::Failed | HostOutcome::Rejected => {
            let reason = host.response.as_deref().and_then(reason);
            // The message of the listener may already say so.
            let is_said = reason.as_deref().is_some_and(|reason| reason.contains(RETURNED));
            let returned = rolled_back(host, rollout).filter(|_| !is_said);
            reason.into_iter().chain(returned).collect::<Vec<_>>().join("; ")
        }
        HostOutcome::Unreachable if host.request.is_none() => {
            "it was not asked: it did not answer the roll call".to_owned()
        }
        HostOutcome::Unreachable if host.used_ids > 0 => "it answered before, and fell silent".to_owned(),
        HostOutcome::Unreachable => "it never answered".to_owned(),
        HostOutcome::TimedOut => match timeout(host, rollout) {
            Some(timeout) => format!("it did not end within {timeout}"),
            None => "it did not end in time".to_owned(),
        },
        HostOutcome::Skipped(reason) => skip_reason(reason).to_owned(),
    }
}

/// Returns the time limit for a host of the wave.
fn timeout(host: &HostProgress, rollout: &Rollout) -> Option<DisplayDuration> {
    rollout.plan.waves.get(host.wave.0).map(|wave| DisplayDuration(wave.limits.finish_timeout()))
}

/// Describes what changed on a completed host.
fn change(host: &HostProgress, rollout: &Rollout) -> String {
    let response = host.response.as_deref();
    let action = rollout.plan.waves.get(host.wave.0).map(|wave| wave.action);
    let after = response.and_then(|response| response.revision.clone()).or_else(|| rollout.revision.commit());
    let change =
        host.ran_before(rollout).zip(after).filter(|_| !matches!(action, Some(Action::DryActivate | Action::Fetch)));
    let mut said = Vec::new();
    said.extend(change.as_ref().map(|(before, after)| {
        if *before == after {
            format!("was on {} already", before.short())
        } else {
            format!("{} -> {}", before.short(), after.short())
        }
    }));
    if change.is_none() || is_deployment(rollout) {
        said.extend(response.map(|response| first_line(&response.message)).filter(|message| !message.is_empty()));
    }
    if response.is_some_and(|response| response.reboot_required == Some(true)) {
        said.push("reboot required".to_owned());
    }
    said.join("   ")
}

/// Describes which commit a host that did not complete is known to run now, or else ran before.
pub(super) fn left_on(host: &HostProgress, rollout: &Rollout) -> Option<String> {
    if rolled_back(host, rollout).is_some() {
        return None;
    }
    let word = if host.runs_now(rollout).is_some() { "still" } else { "was" };
    host.ran_before(rollout).map(|commit| format!("({word} on {})", commit.short()))
}

/// Formats why a host failed or rejected, if it says. The state column says "failed" already, so `build_failed` becomes
/// `build`.
fn reason(response: &Response) -> Option<String> {
    let code = response.error.as_ref().map(|error| match error {
        ErrorCode::Other(code) => shorten(&safe(code), 40),
        known => known.as_str().trim_end_matches("_failed").replace('_', " "),
    });
    let message = Some(message(response, &clock::zone())).filter(|message| !message.is_empty());
    let reason = code.into_iter().chain(message).collect::<Vec<_>>().join(": ");
    Some(reason).filter(|reason| !reason.is_empty())
}

/// Returns the message of a host. The time since which it is busy is in this zone, as the host writes it in UTC.
pub(super) fn message(response: &Response, zone: &TimeZone) -> String {
    let Some(holder) = &response.holder else { return first_line(&response.message) };
    let by = holder.operator.as_deref().map(|operator| format!(" of {}", first_line(operator)));
    let since = clock::local(holder.since, zone);
    format!("busy with {}{} since {since}", first_line(&holder.id), by.unwrap_or_default())
}

pub(super) const fn skip_reason(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::WaveHalted => "wave halted",
        SkipReason::EarlierWave => "an earlier wave did not succeed",
        SkipReason::Interrupt => "interrupted",
        SkipReason::NotConfirmed => "not confirmed",
        SkipReason::Disconnected => "no connection",
    }
}

pub(super) fn unexpected_response(host: &HostName, response: &UnexpectedResponse, summary: &Summary) -> String {
    let name = host.as_str();
    let view = summary.host(host);
    let rollback = view.and_then(|view| view.rollback.as_ref()?.outcome);
    let counted = match (rollback, view.map(|view| view.state)) {
        // Only a rollback that was given up can have a late response.
        (Some(outcome @ (HostOutcome::Unreachable | HostOutcome::TimedOut)), _) => {
            format!("; its rollback counts as {outcome}")
        }
        (_, Some(HostState::Final(outcome))) => format!("; it counts as {outcome}"),
        _ => String::new(),
    };
    match response {
        UnexpectedResponse::Late { status } => format!("{name} said '{status}' too late{counted}"),
        UnexpectedResponse::Conflict { status } => format!("{name} said '{status}' after its final word{counted}"),
        UnexpectedResponse::WrongHost { said, tier } => {
            let tier = tier.map(|tier| format!(" of {tier}")).unwrap_or_default();
            format!("{said}{tier} answered for {name}; that does not count")
        }
        UnexpectedResponse::AnotherRequest => format!("{name} answered about another request; that does not count"),
        UnexpectedResponse::TwoMachines => {
            format!("two machines answer to the name {name}: stop one listener, or rename it")
        }
    }
}

/// Whether a host was asked and is not final, or is rolling back.
pub fn is_active(host: &HostProgress) -> bool {
    !matches!(host.state, HostState::Pending | HostState::Final(_)) || host.is_rolling_back()
}

/// Formats the hosts that the operator waits for.
pub(super) fn awaited(summary: &Summary) -> String {
    let hosts: Vec<&str> = summary.hosts.iter().filter(|host| is_active(host)).map(|host| host.name.as_str()).collect();
    if hosts.is_empty() { "nothing is in flight".to_owned() } else { format!("waiting for {}", names(&hosts)) }
}

/// Formats the first names and the number of the others.
pub(super) fn names<T: Borrow<str>>(names: &[T]) -> String {
    match names.split_at_checked(MAX_NAMES) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(" "), more.len()),
        Some(_) | None => names.join(" "),
    }
}

/// Formats the number of hosts of each kind, leaving out kinds without hosts.
pub(super) fn counts(counts: &Counts) -> String {
    of_kinds([
        (counts.completed, "completed"),
        (counts.current, "current"),
        (counts.rolled_back, RETURNED),
        (counts.failed, "failed"),
        (counts.rejected, "rejected"),
        (counts.unreachable, "unreachable"),
        (counts.timed_out, "timed out"),
        (counts.skipped, "skipped"),
        (counts.in_flight, "in flight"),
        (counts.pending, "not asked"),
    ])
}

pub(super) fn of_kinds(kinds: impl IntoIterator<Item = (usize, &'static str)>) -> String {
    let said = kinds.into_iter().filter(|(number, _)| *number > 0).map(|(number, kind)| format!("{number} {kind}"));
    said.collect::<Vec<_>>().join(", ")
}

/// Returns a sentence for each day, in this zone, on which hosts that are missing now were last seen.
pub fn missed(hosts: &BTreeMap<HostName, Timestamp>, zone: &TimeZone) -> Vec<String> {
    let mut by_day: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (host, at) in hosts {
        by_day.entry(at.to_zoned(zone.clone()).strftime("%Y-%m-%d").to_string()).or_default().push(host.as_str());
    }
    let sentence = |(day, hosts): (String, Vec<&str>)| {
        let (was, does) = if hosts.len() == 1 { ("was", "does") } else { ("were", "do") };
        format!("{} {was} there on {day} and {does} not answer now", names(&hosts))
    };
    by_day.into_iter().map(sentence).collect()
}

// -- rollouts

pub fn outcome(summary: &Summary, liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Running => "running",
        Liveness::Over => summary.outcome.map_or("cut_off", Outcome::as_str),
    }
}

/// Whether the rollout is a deployment without a plan file. Its single wave is not worth mentioning.
pub(super) fn is_deployment(rollout: &Rollout) -> bool {
    rollout.source.is_none() && rollout.plan.waves.len() <= 1
}

/// Formats what is deployed: `main -> 8c1f0e2`, or the commit alone or the unresolved revision alone.
pub(super) fn revision(rollout: &Rollout) -> String {
    match (rollout.asked.commit(), rollout.revision.commit()) {
        (None, Some(commit)) => format!("{} -> {}", rollout.asked, commit.short()),
        (_, Some(commit)) => commit.short().to_owned(),
        (_, None) => rollout.revision.to_string(),
    }
}

pub const fn wave_status(state: &WaveState) -> &'static str {
    match state {
        WaveState::Pending => "pending",
        WaveState::AwaitingConfirmation => "awaiting_confirmation",
        WaveState::Running => "running",
        WaveState::Draining => "draining",
        WaveState::Baking => "baking",
        WaveState::Checking => "checking",
        WaveState::Ended(WaveVerdict::Succeeded) => "succeeded",
        WaveState::Ended(WaveVerdict::Failed(_)) => "failed",
        WaveState::Ended(WaveVerdict::Interrupted) => "interrupted",
        WaveState::Ended(WaveVerdict::Skipped) => "not_started",
    }
}

pub fn failure_reason(reason: &FailureReason) -> String {
    match reason {
        FailureReason::TooManyFailures { failures, max_failures } => {
            format!("{failures} failed, {max_failures} may fail")
        }
        FailureReason::TooFewCompleted { completed, min_hosts } => {
            format!("{completed} completed, at least {min_hosts} must")
        }
        FailureReason::CheckFailed { reason } => format!("its check says: {}", first_line(reason)),
        FailureReason::Unknown => "a cause that this version does not know".to_owned(),
        FailureReason::TwoMachines { host } => format!("two machines answer to the name {host}"),
        FailureReason::Disconnected => "no connection for longer than a host may take".to_owned(),
    }
}

pub(super) fn took(summary: &Summary) -> Option<DisplayDuration> {
    summary.began_at.zip(summary.ended_at).map(|(began_at, ended_at)| DisplayDuration::between(began_at, ended_at))
}

/// Returns the bake time of a wave, if it has one.
pub(super) fn bake(plan: &ResolvedPlan, wave: WaveIndex) -> Option<DisplayDuration> {
    Some(plan.bake_time(wave.0)).filter(|time| !time.is_zero()).map(DisplayDuration)
}

#[cfg(test)]
mod tests;
