//! Systems that are built before hosts are asked, what they change, and who runs them already.

use super::{PrepareError, PrepareOptions};
use crate::operator::nix::{BuildOptions, NixError, closures};
use crate::plan::{Changes, Plan, PlanErrors, ResolvedPlan, Roster, Systems, runs};
use crate::protocol::{Action, Commit, FlakeUrl, Revision};

/// Where the systems come from that hosts are given.
#[derive(Debug, Clone)]
pub enum SystemsFrom {
    /// They are built already.
    Built(Systems),
    /// They are built as soon as it is known for which hosts, and of which commit.
    Building(BuildOptions),
}

impl SystemsFrom {
    /// What a plan is for: the revision that was given, else its own, else what the systems were built from.
    pub fn revision(systems: Option<&Self>, plan: &Plan, given: Option<Revision>) -> Result<Revision, PlanErrors> {
        let built_from = systems.and_then(Self::commit).filter(|_| plan.revision.is_none());
        plan.revision(given.or_else(|| built_from.cloned().map(Revision::from)))
    }

    const fn commit(&self) -> Option<&Commit> {
        match self {
            Self::Built(systems) => Some(&systems.commit),
            Self::Building(_) => None,
        }
    }
}

impl PrepareOptions {
    /// Gives the hosts of a plan the systems that were built for them, or are built now, and returns what those change.
    pub(super) async fn give_systems(
        &self,
        plan: &mut ResolvedPlan,
        roster: &Roster,
        flake: Option<&FlakeUrl>,
        commit: &Commit,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Changes>, PrepareError> {
        let systems = match &self.systems {
            None if self.plan.stage => return Err(Systems::missing_to_stage().into()),
            None => return Ok(None),
            Some(SystemsFrom::Built(systems)) => systems.clone(),
            Some(SystemsFrom::Building(options)) => {
                let flake = flake.ok_or(PrepareError::NoFlake)?;
                options.build(flake, commit, plan.hosts().map(|host| &host.hostname)).await?
            }
        };
        systems.check_commit(commit)?;
        plan.take_systems(&systems)?;
        let cache = self.binary_cache.as_ref().or(systems.cache.as_ref());
        Ok(match changes_of(plan, roster, cache.map(String::as_str)).await {
            Ok(changes) => Some(changes),
            Err(error) => {
                warnings.push(format!("what changes is not known: {error}"));
                None
            }
        })
    }
}

/// What changes on the hosts that get systems that were built before, as a cache tells it.
pub async fn changes_of(plan: &ResolvedPlan, roster: &Roster, cache: Option<&str>) -> Result<Changes, NixError> {
    let hosts = plan.hosts().filter_map(|host| {
        let runs = roster.host(host.tier, &host.hostname).and_then(|report| report.system.as_deref());
        Some((&host.hostname, runs, host.system.as_ref()?.as_str()))
    });
    let hosts: Vec<_> = hosts.collect();
    let systems = hosts.iter().filter(|(_, runs, shall_run)| *runs != Some(*shall_run));
    let systems = systems.flat_map(|(_, runs, shall_run)| runs.iter().copied().chain([*shall_run])).collect();
    Ok(closures(systems, cache).await?.changes(hosts))
}

/// Hosts that would only switch to what they run and boot are not asked.
pub(super) fn leave_current(commit: &Commit, plan: &mut ResolvedPlan, roster: &Roster) {
    let waves = plan.waves.iter_mut().filter(|wave| wave.action == Action::Switch);
    for host in waves.flat_map(|wave| &mut wave.hosts) {
        let report = roster.host(host.tier, &host.hostname);
        host.is_current = report.is_some_and(|report| match &host.system {
            Some(system) => runs(report, system),
            None => report.is_current(commit),
        });
    }
}
