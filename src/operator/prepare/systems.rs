//! Systems built before hosts receive requests: builds them, and finds what they change and which hosts run them.

use super::{PrepareError, PrepareOptions};
use crate::operator::nix::{BuildOptions, NixError, closures};
use crate::plan::{Changes, Plan, PlanErrors, ResolvedPlan, Roster, Systems};
use crate::protocol::{Action, Commit, FlakeUrl, Revision};

/// The source of the systems that are sent to hosts.
#[derive(Debug, Clone)]
pub enum SystemsFrom {
    /// Built before the rollout is prepared.
    Built(Systems),
    /// Built once the hosts and the commit are known.
    Building(BuildOptions),
}

impl SystemsFrom {
    /// Returns the revision of a plan: `given`, else the plan's own, else the commit that the systems were built from.
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
    /// Assigns built systems to the hosts of a plan, building them first if needed. Returns what the systems change.
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

/// Asks a cache what changes on the hosts that get built systems.
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

/// Marks the hosts that already run and boot what they would switch to, so that they get no request. A host without a subject
/// of its own gets the request of those it shares one with.
pub(super) fn leave_current(commit: &Commit, plan: &mut ResolvedPlan, roster: &Roster) {
    let waves = plan.waves.iter_mut().filter(|wave| wave.action == Action::Switch);
    for host in waves.flat_map(|wave| &mut wave.hosts).filter(|host| host.shared_subject.is_none()) {
        let report = roster.host(host.tier, &host.hostname);
        host.is_current = report.is_some_and(|report| match &host.system {
            Some(system) => report.is_current_system(system),
            None => report.is_current(commit),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::protocol::HostAnswer;

    #[test]
    fn a_current_host_that_shares_its_subject_is_asked_like_the_others() {
        let rollout = rollout(&[&["alone", "sharing"]]);
        let (commit, mut plan) = (rollout.revision.commit().unwrap(), rollout.plan.clone());
        let answers = ["alone", "sharing"].map(|host| {
            let last = json!({
                "id": "r-0", "status": "completed", "at": "2026-11-23T10:00:00Z", "revision": commit, "current": true,
            });
            let report = json!({ "hostname": host, "tier": "test", "last": last });
            HostAnswer { report: serde_json::from_value(report).unwrap(), proved: true }
        });
        plan.waves[0].hosts[1].shared_subject = Some("fleet.all".parse().unwrap());
        leave_current(&commit, &mut plan, &Roster::new(answers.into()));
        assert_eq!(plan.hosts().map(|host| host.is_current).collect::<Vec<_>>(), [true, false]);
    }
}
