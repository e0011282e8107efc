//! What became of a host, as a word.

use crate::rollout::HostOutcome;
use crate::rollout::summary::{HostState, HostView};

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
