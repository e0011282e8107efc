//! The course of a rollout from wave to wave.

use std::ops::Range;
use std::time::Duration;

use super::{Link, Machine, PREPARED, Stage, State, Tally};
use crate::plan::Rollback;
use crate::rollout::Effect;
use crate::rollout::event::{Cause, EventKind, HostOutcome, Outcome, SkipCause, WaveIndex, WaveVerdict};

impl Machine {
    /// Goes on for as long as there is something to do without waiting.
    pub(super) fn advance(&mut self, now: Duration) {
        while self.outcome.is_none() && self.step(now) {}
    }

    /// Takes one step, and returns whether there was one to take.
    fn step(&mut self, now: Duration) -> bool {
        if let (Stage::Confirming | Stage::Baking { .. } | Stage::Checking, Some(cause)) =
            (self.stage, &self.tally.doomed)
        {
            let verdict = WaveVerdict::Failed(cause.clone());
            self.end_wave(now, verdict);
            return true;
        }
        match self.stage {
            Stage::Entering => self.enter_wave(now),
            Stage::Running => return self.run_wave(now),
            Stage::Confirming | Stage::Baking { .. } | Stage::Checking if self.interrupt.is_some() => {
                self.end_wave(now, WaveVerdict::Interrupted);
            }
            Stage::Baking { until } if now >= until => self.check_or_succeed(now),
            Stage::Returning { .. } => return self.go_on_returning(now),
            Stage::Confirming | Stage::Baking { .. } | Stage::Checking => return false,
        }
        true
    }

    fn enter_wave(&mut self, now: Duration) {
        let Some(range) = self.ranges.get(self.wave) else {
            return self.finish(now, Outcome::Succeeded);
        };
        if self.interrupt.is_some() {
            return self.stop(now, SkipCause::Interrupt, Outcome::Interrupted);
        }
        // Only a wave that was begun before the rollout was resumed has hosts that are not pending.
        let states = || range.clone().map(|index| &self.host(index).state);
        let completed = states().filter(|state| matches!(state, State::Final(_))).count();
        let in_flight = states().filter(|state| matches!(state, State::InFlight(_))).count();
        self.tally = Tally { next: range.start, last_final_at: now, completed, in_flight, ..Tally::default() };
        let begun = std::mem::take(&mut self.begun);
        if self.wave().limits.confirm && !begun {
            self.stage = Stage::Confirming;
            self.report(now, EventKind::AwaitingConfirmation { wave: WaveIndex(self.wave) });
            self.effects.push_back(Effect::Ask(WaveIndex(self.wave)));
        } else {
            self.start_wave(now);
        }
    }

    pub(super) fn start_wave(&mut self, now: Duration) {
        self.stage = Stage::Running;
        self.report(now, EventKind::WaveStarted { wave: WaveIndex(self.wave) });
        // The hosts were settled a moment before the first one.
        if self.wave > 0 {
            self.call_roll();
        }
    }

    fn run_wave(&mut self, now: Duration) -> bool {
        while self.tally.in_flight < self.wave().limits.max_parallel
            && self.effects.len() < PREPARED
            && let Some(index) = self.next_to_send()
        {
            self.tally.in_flight += 1;
            self.tally.next = index + 1;
            if self.is_safe_to_send(index) {
                self.send(now, index);
            } else {
                self.settle(now, index, HostOutcome::Unreachable, None);
            }
        }
        let waits_for_bus = !self.sends_no_more() && self.next_pending().is_some();
        if self.tally.in_flight > 0 || waits_for_bus {
            return false;
        }
        self.conclude_wave(now);
        true
    }

    /// The next host of the wave to be sent its request, as far as it depends on all but the window.
    pub(super) fn next_to_send(&self) -> Option<usize> {
        let may_send = !self.sends_no_more() && matches!(self.link, Link::Up { .. });
        self.next_pending().filter(|_| may_send)
    }

    /// A host that was silent when the roll was called may have a listener that would deploy and never return. One without a
    /// subject of its own may share it with hosts that are done.
    fn is_safe_to_send(&self, index: usize) -> bool {
        let may_deploy = self.wave().limits.rollback == Rollback::None || self.frozen(index).can_return;
        may_deploy && !self.would_reach_others(index)
    }

    fn next_pending(&self) -> Option<usize> {
        (self.tally.next..self.range().end).find(|&index| matches!(self.host(index).state, State::Pending))
    }

