//! Hosts of the plan's groups that turn up when it is settled who is deployed: they are named, and never sent anything.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Link, Machine};
use crate::protocol::{HostName, HostReport};
use crate::rollout::Effect;
use crate::rollout::event::{EventKind, WaveIndex};

/// The most hosts that are named: of more, the names say nothing, and anybody can make them up.
const MAX_NAMED: usize = 1000;

/// Who is no news.
#[derive(Debug, Clone, Default)]
pub(super) struct Latecomers {
    /// The hosts of the plan, and those that were named; nobody until somebody answers the roll call.
    known: BTreeSet<HostName>,
    named: BTreeSet<HostName>,
}

impl Latecomers {
    /// Those that a record names already.
    pub(super) fn named<'a>(hosts: impl IntoIterator<Item = &'a HostName>) -> Self {
        Self { known: BTreeSet::new(), named: hosts.into_iter().cloned().collect() }
    }
}

impl Machine {
    /// Asks who is there meanwhile, where it depends on that whom the plan is for.
    pub(super) fn call_roll(&mut self) {
        if !self.rollout.plan.has_groups() || matches!(self.link, Link::Down { .. }) {
            return;
        }
        self.effects.push_back(Effect::CallRoll);
    }

    pub(super) fn present(&mut self, now: Duration, report: &HostReport) {
        // Who answers may have been asked by the process before this one.
        if self.latecomers.known.is_empty() {
            let plan = &self.rollout.plan;
            let hosts = plan.hosts().map(|host| &host.hostname).chain(&plan.left_out);
            self.latecomers.known = hosts.cloned().collect();
        }
        let Latecomers { known, named } = &mut self.latecomers;
        let host = &report.hostname;
        if known.contains(host) || named.contains(host) || named.len() >= MAX_NAMED {
            return;
        }
        if let Some(wave) = self.rollout.plan.wave_of_group(report) {
            named.insert(host.clone());
            self.report(now, EventKind::TurnedUp { host: host.clone(), wave: WaveIndex(wave) });
        }
    }
}
