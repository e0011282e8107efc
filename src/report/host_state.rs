//! What became of a host, and what it runs.

use crate::protocol::{Action, Commit, ErrorCode};
use crate::rollout::summary::{HostState, HostView};
use crate::rollout::{HostOutcome, Rollout};

/// What became of a host, its rollback included.
pub(super) fn status(host: &HostView) -> &'static str {
    match host.returning.as_ref().map(|rollback| rollback.outcome) {
        Some(None) => return "returning",
        Some(Some(HostOutcome::Completed)) => return "returned",
        Some(Some(_)) => return "could_not_return",
        None => {}
    }
    match host.state {
        HostState::Pending => "pending",
        HostState::Dispatched | HostState::Accepted | HostState::Started(_) => "in_flight",
        HostState::Waiting(_) => "waiting_to_retry",
        HostState::Final(HostOutcome::Completed) => "completed",
        HostState::Final(HostOutcome::Current) => "current",
        HostState::Final(HostOutcome::Failed) => "failed",
        HostState::Final(HostOutcome::Rejected) => "rejected",
        HostState::Final(HostOutcome::Unreachable) => "unreachable",
        HostState::Final(HostOutcome::TimedOut) => "timed_out",
        HostState::Final(HostOutcome::Skipped(_)) => "skipped",
    }
}

/// The commit that a host runs now. A rollback, an action that activates nothing, and a failure that comes before the
/// activation leave what ran before; after other failures nobody knows.
pub(super) fn runs_now(host: &HostView, rollout: &Rollout) -> Option<Commit> {
    use ErrorCode::{AlreadyRunning, BuildFailed, Expired, InvalidAction, InvalidRequest, InvalidRevision};
    use ErrorCode::{NotAvailable, Untrusted, WrongHost};
    let before = || host.ran_before(rollout).cloned();
    if let Some(rollback) = &host.returning {
        return if rollback.outcome == Some(HostOutcome::Completed) { before() } else { None };
    }
    let response = host.response.as_deref();
    match host.state {
        HostState::Pending | HostState::Final(HostOutcome::Skipped(_) | HostOutcome::Rejected) => before(),
        HostState::Final(HostOutcome::Completed) => match rollout.plan.waves.get(host.wave.0)?.action {
            Action::Switch | Action::Test => {
                response.and_then(|response| response.revision.clone()).or_else(|| rollout.revision.commit())
            }
            Action::Boot | Action::DryActivate | Action::Fetch => before(),
        },
        HostState::Final(HostOutcome::Current) => rollout.revision.commit(),
        HostState::Final(HostOutcome::Failed) => {
            let response = response?;
            let is_untouched = matches!(
                response.error,
                Some(
                    BuildFailed
                        | InvalidRevision
                        | InvalidAction
                        | InvalidRequest
                        | AlreadyRunning
                        | Expired
                        | WrongHost
                        | NotAvailable
                        | Untrusted
                )
            );
            if response.rolled_back.unwrap_or(is_untouched) { before() } else { None }
        }
        HostState::Final(HostOutcome::Unreachable | HostOutcome::TimedOut)
        | HostState::Dispatched
        | HostState::Accepted
        | HostState::Started(_)
        | HostState::Waiting(_) => None,
    }
}
