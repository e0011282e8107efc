//! Hosts that turn up when it is settled who is deployed. Those of the plan are deployed if they can do what is asked of them; others of its
//! groups are named, and never sent anything.

use std::time::Duration;

use super::Machine;
use crate::protocol::{Feature, HostReport};
use crate::rollout::Effect;
use crate::rollout::event::{EventKind, WaveIndex};
use crate::rollout::summary::HostState;

/// The most hosts that are named: of more, the names say nothing, and anybody can make them up.
const MAX_NAMED: usize = 1000;

impl Machine {
    /// Asks who is there meanwhile, where it depends on that whom the plan is for, or who of this wave may be sent anything:
    /// for such a host the wave waits as long as for an answer to a request.
    pub(super) fn call_roll(&mut self, now: Duration) {
        self.roll_until = self.lacks_answers().then(|| now + self.timeouts().accept);
        if self.is_up() && (self.roll_until.is_some() || self.rollout.plan.has_groups()) {
            self.effects.push_back(Effect::CallRoll);
        }
    }

    /// Whether a host of the wave may be sent nothing before it answers.
    pub(super) fn lacks_answers(&self) -> bool {
        self.range().any(|index| self.host(index).state == HostState::Pending && !self.may_deploy(index))
    }

    /// Takes notice of a host that is there. One that was asked and says nothing has not heard it.
    pub(super) fn present(&mut self, now: Duration, report: &HostReport) {
        let asked = self.state.place(&report.hostname).filter(|index| self.frozen(*index).tier == report.tier);
        if let Some(index) = asked {
            let contact = self.contact_mut(index);
            contact.supports_rollback |= report.has(&Feature::Rollback);
            contact.supports_system |= report.has(&Feature::System);
        }
        if let Some(index) = asked.filter(|index| self.contact(*index).is_to_be_asked(now)) {
            self.ask_state(now, index);
        }
        let (host, named) = (&report.hostname, &self.state.turned_up);
        let is_of_plan = self.state.place(host).is_some() || self.rollout.plan.left_out.contains(host);
        if is_of_plan || named.contains_key(host) || named.len() >= MAX_NAMED {
            return;
        }
        if let Some(wave) = self.rollout.plan.wave_of_group(report) {
            self.record(now, EventKind::TurnedUp { host: host.clone(), wave: WaveIndex(wave) });
        }
    }
}
