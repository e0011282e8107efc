//! Rolls back a wave that failed: its completed hosts return to what they ran before, one after another, and the host
//! that completed last goes first.

use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use crate::protocol::{Request, RequestId, Response};
use crate::rollout::event::{EventKind, HostOutcome, Outcome, SkipReason};
use crate::rollout::flight::InFlight;
use crate::rollout::summary::HostProgress;
use crate::rollout::{Dispatch, Effect};

/// A host that was asked to roll back and has not finished.
#[derive(Debug, Clone)]
pub(super) struct Return {
    pub(super) index: usize,
    pub(super) flight: InFlight,
}

impl Machine {
    /// Takes the next step of the rollback, and returns whether it is over.
    pub(super) fn step_rollback(&mut self, now: Duration) -> bool {
        if self.returning.is_some() {
            return false;
        }
        match self.next_to_return() {
            None => self.leave_failed_wave(now, Outcome::Failed),
            Some(_) if self.state.interrupt.is_some() => self.leave_failed_wave(now, Outcome::Interrupted),
            Some((index, completed)) => {
                if self.is_up() {
                    self.roll_back(now, index, &completed);
                }
                return false;
            }
        }
        true
    }

    /// Returns the host of the wave that completed last among those that were not asked to roll back, and its request.
    fn next_to_return(&self) -> Option<(usize, RequestId)> {
        let wave = self.range();
        let newest_first = self.state.completed().iter().rev().copied().filter(|index| wave.contains(index));
        newest_first.filter(|&index| self.host(index).rollback.is_none()).find_map(|index| {
            let completed = self.host(index).request.clone()?;
            Some((index, completed))
        })
    }

    /// Whether this is the rollback request in flight.
    pub(super) fn is_rollback_request(&self, request: &RequestId) -> bool {
        let back = self.returning.as_ref().and_then(|back| self.host(back.index).rollback.as_ref());
        back.is_some_and(|back| back.request == *request)
    }

    fn roll_back(&mut self, now: Duration, index: usize, completed: &RequestId) {
        let request = self.rollout.ids.rollback_of(completed);
        self.record(now, EventKind::RollingBack { host: self.host(index).name.clone(), request });
        self.returning = Some(Return { index, flight: InFlight::new(now, self.timeouts()) });
        let dispatch = self.rollback_request(now);
        self.effects.extend(dispatch.map(Effect::Send));
    }

    /// Asks a host that may have been rolling back before the resume. If the request was lost, it gets it now.
    pub(super) fn send_back_again(&mut self, now: Duration, index: usize) {
        self.returning = Some(Return { index, flight: InFlight::new(now, self.timeouts()) });
        self.ask_rollback_state(now);
    }

    /// Builds the rollback request in flight.
    fn rollback_request(&self, now: Duration) -> Option<Dispatch> {
        let index = self.returning.as_ref()?.index;
        let HostProgress { request: completed, rollback, .. } = self.host(index);
        let Dispatch { subject, request: deployment } = self.dispatch(now, index, rollback.as_ref()?.request.clone());
        let request = Request { confirm_timeout_s: None, returns: completed.clone(), system: None, ..*deployment };
        Some(Dispatch { subject, request: Box::new(request) })
    }

    /// Asks the host that is rolling back, if any, for its state.
    pub(super) fn ask_rollback_state(&mut self, now: Duration) {
        if let Some(back) = &mut self.returning {
            back.flight = back.flight.asked(now);
        }
        if self.is_up() {
            let dispatch = self.rollback_request(now);
            self.effects.extend(dispatch.map(Effect::AskState));
        }
    }

    /// Handles a response of the host that is rolling back.
    pub(super) fn return_answered(&mut self, now: Duration, response: Arc<Response>) {
        let timeouts = self.timeouts();
        match HostOutcome::of(response.status) {
            // A host that completed without rolling back did something else.
            Some(HostOutcome::Completed) if response.rolled_back != Some(true) => {
                self.returned(now, HostOutcome::Failed, Some(response));
            }
            Some(outcome) => self.returned(now, outcome, Some(response)),
            None => {
                if let Some(back) = &mut self.returning {
                    back.flight = back.flight.heard(now, timeouts);
                }
            }
        }
    }

    /// Handles a rollback request without subscribers. The host was there a moment ago, so its listener is restarting.
    pub(super) fn nobody_returns(&mut self, now: Duration) {
        if let Some(Return { flight, .. }) = &mut self.returning
            && !flight.is_heard
        {
            *flight = flight.missed(now);
        }
    }

    /// Gives up the host that is rolling back, or asks it again, if either is due.
    pub(super) fn return_due(&mut self, now: Duration) {
        let Some(Return { flight, .. }) = &mut self.returning else { return };
        if now >= flight.deadline {
            let outcome = flight.expired();
            self.returned(now, outcome, None);
        } else if now >= flight.due() {
            self.ask_rollback_state(now);
        }
    }

    /// Ends the rollback after an outage as long as a host may take. The other hosts roll back only on a resume.
    pub(super) fn give_up_returning(&mut self, now: Duration) {
        if self.returning.is_some() {
            self.returned(now, HostOutcome::TimedOut, None);
        }
        self.leave_failed_wave(now, Outcome::Failed);
    }

    fn returned(&mut self, now: Duration, outcome: HostOutcome, response: Option<Arc<Response>>) {
        if let Some(Return { index, .. }) = self.returning.take() {
            let host = self.host(index).name.clone();
            self.record(now, EventKind::RollbackEnded { host, outcome, response });
        }
    }

    /// Ends the rollout after a wave whose verdict is already recorded.
    pub(super) fn leave_failed_wave(&mut self, now: Duration, outcome: Outcome) {
        self.stop(now, SkipReason::EarlierWave, outcome);
    }
}
