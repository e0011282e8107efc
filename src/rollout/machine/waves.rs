//! Takes a rollout from wave to wave.

use std::ops::Range;
use std::time::Duration;

use super::Machine;
use crate::plan::Rollback;
use crate::rollout::Effect;
use crate::rollout::event::{EventKind, FailureReason, HostOutcome, Outcome, SkipReason, WaveIndex, WaveVerdict};
use crate::rollout::summary::{HostState, WaveProgress, WaveState};

/// The progress of the current wave that is not recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct CurrentWave {
    /// No host before this one is pending.
    next: usize,
    pub(super) last_final_at: Duration,
    pub(super) bakes_until: Duration,
    pub(super) returns_since: Duration,
    /// Why no further request is sent in this wave.
    pub(super) halted: Option<SkipReason>,
    /// Why the wave fails whatever its hosts' outcomes.
    pub(super) failure: Option<FailureReason>,
}

impl Machine {
    /// Takes steps until the next one has to wait.
    pub(super) fn advance(&mut self, now: Duration) {
        while self.outcome().is_none() && self.step(now) {}
    }

    /// Takes one step, and returns whether there was one to take.
    fn step(&mut self, now: Duration) -> bool {
        match self.phase() {
            WaveState::Pending => self.enter_wave(now),
            WaveState::Running | WaveState::Draining => return self.run_wave(now),
            WaveState::Ended(_) => return self.step_rollback(now),
            WaveState::AwaitingConfirmation | WaveState::Baking | WaveState::Checking
                if let Some(cause) = self.progress.failure.clone() =>
            {
                self.end_wave(now, WaveVerdict::Failed(cause));
            }
            WaveState::AwaitingConfirmation | WaveState::Baking | WaveState::Checking
                if self.state.interrupt.is_some() =>
            {
                self.end_wave(now, WaveVerdict::Interrupted);
            }
            WaveState::Baking if now >= self.progress.bakes_until => self.check_or_succeed(now),
            WaveState::AwaitingConfirmation | WaveState::Baking | WaveState::Checking => return false,
        }
        true
    }

    fn enter_wave(&mut self, now: Duration) {
        if self.state.is_staging && self.state.current() > 0 {
            self.record(now, EventKind::Staged);
        }
        let Some(range) = self.ranges.get(self.state.current()) else { return self.finish(now, Outcome::Succeeded) };
        if self.state.interrupt.is_some() {
            return self.stop(now, SkipReason::Interrupt, Outcome::Interrupted);
        }
        self.progress = CurrentWave { next: range.start, last_final_at: now, ..CurrentWave::default() };
        // A wave that began before the rollout was resumed was confirmed if it had to be.
        let has_begun = self.counts().began_at.is_some();
        if self.wave().limits.confirm && !has_begun {
            let wave = WaveIndex(self.state.current());
            self.record(now, EventKind::AwaitingConfirmation { wave });
            self.effects.push_back(Effect::Ask(wave));
        } else {
            self.start_wave(now);
        }
    }

    pub(super) fn start_wave(&mut self, now: Duration) {
        self.record(now, EventKind::WaveStarted { wave: WaveIndex(self.state.current()) });
        // The roll was called a moment before the first wave.
        if self.state.current() > 0 {
            self.call_roll(now);
        }
        for index in self.range() {
            if self.host(index).state.is_in_flight() {
                self.ask_anew(now, index);
            }
        }
    }

    fn run_wave(&mut self, now: Duration) -> bool {
        while self.effects.len() < self.prepared
            && let Some(index) = self.next_to_send()
        {
            self.progress.next = index + 1;
            if self.knows_current && self.resolved_host(index).is_current {
                self.settle(now, index, HostOutcome::Current, None);
            } else if self.is_safe_to_send(index) {
                self.send(now, index);
            } else {
                self.settle(now, index, HostOutcome::Unreachable, None);
            }
        }
        let waits_for_bus = !self.sends_no_more() && self.next_pending().is_some();
        if self.counts().in_flight > 0 || waits_for_bus {
            return false;
        }
        self.conclude_wave(now);
        true
    }

    /// Returns the current wave with its counts of hosts.
    #[expect(clippy::indexing_slicing, reason = "asked only while a wave is under way, and so there is one")]
    pub(super) fn counts(&self) -> &WaveProgress {
        &self.state.waves[self.state.current()]
    }

    /// Whether the window has room for a host, together with those that its request reaches as well.
    fn has_room(&self, index: usize) -> bool {
        let (in_flight, max_parallel) = (self.counts().in_flight, self.wave().limits.max_parallel);
        in_flight == 0 || in_flight + self.reached_with(index).len() <= max_parallel
    }

    /// Returns a reason if more hosts of the current wave failed than are allowed to.
    pub(super) fn too_many_failures(&self) -> Option<FailureReason> {
        let (failures, max_failures) = (self.counts().failures, self.wave().limits.max_failures);
        (failures > max_failures).then_some(FailureReason::TooManyFailures { failures, max_failures })
    }

    /// Returns the next host to send a request to, once the window has room for it.
    pub(super) fn next_to_send(&self) -> Option<usize> {
        let may_send = !self.sends_no_more() && self.is_up();
        let is_known = |index| self.roll_until.is_none() || self.may_deploy(index);
        self.next_pending().filter(|&index| may_send && is_known(index) && self.has_room(index))
    }

