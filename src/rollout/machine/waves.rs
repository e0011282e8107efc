//! Takes a rollout from wave to wave, and rolls back a wave that failed.

use std::ops::Range;
use std::time::Duration;

use super::contact::Timer;
use super::{ConnectionState, Machine};
use crate::plan::Rollback;
use crate::protocol::RequestId;
use crate::rollout::event::{
    EventKind, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason, WaveIndex, WaveVerdict,
};
use crate::rollout::summary::{HostState, WaveProgress, WaveState};
use crate::rollout::{Confirmation, Effect};

/// What is not recorded of the current wave.
#[derive(Debug, Clone, Default)]
pub(super) struct CurrentWave {
    /// No host before this one is pending.
    next: usize,
    pub(super) last_final_at: Duration,
    pub(super) bakes_until: Duration,
    /// Why no further request is sent in this wave.
    pub(super) halted: Option<SkipReason>,
    /// Why the wave fails whatever its hosts' outcomes.
    failure: Option<FailureReason>,
}

impl Machine {
    /// Takes steps until the next one has to wait. While [`Self::has_more`], it prepares further requests.
    pub fn advance(&mut self, now: Duration) {
        while self.state.outcome.is_none() && self.step(now) {}
    }

    /// Takes one step, and returns whether there was one to take.
    fn step(&mut self, now: Duration) -> bool {
        match self.wave_state() {
            WaveState::Pending => self.enter_wave(now),
            WaveState::Running | WaveState::Draining => return self.run_wave(now),
            WaveState::Ended(_) => return self.step_rollback(now),
            waits @ (WaveState::AwaitingConfirmation | WaveState::Baking | WaveState::Checking) => {
                let is_baked = *waits == WaveState::Baking && now >= self.current.bakes_until;
                if let Some(cause) = self.current.failure.clone() {
                    self.end_wave(now, WaveVerdict::Failed(cause));
                } else if self.state.interrupt.is_some() {
                    self.end_wave(now, WaveVerdict::Interrupted);
                } else if is_baked {
                    self.check_or_succeed(now);
                } else {
                    return false;
                }
            }
        }
        true
    }

    fn enter_wave(&mut self, now: Duration) {
        if self.state.is_staging && self.state.current_wave > WaveIndex(0) {
            self.record(now, EventKind::Staged);
        }
        if self.state.current_wave.0 == self.state.waves.len() {
            return self.record(now, EventKind::Ended { outcome: Outcome::Succeeded });
        }
        if self.state.interrupt.is_some() {
            return self.stop(now, SkipReason::Interrupt, Outcome::Interrupted);
        }
        self.current = CurrentWave { next: self.range().start, last_final_at: now, ..CurrentWave::default() };
        // A wave that began before the rollout was resumed was confirmed if it had to be.
        let has_begun = self.progress().began_at.is_some();
        if self.limits().confirm && !has_begun {
            let wave = self.state.current_wave;
            self.record(now, EventKind::AwaitingConfirmation { wave });
            self.effects.push_back(Effect::Ask(wave));
        } else {
            self.start_wave(now);
        }
    }

    fn start_wave(&mut self, now: Duration) {
        self.record(now, EventKind::WaveStarted { wave: self.state.current_wave });
        // The roll was called a moment before the first wave.
        if self.state.current_wave > WaveIndex(0) {
            self.call_roll(now);
        }
        for index in self.range() {
            if self.host(index).state.is_in_flight() {
                self.ask_anew(now, index);
            }
        }
    }

    fn run_wave(&mut self, now: Duration) -> bool {
        while self.effects.len() < self.max_prepared
            && let Some(index) = self.next_to_send()
        {
            self.current.next = index + 1;
            if self.state.knows_current && self.resolved_host(index).is_current {
                self.finish_host(now, index, HostOutcome::Current, None);
            } else if self.is_safe_to_send(index) {
                self.send(now, index);
            } else {
                self.finish_host(now, index, HostOutcome::Unreachable, None);
            }
        }
        let has_more_to_send = !self.sends_no_more() && self.next_pending().is_some();
        if self.progress().in_flight > 0 || has_more_to_send {
            return false;
        }
        self.conclude_wave(now);
        true
    }

    /// Returns the current wave with its counts of hosts.
    #[expect(clippy::indexing_slicing, reason = "asked only while a wave is under way, and so there is one")]
    pub(super) fn progress(&self) -> &WaveProgress {
        &self.state.waves[self.state.current_wave.0]
    }

    /// Whether the window has room for a host, together with those that its request reaches as well.
    fn has_room(&self, index: usize) -> bool {
        let (in_flight, max_parallel) = (self.progress().in_flight, self.limits().max_parallel);
        in_flight == 0 || in_flight + self.reached_with(index).count() <= max_parallel
    }