    pub(super) fn sends_no_more(&self) -> bool {
        self.interrupt.is_some() || self.tally.halted.is_some()
    }

    /// Every host of the wave that was asked is final, and no further one will be asked.
    fn conclude_wave(&mut self, now: Duration) {
        let skipped = self.tally.next..self.range().end;
        let cause = self.tally.halted.unwrap_or(SkipCause::Interrupt);
        let any_skipped = self.next_pending().is_some();
        self.skip(now, skipped, cause);

        if let Some(cause) = self.tally.doomed.clone() {
            return self.end_wave(now, WaveVerdict::Failed(cause));
        }
        let limits = &self.wave().limits;
        let Tally { completed, failures, .. } = self.tally;
        if failures > limits.max_failures {
            let cause = Cause::TooManyFailures { failures, max_failures: limits.max_failures };
            self.end_wave(now, WaveVerdict::Failed(cause));
        } else if any_skipped && cause == SkipCause::Disconnected {
            self.end_wave(now, WaveVerdict::Failed(Cause::Disconnected));
        } else if any_skipped {
            self.end_wave(now, WaveVerdict::Interrupted);
        } else if completed < limits.min_hosts {
            let cause = Cause::TooFewCompleted { completed, min_hosts: limits.min_hosts };
            self.end_wave(now, WaveVerdict::Failed(cause));
        } else {
            self.bake(now);
        }
    }

    fn bake(&mut self, now: Duration) {
        let until = self.tally.last_final_at + self.rollout.plan.bake_time(self.wave);
        let remaining = until.saturating_sub(now);
        if remaining.is_zero() {
            self.check_or_succeed(now);
        } else {
            self.stage = Stage::Baking { until };
            let wave = WaveIndex(self.wave);
            self.report(now, EventKind::Baking { wave, remaining });
        }
    }

    fn check_or_succeed(&mut self, now: Duration) {
        if self.wave().limits.check.is_none() {
            self.end_wave(now, WaveVerdict::Succeeded);
        } else if self.interrupt.is_some() {
            self.end_wave(now, WaveVerdict::Interrupted);
        } else {
            self.stage = Stage::Checking;
            self.report(now, EventKind::Checking { wave: WaveIndex(self.wave) });
            self.effects.push_back(Effect::RunCheck(WaveIndex(self.wave)));
        }
    }

    pub(super) fn end_wave(&mut self, now: Duration, verdict: WaveVerdict) {
        let (skip, outcome) = match verdict {
            WaveVerdict::Succeeded => {
                self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict });
                self.wave += 1;
                self.stage = Stage::Entering;
                return;
            }
            WaveVerdict::Failed(_) => (SkipCause::EarlierWave, Outcome::Failed),
            WaveVerdict::Interrupted | WaveVerdict::Skipped => (SkipCause::Interrupt, Outcome::Interrupted),
        };
        // A wave that was interrupted while it waited for its confirmation has hosts that were not asked.
        self.skip(now, self.tally.next..self.range().end, skip);
        self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict });
        if outcome == Outcome::Failed && self.wave().limits.rollback == Rollback::Wave {
            self.stage = Stage::Returning { since: now };
            return;
        }
        self.wave += 1;
        self.stop(now, skip, outcome);
    }

    /// Skips the current wave and all after it, and ends the rollout.
    pub(super) fn stop(&mut self, now: Duration, cause: SkipCause, outcome: Outcome) {
        while let Some(range) = self.ranges.get(self.wave).cloned() {
            self.skip(now, range, cause);
            self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict: WaveVerdict::Skipped });
            self.wave += 1;
        }
        self.finish(now, outcome);
    }

    fn finish(&mut self, now: Duration, outcome: Outcome) {
        self.report(now, EventKind::Ended { outcome });
        self.outcome = Some(outcome);
    }

    pub(super) fn skip(&mut self, now: Duration, hosts: Range<usize>, cause: SkipCause) {
        for index in hosts {
            if matches!(self.host(index).state, State::Pending) {
                self.host_mut(index).state = State::Final(HostOutcome::Skipped(cause));
                let host = self.frozen(index).hostname.clone();
                self.report(now, EventKind::Final { host, outcome: HostOutcome::Skipped(cause), response: None });
            }
        }
    }
}
