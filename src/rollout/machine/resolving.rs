//! A rollout that begins with a branch: its first host finds the commit, and all others are sent that.

use std::sync::Arc;
use std::time::Duration;

use super::{Machine, State};
use crate::protocol::{Response, Status};
use crate::rollout::HostOutcome;
use crate::rollout::event::EventKind;

impl Machine {
    /// How many hosts may be in flight at once: one, until it has named the commit.
    pub(super) fn window(&self) -> usize {
        if self.rollout.is_unresolved() { 1 } else { self.wave().limits.max_parallel }
    }

    /// Takes the commit that a host names. Before there is one, only the host was asked that is to find it.
    pub(super) fn resolve(&mut self, now: Duration, index: usize, response: &Response) {
        let is_at_it = matches!(response.status, Status::Started | Status::Completed | Status::Failed);
        if let (true, true, Some(commit)) = (self.rollout.is_unresolved(), is_at_it, &response.revision) {
            let host = self.frozen(index).hostname.clone();
            self.report(now, EventKind::Resolved { host, revision: commit.clone() });
            Arc::make_mut(&mut self.rollout).revision = commit.clone().into();
        }
    }

    /// Whether a host completed without saying what it runs. Another one could find another commit by now.
    pub(super) fn is_unresolvable(&self) -> bool {
        let completed = |state: &State| matches!(state, State::Final(HostOutcome::Completed));
        self.rollout.is_unresolved() && self.range().any(|index| completed(&self.host(index).state))
    }
}