    /// Returns a reason if more hosts of the current wave failed than are allowed to.
    pub(super) fn too_many_failures(&self) -> Option<FailureReason> {
        let (failures, max_failures) = (self.progress().failures, self.limits().max_failures);
        (failures > max_failures).then_some(FailureReason::TooManyFailures { failures, max_failures })
    }

    /// Returns the next host to send a request to, once the window has room for it.
    pub(super) fn next_to_send(&self) -> Option<usize> {
        let may_send = !self.sends_no_more() && self.is_up();
        let is_known = |index| self.roll_until.is_none() || self.supports_wave(index);
        self.next_pending().filter(|&index| may_send && is_known(index) && self.has_room(index))
    }

    /// Whether a request may be sent: the host may be deployed, and no host that is final hears the request.
    fn is_safe_to_send(&self, index: usize) -> bool {
        let is_final = |host| matches!(self.host(host).state, HostState::Final(_));
        self.supports_wave(index) && !self.reached_with(index).any(is_final)
    }

    /// Whether the host's listener is known to support what the wave asks. The listener of a host that never answered
    /// the roll call may deploy and never roll back, or build a system of its own.
    pub(super) fn supports_wave(&self, index: usize) -> bool {
        let contact = self.contact(index);
        (self.limits().rollback == Rollback::None || contact.supports_rollback)
            && (self.resolved_host(index).system.is_none() || contact.supports_system)
    }

    fn next_pending(&self) -> Option<usize> {
        // Not by the range of the wave, which is searched for: this is asked after each response.
        let (first, wave) = (self.current.next, self.state.current_wave);
        let mut rest = self.state.hosts.get(first..)?.iter().take_while(|host| host.wave == wave);
        Some(first + rest.position(|host| host.state == HostState::Pending)?)
    }

    pub(super) fn sends_no_more(&self) -> bool {
        self.state.interrupt.is_some() || self.current.halted.is_some()
    }

    /// Ends or bakes a wave that has no host in flight and sends no further request.
    fn conclude_wave(&mut self, now: Duration) {
        let skip = self.current.halted.unwrap_or(SkipReason::Interrupt);
        let any_skipped = self.next_pending().is_some();
        self.skip(now, self.range(), skip);

        let (completed, min_hosts) = (self.progress().completed, self.limits().min_hosts);
        let verdict = if let Some(cause) = self.current.failure.clone().or_else(|| self.too_many_failures()) {
            WaveVerdict::Failed(cause)
        } else if any_skipped && skip == SkipReason::Disconnected {
            WaveVerdict::Failed(FailureReason::Disconnected)
        } else if any_skipped {
            WaveVerdict::Interrupted
        } else if completed < min_hosts {
            WaveVerdict::Failed(FailureReason::TooFewCompleted { completed, min_hosts })
        } else {
            return self.bake(now);
        };
        self.end_wave(now, verdict);
    }

    fn bake(&mut self, now: Duration) {
        // A wave of only current hosts has changed nothing.
        let is_current = |index| self.host(index).state == HostState::Final(HostOutcome::Current);
        let is_unchanged = !self.range().is_empty() && self.range().all(is_current);
        let bake_time =
            if is_unchanged { Duration::ZERO } else { self.rollout.plan.bake_time(self.state.current_wave.0) };
        self.current.bakes_until = self.current.last_final_at + bake_time;
        let remaining = self.current.bakes_until.saturating_sub(now);
        if remaining.is_zero() {
            self.check_or_succeed(now);
        } else {
            self.record(now, EventKind::Baking { wave: self.state.current_wave, remaining });
        }
    }

    fn check_or_succeed(&mut self, now: Duration) {
        let wave = self.state.current_wave;
        if self.limits().check.is_none() {
            self.end_wave(now, WaveVerdict::Succeeded);
        } else if self.state.interrupt.is_some() {
            self.end_wave(now, WaveVerdict::Interrupted);
        } else {
            self.record(now, EventKind::Checking { wave });
            self.effects.push_back(Effect::RunCheck(wave));
        }
    }

    pub(super) fn end_wave(&mut self, now: Duration, verdict: WaveVerdict) {
        let wave = self.state.current_wave;
        let (skip, outcome) = match verdict {
            WaveVerdict::Succeeded => return self.record(now, EventKind::WaveEnded { wave, verdict }),
            WaveVerdict::Failed(_) => (SkipReason::EarlierWave, Outcome::Failed),
            WaveVerdict::Interrupted | WaveVerdict::Skipped => (SkipReason::Interrupt, Outcome::Interrupted),
        };
        // A wave that was interrupted while it waited for its confirmation still has pending hosts.
        self.skip(now, self.range(), skip);
        self.record(now, EventKind::WaveEnded { wave, verdict });
        if outcome == Outcome::Failed && self.limits().rollback == Rollback::Wave {
            self.roll_until = None;
            // An outage counts anew for the hosts that roll back.
            if let ConnectionState::Down { since } = &mut self.connection {
                *since = now;
            }
        } else {
            self.stop(now, skip, outcome);
        }
    }

