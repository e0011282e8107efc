//! What is known of one wave and of one host.

use std::sync::Arc;

use jiff::Timestamp;

use crate::protocol::{Action, Commit, ErrorCode, HostName, Phase, RequestId, Response};
use crate::rollout::description::Rollout;
use crate::rollout::event::{HostOutcome, WaveIndex, WaveVerdict};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveView {
    pub state: WaveState,
    /// When its first request could be sent.
    pub began_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// How many of its hosts are in flight, or wait to be asked again.
    pub in_flight: usize,
    /// How many of its hosts completed or are current.
    pub completed: usize,
    /// How many of its hosts count against its budget.
    pub failures: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaveState {
    Pending,
    /// The operator is asked whether it may begin.
    AwaitingConfirmation,
    Running,
    /// No more requests are sent, hosts in flight are awaited.
    Draining,
    /// Its hosts are done, and it is left running for a while.
    Baking,
    Checking,
    Ended(WaveVerdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub name: HostName,
    pub wave: WaveIndex,
    /// Which of the hosts of that wave it is.
    pub index: usize,
    pub state: HostState,
    /// The request that it was sent last.
    pub request: Option<RequestId>,
    /// How many requests it was sent since it was last pending.
    pub attempts: u32,
    /// How many of its ids are used up: the host would only repeat their outcome, so a new try needs a new id.
    pub used_ids: u32,
    /// When it was sent the first.
    pub sent_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Its own last word, where there was one.
    pub response: Option<Arc<Response>>,
    /// How it went back to what it ran before, when it was asked to because its wave had failed.
    pub returning: Option<Box<ReturnView>>,
}

/// The return of a host to what it ran before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnView {
    /// The request that it was sent for that.
    pub request: RequestId,
    /// What came of it, once it has: it completed when it returned.
    pub outcome: Option<HostOutcome>,
    /// The host's own last word about it, where there was one.
    pub response: Option<Arc<Response>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    Pending,
    /// It was asked and has not answered.
    Dispatched,
    Accepted,
    Started(Option<Phase>),
    /// It was asked in vain, with this result, and will be asked again.
    Waiting(HostOutcome),
    Final(HostOutcome),
}

/// How many hosts there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub pending: usize,
    pub in_flight: usize,
    /// Final and as they should be.
    pub completed: usize,
    /// Not asked, since they are as they should be.
    pub current: usize,
    /// Completed, and returned from that to what they ran before.
    pub returned: usize,
    pub failed: usize,
    pub rejected: usize,
    pub unreachable: usize,
    /// Answered, and did not finish in time.
    pub timed_out: usize,
    pub skipped: usize,
}

impl WaveView {
    pub(super) const PENDING: Self =
        Self { state: WaveState::Pending, began_at: None, ended_at: None, in_flight: 0, completed: 0, failures: 0 };

    /// The number that counts a host in this state; `None` where no number does.
    pub(super) fn count_of(&mut self, host: &HostView, ignore_unreachable: bool) -> Option<&mut usize> {
        match host.state {
            HostState::Pending | HostState::Final(HostOutcome::Skipped(_)) => None,
            HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => {
                Some(&mut self.in_flight)
            }
            HostState::Final(HostOutcome::Completed | HostOutcome::Current) => Some(&mut self.completed),
            // A host that has rejected a request has answered, and fell silent afterwards.
            HostState::Final(HostOutcome::Unreachable) if ignore_unreachable && host.used_ids == 0 => None,
            HostState::Final(_) => Some(&mut self.failures),
        }
    }

    /// Whether it is over and its hosts are as they should be.
    pub fn succeeded(&self) -> bool {
        self.state == WaveState::Ended(WaveVerdict::Succeeded)
    }
}

impl HostView {
    pub(super) const fn new(name: HostName, wave: WaveIndex, index: usize) -> Self {
        Self {
            name,
            wave,
            index,
            state: HostState::Pending,
            request: None,
            attempts: 0,
            used_ids: 0,
            sent_at: None,
            ended_at: None,
            response: None,
            returning: None,
        }
    }

