//! Keeps track of who can be reached: through outages of the bus, and by the answers to the roll call.

use std::time::Duration;

use super::{ConnectionState, Machine};
use crate::protocol::{Feature, HostReport};
use crate::rollout::Effect;
use crate::rollout::event::{Connection, EventKind, FailureReason, HostOutcome, Outcome, SkipReason, WaveIndex};
use crate::rollout::summary::{HostState, WaveState};

/// The most late hosts that are reported: more names tell the operator nothing, and anybody can make names up.
const MAX_NAMED: usize = 1000;

impl Machine {
    pub(super) fn on_disconnect(&mut self, now: Duration) {
        if self.is_up() {
            self.connection = ConnectionState::Down { since: now };
            self.record(now, EventKind::Connection { state: Connection::Down });
        }
    }

    /// Extends the deadline of every host in flight by the outage, and asks each for its state.
    pub(super) fn on_reconnect(&mut self, now: Duration) {
        let ConnectionState::Down { since } = self.connection else { return };
        self.record(now, EventKind::Connection { state: Connection::Up });
        self.connection = ConnectionState::Up { reliable_from: now + self.limits().accept_timeout };
        for index in self.in_flight() {
            self.change_flight(index, |flight| flight.extend_by_outage(now, now.saturating_sub(since)));
            self.ask_state(now, index);
        }
        if self.roll_until.is_some() && self.lacks_answers() {
            self.call_roll(now);
        }
    }

    /// Asks every host in flight for its state, since responses may have been lost.
    pub(super) fn on_responses_lost(&mut self, now: Duration) {
        self.in_flight().into_iter().for_each(|index| self.ask_state(now, index));
    }

    /// Ends the wave after an outage as long as a host may take: the outcome of the hosts in flight is unknown. If the
    /// wave rolls back, its other hosts do so only on a resume.
    pub(super) fn on_bus_lost(&mut self, now: Duration) {
        let is_rollback = matches!(self.wave_state(), WaveState::Ended(_));
        if !is_rollback {
            self.halt(now, SkipReason::Disconnected, FailureReason::Disconnected);
        }
        for index in self.in_flight() {
            self.end_request(now, index, HostOutcome::TimedOut, None);
        }
        if is_rollback {
            self.stop(now, SkipReason::EarlierWave, Outcome::Failed);
        }
    }

    /// Calls the roll again if the plan has groups, or if a host of this wave may be sent nothing before it answers.
    /// For such a host the wave waits an accept timeout.
    pub(super) fn call_roll(&mut self, now: Duration) {
        self.roll_until = self.lacks_answers().then(|| now + self.limits().accept_timeout);
        if self.is_up() && (self.roll_until.is_some() || self.rollout.plan.has_groups()) {
            self.effects.push_back(Effect::CallRoll);
        }
    }

    /// Whether a host of the wave may be sent nothing before it answers the roll call.
    fn lacks_answers(&self) -> bool {
        self.range().any(|index| self.host(index).state == HostState::Pending && !self.supports_wave(index))
    }

    /// Handles an answer to the roll call. A silent host in flight may not have heard its request: it is asked again. A
    /// host of the plan's groups that was not known when the plan was resolved is reported, and never sent anything.
    pub(super) fn on_roll_call_answer(&mut self, now: Duration, report: &HostReport) {
        let place = self.state.index_of(&report.hostname);
        if let Some(index) = place.filter(|index| self.resolved_host(*index).tier == report.tier) {
            let contact = self.contact_mut(index);
            contact.supports_rollback |= report.has(&Feature::Rollback);
            contact.supports_system |= report.has(&Feature::System);
            if contact.flight().is_some_and(|flight| flight.is_to_be_asked(now)) {
                self.ask_state(now, index);
            }
        }
        let (host, named) = (&report.hostname, &self.state.late_hosts);
        let is_of_plan = place.is_some() || self.rollout.plan.left_out.contains(host);
        if is_of_plan || named.contains_key(host) || named.len() >= MAX_NAMED {
            return;
        }
        if let Some(wave) = self.rollout.plan.wave_of_group(report) {
            self.record(now, EventKind::AnsweredLate { host: host.clone(), wave: WaveIndex(wave) });
        }
    }
}
