//! Selects the hosts and waves of a plan that are rolled out.

use std::collections::BTreeSet;

use miette::Diagnostic;
use thiserror::Error;

use crate::operator::discovery::HostsByTier;
use crate::plan::{Plan, ResolvedPlan, Roster, Selector, Spanned};
use crate::protocol::{HostName, Target};
use crate::text::did_you_mean;

/// The waves of a plan to roll out. The selection does not change which hosts a wave has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaveSelection {
    /// These waves; `None` means all.
    pub only: Option<Vec<String>>,
    /// This wave and all later ones.
    pub from: Option<String>,
}

#[derive(Debug, Error, Diagnostic)]
pub enum SelectionError {
    #[error("the plan has no wave {wave:?}")]
    #[diagnostic(help("{}its waves are: {}", did_you_mean(wave, waves.iter().map(String::as_str)), waves.join(", ")))]
    NoSuchWave { wave: String, waves: Vec<String> },
    #[error("wave {0:?} is empty")]
    #[diagnostic(help("every host that it names is excluded"))]
    EmptyWave(String),
    #[error("there is no host {host} to exclude")]
    #[diagnostic(help(
        "{near}it neither answers nor is named in the plan; `homelab-deploy hosts` lists those that answer"
    ))]
    NoSuchHost { host: HostName, near: String },
    #[error("nothing is left of the plan")]
    #[diagnostic(help("every wave was for hosts that are excluded"))]
    Nothing,
}

impl WaveSelection {
    /// Keeps the selected waves; `all` are the names of the plan's waves.
    pub(super) fn select(&self, plan: &mut ResolvedPlan, all: Vec<String>) -> Result<(), SelectionError> {
        for wave in self.only.iter().flatten().chain(&self.from) {
            if !all.contains(wave) {
                return Err(SelectionError::NoSuchWave { wave: wave.clone(), waves: all });
            }
            if !plan.waves.iter().any(|resolved| resolved.name == *wave) {
                return Err(SelectionError::EmptyWave(wave.clone()));
            }
        }
        let mut is_reached = self.from.is_none();
        plan.keep_waves(|wave| {
            is_reached |= self.from.as_ref() == Some(&wave.name);
            is_reached && self.only.as_ref().is_none_or(|only| only.contains(&wave.name))
        });
        // The selection may consist of waves that are excluded.
        if plan.waves.is_empty() && self.only.is_some() { Err(SelectionError::Nothing) } else { Ok(()) }
    }
}

/// Takes hosts out of a plan. Hosts that do not answer now may be named too, if they are known.
pub(super) fn exclude_hosts(
    plan: &mut Plan,
    excluded: &[HostName],
    roster: &Roster,
    silent: &HostsByTier,
) -> Result<(), SelectionError> {
    for host in excluded {
        let is_silent = silent.values().any(|hosts| hosts.contains_key(host));
        if !is_silent && !roster.knows(host) && !plan.names_host(host) {
            let named = plan.named_hosts();
            let known = roster.hosts().map(|report| &report.hostname).chain(named.iter().map(|named| &named.host));
            let near = did_you_mean(host.as_str(), known.map(HostName::as_str));
            return Err(SelectionError::NoSuchHost { host: host.clone(), near });
        }
        plan.exclude(host);
    }
    if plan.waves.is_empty() { Err(SelectionError::Nothing) } else { Ok(()) }
}

/// Adds silent hosts to the plan if they belong to a group of which another host answered, and returns their names.
/// They may be about to answer, and a request to an absent host costs nothing.
pub(super) fn add_silent_hosts(plan: &mut Plan, roster: &Roster, silent: &HostsByTier) -> BTreeSet<HostName> {
    let mut remembered = BTreeSet::new();
    for wave in &mut plan.waves {
        let groups: Vec<Target> = wave.targets.iter().map(|by| by.value.target.clone()).collect();
        for group in groups.iter().filter(|group| roster.members(&group.subject()).next().is_some()) {
            let (tier, role) = match group {
                Target::All(tier) => (tier, None),
                Target::Role(tier, role) => (tier, Some(role)),
                Target::Host(..) | Target::Custom(_) => continue,
            };
            let hosts = silent.get(tier).into_iter().flatten();
            for (host, _) in hosts.filter(|(_, known)| role.is_none() || known.role.as_ref() == role) {
                let target = Target::Host(*tier, host.clone());
                wave.targets.push(Spanned::nowhere(Selector { text: target.subject().to_string(), target }));
                remembered.insert(host.clone());
            }
        }
    }
    remembered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::testing::rollout;

    #[test]
    fn a_host_that_does_not_answer_can_be_excluded_if_it_is_known() {
        let text = "name = \"sunday\"\nrevision = \"main\"\n[[wave]]\nname = \"dns\"\ntargets = [\"prod.role.dns\"]\n";
        let plan = Plan::parse(text, "sunday", &|_: &str| None).unwrap();
        let silent: HostsByTier = serde_json::from_str(r#"{"prod":{"ns1":{"seen":1}}}"#).unwrap();
        let exclude =
            |host: &str| exclude_hosts(&mut plan.clone(), &[host.parse().unwrap()], &Roster::new(Vec::new()), &silent);
        assert!(exclude("ns1").is_ok());
        assert!(matches!(exclude("ns2"), Err(SelectionError::NoSuchHost { .. })));
    }

    #[test]
    fn a_selection_without_a_wave_is_not_one_of_all_waves() {
        let mut plan = ResolvedPlan::clone(&rollout(&[&["a"], &["b"], &["c"]]).plan);
        let names = || ["wave1", "wave2", "wave3"].map(str::to_owned).to_vec();
        let select = |plan: &mut ResolvedPlan, only: &[&str], from: Option<&str>| {
            let only = Some(only.iter().copied().map(str::to_owned).collect());
            let selection = WaveSelection { only: only.filter(|_| from.is_none()), from: from.map(str::to_owned) };
            selection
                .select(plan, names())
                .map(|()| plan.waves.iter().map(|wave| wave.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(select(&mut plan.clone(), &["wave1", "wave3"], None).unwrap(), ["wave1", "wave3"]);
        assert_eq!(select(&mut plan.clone(), &[], Some("wave2")).unwrap(), ["wave2", "wave3"]);
        assert!(matches!(select(&mut plan, &[], None), Err(SelectionError::Nothing)));
    }
}
