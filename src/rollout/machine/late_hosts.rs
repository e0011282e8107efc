//! Handles hosts that answer the roll call only after the plan was resolved. Hosts of the plan are deployed if their
//! listener supports what is asked; other hosts of its groups are reported, and never sent anything.

use std::time::Duration;

use super::Machine;
use crate::protocol::{Feature, HostReport};
use crate::rollout::Effect;
use crate::rollout::event::{EventKind, WaveIndex};
use crate::rollout::summary::HostState;

/// The most late hosts that are reported: more names tell the operator nothing, and anybody can make names up.
const MAX_NAMED: usize = 1000;

impl Machine {
    /// Calls the roll again if the plan has groups, or if a host of this wave may be sent nothing before it answers.
    /// For such a host the wave waits an accept timeout.
    pub(super) fn call_roll(&mut self, now: Duration) {
        self.roll_until = self.lacks_answers().then(|| now + self.timeouts().accept);
        if self.is_up() && (self.roll_until.is_some() || self.rollout.plan.has_groups()) {
            self.effects.push_back(Effect::CallRoll);
        }
    }

    /// Whether a host of the wave may be sent nothing before it answers the roll call.
    pub(super) fn lacks_answers(&self) -> bool {
        self.range().any(|index| self.host(index).state == HostState::Pending && !self.may_deploy(index))
    }

    /// Handles an answer to the roll call. A silent host in flight may not have heard its request: it is asked again.
    pub(super) fn present(&mut self, now: Duration, report: &HostReport) {
        let asked = self.state.place(&report.hostname).filter(|index| self.resolved_host(*index).tier == report.tier);
        if let Some(index) = asked {
            let contact = self.contact_mut(index);
            contact.supports_rollback |= report.has(&Feature::Rollback);
            contact.supports_system |= report.has(&Feature::System);
        }
        if let Some(index) = asked.filter(|index| self.contact(*index).is_to_be_asked(now)) {
            self.ask_state(now, index);
        }
        let (host, named) = (&report.hostname, &self.state.late_hosts);
        let is_of_plan = self.state.place(host).is_some() || self.rollout.plan.left_out.contains(host);
        if is_of_plan || named.contains_key(host) || named.len() >= MAX_NAMED {
            return;
        }
        if let Some(wave) = self.rollout.plan.wave_of_group(report) {
            self.record(now, EventKind::AnsweredLate { host: host.clone(), wave: WaveIndex(wave) });
        }
    }
}
