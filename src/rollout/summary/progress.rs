//! The progress of one wave and of one host, and counts of hosts by their progress.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::protocol::{Action, Commit, ErrorCode, HostName, Phase, RequestId, Response};
use crate::rollout::description::Rollout;
use crate::rollout::event::{HostOutcome, WaveIndex, WaveVerdict};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveProgress {
    pub state: WaveState,
    /// When the wave could send its first request.
    pub began_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// How many hosts are in flight or wait for a retry.
    pub in_flight: usize,
    /// How many hosts completed or are current.
    pub completed: usize,
    /// How many hosts count against `max_failures`.
    pub failures: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaveState {
    Pending,
    AwaitingConfirmation,
    Running,
    /// No further requests are sent; hosts in flight are awaited.
    Draining,
    /// All hosts are final, and the bake time runs.
    Baking,
    Checking,
    Ended(WaveVerdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProgress {
    pub name: HostName,
    pub wave: WaveIndex,
    /// The host's place in the wave.
    pub index_in_wave: usize,
    pub state: HostState,
    pub request: Option<RequestId>,
    /// How many requests the host was sent since it was last pending.
    pub attempts: u32,
    /// How many request ids are used up: the host would only repeat their outcome, so a new attempt needs a new id.
    pub used_ids: u32,
    /// When the first request was sent.
    pub sent_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub response: Option<Arc<Response>>,
    /// The rollback of the host, if its wave failed and it was asked to roll back.
    pub rollback: Option<Box<HostRollback>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRollback {
    pub request: RequestId,
    /// `Completed` if the host rolled back; `None` until the rollback is over.
    pub outcome: Option<HostOutcome>,
    /// The host's final response to it, if any.
    pub response: Option<Arc<Response>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    Pending,
    /// The host was sent a request and has not responded.
    Dispatched,
    Accepted,
    Started(Option<Phase>),
    /// The last request had this outcome, and the host will be sent a new one.
    Waiting(HostOutcome),
    Final(HostOutcome),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub pending: usize,
    pub in_flight: usize,
    /// Completed and not rolled back.
    pub completed: usize,
    /// Not sent a request, since they already run the requested system.
    pub current: usize,
    /// Completed, then rolled back.
    #[serde(rename = "returned")]
    pub rolled_back: usize,
    pub failed: usize,
    pub rejected: usize,
    pub unreachable: usize,
    pub timed_out: usize,
    pub skipped: usize,
    pub total: usize,
}

impl WaveProgress {
    pub(super) const PENDING: Self =
        Self { state: WaveState::Pending, began_at: None, ended_at: None, in_flight: 0, completed: 0, failures: 0 };

    /// Returns the count that includes a host in this state, if any does.
    pub(super) fn count_of(
        &mut self,
        host: &HostProgress,
        is_excused: impl Fn(&HostProgress) -> bool,
    ) -> Option<&mut usize> {
        match host.state {
            HostState::Pending | HostState::Final(HostOutcome::Skipped(_)) => None,
            HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => {
                Some(&mut self.in_flight)
            }
            HostState::Final(HostOutcome::Completed | HostOutcome::Current) => Some(&mut self.completed),
            // A host that rejected an earlier request did answer, so its silence is not excused.
            HostState::Final(HostOutcome::Unreachable) if host.used_ids == 0 && is_excused(host) => None,
            HostState::Final(_) => Some(&mut self.failures),
        }
    }

    pub fn succeeded(&self) -> bool {
        self.state == WaveState::Ended(WaveVerdict::Succeeded)
    }
}

impl HostProgress {
    pub(super) const fn new(name: HostName, wave: WaveIndex, index_in_wave: usize) -> Self {
        Self {
            name,
            wave,
            index_in_wave,
            state: HostState::Pending,
            request: None,
            attempts: 0,
            used_ids: 0,
            sent_at: None,
            ended_at: None,
            response: None,
            rollback: None,
        }
    }

    /// Returns the host as pending. Its used ids stay used.
    pub(super) fn anew(&self) -> Self {
        Self { used_ids: self.used_ids, ..Self::new(self.name.clone(), self.wave, self.index_in_wave) }
    }

    /// Counts the id as used if the host would repeat this outcome. A host that was given up may still complete.
    pub(super) fn use_up_id(&mut self, outcome: HostOutcome) {
        self.used_ids += u32::from(matches!(outcome, HostOutcome::Rejected | HostOutcome::Failed));
    }

    /// Returns the request that the host was sent last: to deploy or to roll back.
    pub(in crate::rollout) fn last_request(&self) -> Option<&RequestId> {
        self.rollback.as_ref().map(|rollback| &rollback.request).or(self.request.as_ref())
    }

    /// Returns what the host ran before the request, by its final response or else by the roll call.
    pub fn ran_before<'a>(&'a self, rollout: &'a Rollout) -> Option<&'a Commit> {
        let said = self.response.as_deref().and_then(|response| response.previous_revision.as_ref());
        said.or_else(|| rollout.plan.waves.get(self.wave.0)?.hosts.get(self.index_in_wave)?.revision.as_ref())
    }

    /// Returns the commit that the host runs now, if known. A rollback, an action that activates nothing, and a failure
    /// before the activation leave what ran before; after other failures nobody knows.
    pub fn runs_now(&self, rollout: &Rollout) -> Option<Commit> {
        let before = || self.ran_before(rollout).cloned();
        if self.rollback.is_some() {
            return self.has_rolled_back().then(before).flatten();
        }
        let response = self.response.as_deref();
        match self.state {
            HostState::Pending | HostState::Final(HostOutcome::Skipped(_) | HostOutcome::Rejected) => before(),
            HostState::Final(HostOutcome::Completed) => match rollout.plan.waves.get(self.wave.0)?.action {
                Action::Switch | Action::Test => {
                    response.and_then(|response| response.revision.clone()).or_else(|| rollout.revision.commit())
                }
                Action::Boot | Action::DryActivate | Action::Fetch => before(),
            },
            HostState::Final(HostOutcome::Current) => rollout.revision.commit(),
            HostState::Final(HostOutcome::Failed) => {
                let response = response?;
                let is_untouched = response.error.as_ref().is_some_and(ErrorCode::is_before_activation);
                response.rolled_back.unwrap_or(is_untouched).then(before).flatten()
            }
            HostState::Final(HostOutcome::Unreachable | HostOutcome::TimedOut)
            | HostState::Dispatched
            | HostState::Accepted
            | HostState::Started(_)
            | HostState::Waiting(_) => None,
        }
    }

    /// Whether the rollout changed, or may have changed, what the host runs.
    pub fn is_changed(&self, rollout: &Rollout) -> bool {
        let was_asked = !matches!(self.state, HostState::Pending | HostState::Final(HostOutcome::Skipped(_)));
        was_asked && self.ran_before(rollout).is_some_and(|before| self.runs_now(rollout).as_ref() != Some(before))
    }

    /// Whether the host is current, or completed and was not asked to roll back. A host that could not roll back may
    /// run anything.
    pub fn runs_what_was_asked(&self) -> bool {
        self.state == HostState::Final(HostOutcome::Current) || self.has_completed()
    }

    pub(super) fn has_completed(&self) -> bool {
        self.state == HostState::Final(HostOutcome::Completed) && self.rollback.is_none()
    }

    /// Whether the host was asked to roll back and has not finished.
    pub fn is_rolling_back(&self) -> bool {
        self.rollback.as_ref().is_some_and(|back| back.outcome.is_none())
    }

    /// Whether the host rolled back.
    pub fn has_rolled_back(&self) -> bool {
        self.rollback.as_ref().is_some_and(|back| back.outcome == Some(HostOutcome::Completed))
    }
}

impl HostState {
    /// Whether the host may run its request. A silent host that waits for a retry may have heard the first one.
    pub const fn is_in_flight(self) -> bool {
        matches!(self, Self::Dispatched | Self::Accepted | Self::Started(_) | Self::Waiting(HostOutcome::Unreachable))
    }
}

impl Counts {
    pub fn of<'a>(hosts: impl IntoIterator<Item = &'a HostProgress>) -> Self {
        let mut counts = Self::default();
        for host in hosts {
            counts.total += 1;
            *match host.state {
                HostState::Pending => &mut counts.pending,
                HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => {
                    &mut counts.in_flight
                }
                HostState::Final(HostOutcome::Completed) if host.has_rolled_back() => &mut counts.rolled_back,
                HostState::Final(HostOutcome::Completed) => &mut counts.completed,
                HostState::Final(HostOutcome::Current) => &mut counts.current,
                HostState::Final(HostOutcome::Failed) => &mut counts.failed,
                HostState::Final(HostOutcome::Rejected) => &mut counts.rejected,
                HostState::Final(HostOutcome::Unreachable) => &mut counts.unreachable,
                HostState::Final(HostOutcome::TimedOut) => &mut counts.timed_out,
                HostState::Final(HostOutcome::Skipped(_)) => &mut counts.skipped,
            } += 1;
        }
        counts
    }
}
