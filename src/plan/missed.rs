//! Hosts that were there for an earlier rollout of a plan and are not now. Groups are those that answer: nothing else
//! would notice that one of them is gone.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::resolved::{ResolvedHost, ResolvedPlan, ResolvedWave};
use super::roster::Roster;
use crate::protocol::{HostName, Target};

impl ResolvedPlan {
    /// The hosts that belonged to a group of this plan in one of these earlier rollouts and do not answer now, each with
    /// when it was there last.
    pub fn missed<'a>(
        &self,
        roster: &Roster,
        earlier: impl IntoIterator<Item = (Timestamp, &'a Self)>,
    ) -> BTreeMap<HostName, Timestamp> {
        // A host that the plan names is in it whether or not it answers, and is shown as silent there.
        let known: LazyCell<BTreeSet<&HostName>, _> =
            LazyCell::new(|| self.hosts().map(|host| &host.hostname).chain(&self.left_out).collect());
        let mut missed = BTreeMap::new();
        for (at, plan) in earlier {
            for wave in &plan.waves {
                let gone =
                    wave.hosts.iter().filter(|host| host.present && roster.host(host.tier, &host.hostname).is_none());
                for host in gone.filter(|host| !known.contains(&host.hostname) && self.would_take(host, wave)) {
                    let last = missed.entry(host.hostname.clone()).or_insert(at);
                    *last = at.max(*last);
                }
            }
        }
        missed
    }

    /// Whether a host that an earlier wave had would be in this plan again, as far as that can be told: its role is not
    /// known, but which groups that wave drew from.
    fn would_take(&self, host: &ResolvedHost, earlier: &ResolvedWave) -> bool {
        let own = Target::Host(host.tier, host.hostname.clone()).subject();
        self.waves.iter().map(|wave| &wave.groups).any(|groups| {
            let same_group = groups.targets.iter().any(|group| earlier.groups.targets.contains(group));
            same_group && !groups.exclude.contains(&own)
        })
    }
}
