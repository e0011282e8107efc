//! Describes one host of a rollout, identically for the terminal, `--json` and assistants.

use super::wording;
use crate::protocol::{Commit, ErrorCode, Response};
use crate::rollout::summary::{HostProgress, HostState};
use crate::rollout::{HostOutcome, Rollout, SkipReason};

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

pub fn describe<'a>(host: &'a HostProgress, rollout: &Rollout) -> HostFacts<'a> {
    let response = last_response(host);
    let error = match host.state {
        HostState::Final(HostOutcome::Skipped(cause)) => Some(skip_code(cause)),
        HostState::Waiting(_) | HostState::Final(_) => {
            response.and_then(|response| response.error.as_ref()).map(ErrorCode::as_str)
        }
        _ => None,
    };
    let message = match (host.state, response) {
        (HostState::Final(_), Some(response)) => response.message.clone(),
        (HostState::Final(HostOutcome::Completed), None) => String::new(),
        (HostState::Final(outcome), None) => wording::outcome(host, outcome, rollout),
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
fn last_response(host: &HostProgress) -> Option<&Response> {
    match &host.rollback {
        Some(rollback) if rollback.outcome.is_some() => rollback.response.as_deref(),
        Some(_) | None => host.response.as_deref(),
    }
}

const fn skip_code(cause: SkipReason) -> &'static str {
    match cause {
        SkipReason::WaveHalted => "wave_halted",
        SkipReason::EarlierWave => "earlier_wave",
        SkipReason::Interrupt => "interrupt",
        SkipReason::NotConfirmed => "not_confirmed",
        SkipReason::Disconnected => "disconnected",
    }
}

#[cfg(test)]
mod tests {
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
}