    /// Makes the current wave fail and send nothing more.
    pub(super) fn fail_wave(&mut self, now: Duration, skip: SkipReason, cause: FailureReason) {
        if self.current.halted.is_none() && self.is_running() {
            self.halt(now, skip, cause.clone());
        }
        self.current.failure.get_or_insert(cause);
    }

    /// Makes the current wave send nothing more.
    pub(super) fn halt(&mut self, now: Duration, skip: SkipReason, cause: FailureReason) {
        self.current.halted = Some(skip);
        if self.progress().in_flight > 0 {
            self.record(now, EventKind::Draining { wave: self.state.current_wave, cause });
        }
        self.give_up_retries(now);
    }

    /// Makes the hosts final that wait for a retry, since no further request is sent.
    fn give_up_retries(&mut self, now: Duration) {
        for index in self.range() {
            if let HostState::Waiting(outcome) = self.host(index).state {
                let response = match &mut self.contact_mut(index).timer {
                    Timer::Retry { response, .. } => response.take(),
                    Timer::Off | Timer::InFlight(_) => None,
                };
                self.finish_host(now, index, outcome, response);
            }
        }
    }

    /// Takes the next step of the rollback, and returns whether it is over. One host after another rolls back.
    fn step_rollback(&mut self, now: Duration) -> bool {
        if !self.timers.is_empty() {
            return false;
        }
        match self.next_to_roll_back() {
            None => self.stop(now, SkipReason::EarlierWave, Outcome::Failed),
            Some(_) if self.state.interrupt.is_some() => {
                self.stop(now, SkipReason::EarlierWave, Outcome::Interrupted);
            }
            Some((index, request)) => {
                if self.is_up() {
                    let host = self.host(index).name.clone();
                    self.record(now, EventKind::RollingBack { host, request });
                    self.expect_response(now, index);
                    self.publish(now, index, Effect::Send);
                }
                return false;
            }
        }
        true
    }

    /// Returns the host of the wave that completed last among those that were not asked to roll back, and the request
    /// to do so.
    fn next_to_roll_back(&self) -> Option<(usize, RequestId)> {
        let wave = self.range();
        let newest_first = self.state.completed.iter().rev().copied().filter(|index| wave.contains(index));
        newest_first.filter(|&index| self.host(index).rollback.is_none()).find_map(|index| {
            let completed = self.host(index).request.as_ref()?;
            Some((index, self.rollout.ids.rollback_of(completed)))
        })
    }

    /// Skips all waves that are not over, and ends the rollout.
    pub(super) fn stop(&mut self, now: Duration, cause: SkipReason, outcome: Outcome) {
        let is_over = matches!(self.wave_state(), WaveState::Ended(_));
        for wave in self.state.current_wave.0 + usize::from(is_over)..self.state.waves.len() {
            self.skip(now, self.range_of(WaveIndex(wave)), cause);
            self.record(now, EventKind::WaveEnded { wave: WaveIndex(wave), verdict: WaveVerdict::Skipped });
        }
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

    pub(super) fn on_interrupt(&mut self, now: Duration, how: Interrupt) {
        if self.state.interrupt >= Some(how) {
            return;
        }
        self.record(now, EventKind::Interrupted { how });
        self.give_up_retries(now);
        if how == Interrupt::Drain {
            return;
        }
        if let WaveState::Ended(_) = self.wave_state() {
            return self.stop(now, SkipReason::EarlierWave, Outcome::Interrupted);
        }
        self.skip(now, self.range(), SkipReason::Interrupt);
        self.record(now, EventKind::WaveEnded { wave: self.state.current_wave, verdict: WaveVerdict::Interrupted });
        self.stop(now, SkipReason::Interrupt, Outcome::Interrupted);
    }

    pub(super) fn on_confirmation(&mut self, now: Duration, answer: Confirmation) {
        match answer {
            _ if *self.wave_state() != WaveState::AwaitingConfirmation => {}
            Confirmation::Yes => self.start_wave(now),
            Confirmation::No => self.stop(now, SkipReason::NotConfirmed, Outcome::Declined),
            Confirmation::Unavailable => self.stop(now, SkipReason::NotConfirmed, Outcome::Paused),
        }
    }

    pub(super) fn on_check_done(&mut self, now: Duration, result: Result<(), String>) {
        if *self.wave_state() == WaveState::Checking {
            let failed = |reason| WaveVerdict::Failed(FailureReason::CheckFailed { reason });
            self.end_wave(now, result.map_or_else(failed, |()| WaveVerdict::Succeeded));
        }
    }
}