    /// Whether a request may be sent: the host may be deployed, and no other host that is final hears the request.
    fn is_safe_to_send(&self, index: usize) -> bool {
        self.may_deploy(index) && !self.would_reach_others(index)
    }

    /// Whether the host's listener is known to support what the wave asks. The listener of a host that never answered
    /// the roll call may deploy and never roll back, or build a system of its own.
    pub(super) fn may_deploy(&self, index: usize) -> bool {
        let contact = self.contact(index);
        (self.wave().limits.rollback == Rollback::None || contact.supports_rollback)
            && (self.resolved_host(index).system.is_none() || contact.supports_system)
    }

    fn next_pending(&self) -> Option<usize> {
        (self.progress.next..self.range().end).find(|&index| self.host(index).state == HostState::Pending)
    }

    pub(super) fn sends_no_more(&self) -> bool {
        self.state.interrupt.is_some() || self.progress.halted.is_some()
    }

    /// Ends or bakes a wave that has no host in flight and sends no further request.
    fn conclude_wave(&mut self, now: Duration) {
        let cause = self.progress.halted.unwrap_or(SkipReason::Interrupt);
        let any_skipped = self.next_pending().is_some();
        self.skip(now, self.range(), cause);

        let (completed, min_hosts) = (self.counts().completed, self.wave().limits.min_hosts);
        if let Some(cause) = self.progress.failure.clone().or_else(|| self.too_many_failures()) {
            self.end_wave(now, WaveVerdict::Failed(cause));
        } else if any_skipped && cause == SkipReason::Disconnected {
            self.end_wave(now, WaveVerdict::Failed(FailureReason::Disconnected));
        } else if any_skipped {
            self.end_wave(now, WaveVerdict::Interrupted);
        } else if completed < min_hosts {
            self.end_wave(now, WaveVerdict::Failed(FailureReason::TooFewCompleted { completed, min_hosts }));
        } else {
            self.bake(now);
        }
    }

    fn bake(&mut self, now: Duration) {
        let wave = self.state.current();
        // A wave of only current hosts has changed nothing.
        let is_current = |index| self.host(index).state == HostState::Final(HostOutcome::Current);
        let is_unchanged = !self.range().is_empty() && self.range().all(is_current);
        let bake_time = if is_unchanged { Duration::ZERO } else { self.rollout.plan.bake_time(wave) };
        self.progress.bakes_until = self.progress.last_final_at + bake_time;
        let remaining = self.progress.bakes_until.saturating_sub(now);
        if remaining.is_zero() {
            self.check_or_succeed(now);
        } else {
            self.record(now, EventKind::Baking { wave: WaveIndex(wave), remaining });
        }
    }

    fn check_or_succeed(&mut self, now: Duration) {
        let wave = WaveIndex(self.state.current());
        if self.wave().limits.check.is_none() {
            self.end_wave(now, WaveVerdict::Succeeded);
        } else if self.state.interrupt.is_some() {
            self.end_wave(now, WaveVerdict::Interrupted);
        } else {
            self.record(now, EventKind::Checking { wave });
            self.effects.push_back(Effect::RunCheck(wave));
        }
    }

    pub(super) fn end_wave(&mut self, now: Duration, verdict: WaveVerdict) {
        let wave = WaveIndex(self.state.current());
        let (skip, outcome) = match verdict {
            WaveVerdict::Succeeded => return self.record(now, EventKind::WaveEnded { wave, verdict }),
            WaveVerdict::Failed(_) => (SkipReason::EarlierWave, Outcome::Failed),
            WaveVerdict::Interrupted | WaveVerdict::Skipped => (SkipReason::Interrupt, Outcome::Interrupted),
        };
        // A wave that was interrupted while it waited for its confirmation still has pending hosts.
        self.skip(now, self.range(), skip);
        self.record(now, EventKind::WaveEnded { wave, verdict });
        if outcome == Outcome::Failed && self.wave().limits.rollback == Rollback::Wave {
            self.progress.returns_since = now;
        } else {
            self.stop(now, skip, outcome);
        }
    }

    /// Skips all waves that are not over, and ends the rollout.
    pub(super) fn stop(&mut self, now: Duration, cause: SkipReason, outcome: Outcome) {
        for wave in self.state.current()..self.ranges.len() {
            let is_over = |view: &WaveProgress| matches!(view.state, WaveState::Ended(_));
            if !self.state.waves.get(wave).is_some_and(is_over) {
                self.skip(now, self.ranges.get(wave).cloned().unwrap_or_default(), cause);
                self.record(now, EventKind::WaveEnded { wave: WaveIndex(wave), verdict: WaveVerdict::Skipped });
            }
        }
        self.finish(now, outcome);
    }

    fn finish(&mut self, now: Duration, outcome: Outcome) {
        self.record(now, EventKind::Ended { outcome });
    }

    pub(super) fn skip(&mut self, now: Duration, hosts: Range<usize>, cause: SkipReason) {
        for index in hosts {
            if self.host(index).state == HostState::Pending {
                let host = self.host(index).name.clone();
                self.record(now, EventKind::Final { host, outcome: HostOutcome::Skipped(cause), response: None });
            }
        }
    }
}
