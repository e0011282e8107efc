//! What comes from neither a host nor the clock: the connection to the bus, and the operator.

use std::time::Duration;

use super::{Link, Machine, Stage, State};
use crate::rollout::Answer;
use crate::rollout::event::{
    Cause, Connection, EventKind, HostOutcome, Interrupt, Outcome, SkipCause, WaveIndex, WaveVerdict,
};

impl Machine {
    pub(super) fn disconnected(&mut self, now: Duration) {
        if let Link::Up { .. } = self.link {
            self.link = Link::Down { since: now };
            self.report(now, EventKind::Connection { state: Connection::Down });
        }
    }

    /// Every host in flight is given back the time of the outage, and asked how far it is.
    pub(super) fn reconnected(&mut self, now: Duration) {
        let Link::Down { since } = self.link else {
            return;
        };
        self.report(now, EventKind::Connection { state: Connection::Up });
        let patience = self.patience();
        self.link = Link::Up { settled_at: now + patience.accept };
        for index in self.in_flight() {
            self.cancel_timer(index);
            if let State::InFlight(flight) = &mut self.host_mut(index).state {
                flight.forgive(now, now.saturating_sub(since), patience);
                let due = flight.due();
                self.timers.insert((due, index));
            }
            self.ask_state(now, index);
        }
        if let Some(back) = &mut self.returning {
            back.flight.forgive(now, now.saturating_sub(since), patience);
            self.ask_whether_returned(now);
        }
    }

    /// What was said and not heard has to be said again.
    pub(super) fn answers_lost(&mut self, now: Duration) {
        self.in_flight().into_iter().for_each(|index| self.ask_state(now, index));
        self.ask_whether_returned(now);
    }

    /// The bus was away for as long as a whole deployment may take: nobody knows what the hosts in flight came to.
    pub(super) fn bus_lost(&mut self, now: Duration) {
        if let Stage::Returning { .. } = self.stage {
            return self.give_up_returning(now);
        }
        self.halt(now, SkipCause::Disconnected, Cause::Disconnected);
        for index in self.in_flight() {
            self.settle(now, index, HostOutcome::TimedOut, None);
        }
    }

    pub(super) fn interrupted(&mut self, now: Duration, how: Interrupt) {
        if self.interrupt >= Some(how) {
            return;
        }
        self.interrupt = Some(how);
        self.report(now, EventKind::Interrupted { how });
        self.settle_waiting(now);
        if let (Interrupt::Abort, Stage::Returning { .. }) = (how, self.stage) {
            self.leave_failed_wave(now, Outcome::Interrupted);
        } else if how == Interrupt::Abort {
            self.skip(now, self.tally.next..self.range().end, SkipCause::Interrupt);
            self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict: WaveVerdict::Interrupted });
            self.wave += 1;
            self.stop(now, SkipCause::Interrupt, Outcome::Interrupted);
        }
    }

    pub(super) fn answered(&mut self, now: Duration, answer: Answer) {
        if !matches!(self.stage, Stage::Confirming) {
            return;
        }
        match answer {
            Answer::Yes => self.start_wave(now),
            Answer::No => self.stop(now, SkipCause::NotConfirmed, Outcome::Declined),
            Answer::Unavailable => self.stop(now, SkipCause::NotConfirmed, Outcome::Paused),
        }
    }

    pub(super) fn checked(&mut self, now: Duration, result: Result<(), String>) {
        if let Stage::Checking = self.stage {
            let verdict = match result {
                Ok(()) => WaveVerdict::Succeeded,
                Err(reason) => WaveVerdict::Failed(Cause::CheckFailed { reason }),
            };
            self.end_wave(now, verdict);
        }
    }
}
