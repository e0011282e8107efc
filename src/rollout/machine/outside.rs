//! Handles events that come from neither a host nor the clock: from the bus connection and the operator.

use std::time::Duration;

use super::{ConnectionState, Machine};
use crate::rollout::Answer;
use crate::rollout::event::{
    Connection, EventKind, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason, WaveIndex, WaveVerdict,
};
use crate::rollout::summary::WaveState;

impl Machine {
    pub(super) fn disconnected(&mut self, now: Duration) {
        if self.is_up() {
            self.link = ConnectionState::Down { since: now };
            self.record(now, EventKind::Connection { state: Connection::Down });
        }
    }

    /// Extends the deadline of every host in flight by the outage, and asks each for its state.
    pub(super) fn reconnected(&mut self, now: Duration) {
        let ConnectionState::Down { since } = self.link else { return };
        self.record(now, EventKind::Connection { state: Connection::Up });
        let timeouts = self.timeouts();
        self.link = ConnectionState::Up { settled_at: now + timeouts.accept };
        for index in self.in_flight() {
            self.change_flight(index, |flight| flight.forgiven(now, now.saturating_sub(since), timeouts));
            self.ask_state(now, index);
        }
        if self.roll_until.is_some() && self.lacks_answers() {
            self.call_roll(now);
        }
        if let Some(back) = &mut self.returning {
            back.flight = back.flight.forgiven(now, now.saturating_sub(since), timeouts);
            self.ask_rollback_state(now);
        }
    }

    /// Asks every host in flight for its state, since responses may have been lost.
    pub(super) fn answers_lost(&mut self, now: Duration) {
        self.in_flight().into_iter().for_each(|index| self.ask_state(now, index));
        self.ask_rollback_state(now);
    }

    /// Ends the wave after an outage as long as a whole deployment: the outcome of the hosts in flight is unknown.
    pub(super) fn bus_lost(&mut self, now: Duration) {
        if let WaveState::Ended(_) = self.phase() {
            return self.give_up_returning(now);
        }
        self.halt(now, SkipReason::Disconnected, FailureReason::Disconnected);
        for index in self.in_flight() {
            self.settle(now, index, HostOutcome::TimedOut, None);
        }
    }

    pub(super) fn interrupted(&mut self, now: Duration, how: Interrupt) {
        if self.state.interrupt >= Some(how) {
            return;
        }
        self.record(now, EventKind::Interrupted { how });
        self.settle_waiting(now);
        if how == Interrupt::Drain {
            return;
        }
        if let WaveState::Ended(_) = self.phase() {
            return self.leave_failed_wave(now, Outcome::Interrupted);
        }
        self.skip(now, self.range(), SkipReason::Interrupt);
        let wave = WaveIndex(self.state.current());
        self.record(now, EventKind::WaveEnded { wave, verdict: WaveVerdict::Interrupted });
        self.stop(now, SkipReason::Interrupt, Outcome::Interrupted);
    }

    pub(super) fn answered(&mut self, now: Duration, answer: Answer) {
        if *self.phase() != WaveState::AwaitingConfirmation {
            return;
        }
        match answer {
            Answer::Yes => self.start_wave(now),
            Answer::No => self.stop(now, SkipReason::NotConfirmed, Outcome::Declined),
            Answer::Unavailable => self.stop(now, SkipReason::NotConfirmed, Outcome::Paused),
        }
    }

    pub(super) fn checked(&mut self, now: Duration, result: Result<(), String>) {
        if *self.phase() == WaveState::Checking {
            let verdict = match result {
                Ok(()) => WaveVerdict::Succeeded,
                Err(reason) => WaveVerdict::Failed(FailureReason::CheckFailed { reason }),
            };
            self.end_wave(now, verdict);
        }
    }
}
