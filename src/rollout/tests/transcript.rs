//! Formats a log: inputs follow `<`, and effects have no mark.

use std::fmt::Write as _;
use std::time::Duration;

use super::fixture::EPOCH;
use super::sim::{Entry, Log};
use crate::protocol::{Phase, RequestId, Response, Tier};
use crate::rollout::{Dispatch, Effect, EventKind, FailureReason, HostOutcome, Input, UnexpectedResponse, WaveVerdict};

/// Numbers requests in the order in which they appear: `r1`, `r2` and so on.
#[derive(Default)]
struct Names(Vec<RequestId>);

impl Names {
    fn of(&mut self, request: &RequestId) -> String {
        let known = self.0.iter().position(|known| known == request);
        let index = known.unwrap_or_else(|| {
            self.0.push(request.clone());
            self.0.len() - 1
        });
        format!("r{}", index + 1)
    }
}

/// Formats one line for each entry.
pub(super) fn transcript(log: &Log) -> String {
    let mut names = Names::default();
    let mut text = String::new();
    for (at, entry) in log {
        let line = match entry {
            Entry::Told(input) => format!("      < {}", told(input, &mut names)),
            Entry::Woken => "      < deadline".to_owned(),
            Entry::Restarted => "      < the operator's machine died and is back".to_owned(),
            Entry::Did(effect) => did(effect, &mut names),
        };
        writeln!(text, "{:>6} {line}", seconds(*at)).unwrap();
    }
    text
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn told(input: &Input, names: &mut Names) -> String {
    match input {
        Input::Response { from, request, response } => {
            let origin = if from.host == response.hostname && from.tier == Tier::Prod {
                String::new()
            } else {
                format!(", on the subject of {}.{}", from.tier, from.host)
            };
            format!("{}: {}{origin}", names.of(request), answer(response))
        }
        Input::OldResponse(response) => format!("in the old form: {}", answer(response)),
        Input::NoResponders { request } => format!("{}: 503, nobody is there", names.of(request)),
        Input::ResponsesLost => "answers were lost".to_owned(),
        Input::Connection(connection) => format!("connection {connection:?}"),
        Input::Confirmation(answer) => format!("the operator says {answer:?}"),
        Input::CheckDone(result) => format!("the check says {result:?}"),
        Input::Discovered(report) => format!("{} is there", report.hostname),
        Input::Interrupt(how) => format!("interrupt: {how:?}"),
    }
}

fn answer(response: &Response) -> String {
    let phase = response.phase.filter(|phase| *phase == Phase::Confirm).map(|_| "to be confirmed".to_owned());
    let rolled_back = response.rolled_back.map(|back| if back { "rolled back" } else { "not rolled back" }.to_owned());
    let said = [Some(response.hostname.to_string()), Some(response.status.to_string())];
    let more = [response.error.as_ref().map(ToString::to_string), phase, rolled_back];
    said.into_iter().chain(more).flatten().collect::<Vec<_>>().join(" ")
}

fn did(effect: &Effect, names: &mut Names) -> String {
    match effect {
        Effect::Report(event) => reported(&event.kind, names),
        Effect::Send(dispatch) => format!("-> {}", published(dispatch, names)),
        Effect::AskState(dispatch) => format!("-> {} again, for its state", published(dispatch, names)),
        Effect::Confirm(dispatch) => format!("-> {} again, to confirm it", published(dispatch, names)),
        Effect::Ask(wave) => format!("-> ask the operator about wave {wave}"),
        Effect::RunCheck(wave) => format!("-> run the check of wave {wave}"),
        Effect::CallRoll => "-> call the roll".to_owned(),
    }
}

fn published(dispatch: &Dispatch, names: &mut Names) -> String {
    let Dispatch { subject, request } = dispatch;
    let id = names.of(request.id.as_ref().unwrap());
    let expires = request.expires_at.unwrap().duration_since(EPOCH).as_secs();
    let confirm = request.confirm_timeout_s.map(|seconds| format!(", confirmed within {seconds}s"));
    let what = match &request.returns {
        Some(completed) => format!("back from {}", names.of(completed)),
        None => request.action.to_string(),
    };
    format!("{subject}: {id} {what} until {expires}s{}", confirm.unwrap_or_default())
}

fn reported(event: &EventKind, names: &mut Names) -> String {
    match event {
        EventKind::Begun(rollout) => format!("{} begins", rollout.name()),
        EventKind::Resumed => "resumed".to_owned(),
        EventKind::AwaitingConfirmation { wave } => format!("wave {wave} awaits confirmation"),
        EventKind::WaveStarted { wave } => format!("wave {wave} started"),
        EventKind::Dispatched { host, request, attempt } => {
            format!("{host} dispatched: {}, attempt {attempt}", names.of(request))
        }
        EventKind::Accepted { host } => format!("{host} accepted"),
        EventKind::Started { host, phase } => format!("{host} started, {phase:?}"),
        EventKind::Retrying { host, outcome, delay } => format!("{host} {outcome}, retry in {}", seconds(*delay)),
        EventKind::Final { host, outcome: HostOutcome::Skipped(cause), .. } => format!("{host} SKIPPED: {cause:?}"),
        EventKind::Final { host, outcome, .. } => format!("{host} {}", outcome.as_str().to_uppercase()),
        EventKind::RollingBack { host, request } => format!("{host} returning: {}", names.of(request)),
        EventKind::RollbackEnded { host, outcome, .. } => format!("{host} return {}", outcome.as_str().to_uppercase()),
        EventKind::Draining { wave, cause } => format!("wave {wave} draining: {}", because(cause)),
        EventKind::Baking { wave, remaining } => format!("wave {wave} baking for {}", seconds(*remaining)),
        EventKind::Checking { wave } => format!("wave {wave} checking"),
        EventKind::WaveEnded { wave, verdict } => format!("wave {wave} {}", ended(verdict)),
        EventKind::Staged => "all have fetched".to_owned(),
        EventKind::Interrupted { how } => format!("interrupted: {how:?}"),
        EventKind::Connection { state } => format!("connection {state:?}"),
        EventKind::Resolved { host, revision } => format!("{host} found {}", revision.short()),
        EventKind::AnsweredLate { host, wave } => format!("{host} turned up too late for wave {wave}"),
        EventKind::UnexpectedResponse { host, anomaly } => format!("{host} anomaly: {}", odd(anomaly)),
        EventKind::HookFailed { hook, reason } => format!("{hook} failed: {reason}"),
        EventKind::Ended { outcome } => format!("the rollout {outcome:?}"),
    }
}

fn ended(verdict: &WaveVerdict) -> String {
    match verdict {
        WaveVerdict::Failed(cause) => format!("failed: {}", because(cause)),
        WaveVerdict::Succeeded => "succeeded".to_owned(),
        WaveVerdict::Interrupted => "interrupted".to_owned(),
        WaveVerdict::Skipped => "skipped".to_owned(),
    }
}

fn because(cause: &FailureReason) -> String {
    match cause {
        FailureReason::TooManyFailures { failures, max_failures } => format!("{failures} failed, {max_failures} may"),
        FailureReason::TooFewCompleted { completed, min_hosts } => format!("{completed} completed, {min_hosts} must"),
        FailureReason::CheckFailed { reason } => format!("check: {reason}"),
        FailureReason::Unknown => "unknown".to_owned(),
        FailureReason::TwoMachines { host } => format!("{host} is two machines"),
        FailureReason::Disconnected => "disconnected".to_owned(),
    }
}

fn odd(anomaly: &UnexpectedResponse) -> String {
    match anomaly {
        UnexpectedResponse::Late { status } => format!("late {status}"),
        UnexpectedResponse::Conflict { status } => format!("conflicting {status}"),
        UnexpectedResponse::WrongHost { said, tier: None } => format!("{said} answered in its place"),
        UnexpectedResponse::WrongHost { said, tier: Some(tier) } => format!("{said} of {tier} answered in its place"),
        UnexpectedResponse::AnotherRequest => "an answer to another request".to_owned(),
        UnexpectedResponse::TwoMachines => "two machines".to_owned(),
    }
}