    /// The host as if it had not been asked. The ids that it has used up stay so.
    pub(super) fn anew(&self) -> Self {
        Self { used_ids: self.used_ids, ..Self::new(self.name.clone(), self.wave, self.index) }
    }

    /// A host that rejected or failed a request will say so again. One that was given up may still complete it.
    pub(super) fn spend_id(&mut self, outcome: HostOutcome) {
        self.used_ids += u32::from(matches!(outcome, HostOutcome::Rejected | HostOutcome::Failed));
    }

    /// What it ran before the request, by its own last word or by the roll call.
    pub fn ran_before<'a>(&'a self, rollout: &'a Rollout) -> Option<&'a Commit> {
        let said = self.response.as_deref().and_then(|response| response.previous_revision.as_ref());
        said.or_else(|| rollout.plan.waves.get(self.wave.0)?.hosts.get(self.index)?.revision.as_ref())
    }

    /// The commit that the host runs now. A rollback, an action that activates nothing, and a failure that comes before the
    /// activation leave what ran before; after other failures nobody knows.
    pub fn runs_now(&self, rollout: &Rollout) -> Option<Commit> {
        use ErrorCode::{AlreadyRunning, BuildFailed, Expired, InvalidAction, InvalidRequest, InvalidRevision};
        use ErrorCode::{NotAvailable, Untrusted, WrongHost};
        let before = || self.ran_before(rollout).cloned();
        if let Some(rollback) = &self.returning {
            return if rollback.outcome == Some(HostOutcome::Completed) { before() } else { None };
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
                let is_untouched = matches!(
                    response.error,
                    Some(
                        BuildFailed
                            | InvalidRevision
                            | InvalidAction
                            | InvalidRequest
                            | AlreadyRunning
                            | Expired
                            | NotAvailable
                            | Untrusted
                            | WrongHost
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

    /// Whether the rollout left the host with something else than it ran before, or may have.
    pub fn is_changed(&self, rollout: &Rollout) -> bool {
        let was_asked = !matches!(self.state, HostState::Pending | HostState::Final(HostOutcome::Skipped(_)));
        was_asked && self.ran_before(rollout).is_some_and(|before| self.runs_now(rollout).as_ref() != Some(before))
    }

    /// Whether it is current, or completed and was not asked to go back from that. One that was asked and could not may run
    /// anything.
    pub fn runs_what_was_asked(&self) -> bool {
        self.state == HostState::Final(HostOutcome::Current) || self.has_completed()
    }

    fn has_completed(&self) -> bool {
        self.state == HostState::Final(HostOutcome::Completed) && self.returning.is_none()
    }

    /// Whether it completed, and has not finished returning from that.
    pub(super) fn is_to_return(&self) -> bool {
        self.has_completed() || self.is_returning()
    }

    /// Whether it was asked to return and has not finished that.
    pub fn is_returning(&self) -> bool {
        self.returning.as_ref().is_some_and(|back| back.outcome.is_none())
    }

    /// Whether it was asked to return and did.
    pub fn has_returned(&self) -> bool {
        self.returning.as_ref().is_some_and(|back| back.outcome == Some(HostOutcome::Completed))
    }
}

impl HostState {
    /// Whether the host was asked and may be at it. One that was silent and will be asked again may have heard it.
    pub const fn is_in_flight(self) -> bool {
        matches!(self, Self::Dispatched | Self::Accepted | Self::Started(_) | Self::Waiting(HostOutcome::Unreachable))
    }
}

impl Counts {
    /// How many of these hosts are of each kind.
    pub fn of<'a>(hosts: impl IntoIterator<Item = &'a HostView>) -> Self {
        let mut counts = Self::default();
        for host in hosts {
            *match host.state {
                HostState::Pending => &mut counts.pending,
                HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => {
                    &mut counts.in_flight
                }
                HostState::Final(HostOutcome::Completed) if host.has_returned() => &mut counts.returned,
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

    pub const fn total(&self) -> usize {
        self.pending
            + self.in_flight
            + self.completed
            + self.current
            + self.returned
            + self.failed
            + self.rejected
            + self.unreachable
            + self.timed_out
            + self.skipped
    }
}
