//! The silent hosts of a group that a single deployment is for as well: they may be about to answer, and one that is not there
//! at all costs nothing.

use std::collections::BTreeSet;

use crate::operator::fleet::SilentHost;
use crate::plan::{Plan, Roster, Selector, Spanned};
use crate::protocol::{HostName, Target};

/// Adds those of the silent hosts to the plan that belong to a group of which somebody answered, and returns their names.
pub(super) fn remember(plan: &mut Plan, roster: &Roster, silent: &[SilentHost]) -> BTreeSet<HostName> {
    let mut remembered = BTreeSet::new();
    for wave in &mut plan.waves {
        let groups: Vec<Target> = wave.targets.iter().map(|by| by.value.target.clone()).collect();
        for group in groups.iter().filter(|group| roster.members(&group.subject()).next().is_some()) {
            for host in silent.iter().filter(|host| belongs(host, group)) {
                let target = Target::Host(host.tier, host.hostname.clone());
                wave.targets.push(Spanned::nowhere(Selector { text: target.subject().to_string(), target }));
                remembered.insert(host.hostname.clone());
            }
        }
    }
    remembered
}

fn belongs(host: &SilentHost, group: &Target) -> bool {
    match group {
        Target::All(tier) => host.tier == *tier,
        Target::Role(tier, role) => host.tier == *tier && host.role.as_ref() == Some(role),
        Target::Host(..) | Target::Custom(_) => false,
    }
}
