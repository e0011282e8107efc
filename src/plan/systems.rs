//! Assigns systems that were built before the rollout to hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use miette::MietteDiagnostic;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::diagnostic::{PlanErrors, list};
use super::resolved::{Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave};
use crate::protocol::{Action, Commit, SystemPath};

/// The systems of a commit by host name, as `homelab-deploy build` or a CI job writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Systems {
    pub commit: Commit,
    /// The flake that was built, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flake: Option<String>,
    /// The cache that the systems were copied to, as `nix copy` accepts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// The store path for each host. It may have more hosts than a plan.
    pub systems: BTreeMap<String, SystemPath>,
}

impl Systems {
    /// Returns the error for a plan with `stage` and without systems.
    pub fn missing_to_stage() -> PlanErrors {
        let mistake = MietteDiagnostic::new("`stage` has hosts fetch their systems first, and there are none");
        mistake
            .with_help("give the systems with --systems or `systems` in the plan, or add --build; or remove `stage`")
            .into()
    }

    /// Fails if the systems were not built from `commit`.
    pub fn check_commit(&self, commit: &Commit) -> Result<(), PlanErrors> {
        if self.commit == *commit {
            return Ok(());
        }
        let (built, wanted) = (self.commit.short(), commit.short());
        let mistake =
            MietteDiagnostic::new(format!("the systems were built from {built}, and the plan is for {wanted}"));
        let help = format!(
            "build them again with `homelab-deploy build`, or deploy what was built with --revision {}",
            self.commit
        );
        Err(mistake.with_help(help).into())
    }
}

impl ResolvedPlan {
    /// Assigns each host its built system. Fails if a host has none, as it would have to evaluate its own, or if a
    /// listener does not accept one.
    pub fn take_systems(&mut self, systems: &Systems) -> Result<(), PlanErrors> {
        for host in self.waves.iter_mut().flat_map(|wave| &mut wave.hosts) {
            host.system = systems.systems.get(host.hostname.as_str()).cloned();
        }
        let mistakes = [
            self.those(|host| host.system.is_none()).map(|hosts| {
                MietteDiagnostic::new(format!("no system was built for {hosts}"))
                    .with_help("build theirs as well with `homelab-deploy build`, or leave them out with --exclude")
            }),
            self.those(|host| host.present && !host.supports_system).map(|hosts| {
                MietteDiagnostic::new(format!("the listeners of {hosts} do not take systems that were built elsewhere")).with_help(
                    "set `systems.trustedKeys` there and deploy that once without built systems, or leave them out with --exclude",
                )
            }),
            self.those(|host| host.shared_subject.is_some()).map(|hosts| {
                MietteDiagnostic::new(format!("{hosts} cannot be sent a system of their own: others may hear it"))
                    .with_help("let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>")
            }),
        ];
        PlanErrors::unless_none(mistakes.into_iter().flatten().collect())
    }

    /// Inserts a first wave in which all hosts fetch their systems before any of them is changed. One failure halts it.
    pub fn fetch_first(&mut self) {
        let most =
            |of: fn(&Limits) -> Duration| self.waves.iter().map(|wave| of(&wave.limits)).max().unwrap_or_default();
        let limits = Limits {
            max_parallel: self.waves.iter().map(|wave| wave.limits.max_parallel).max().unwrap_or(1),
            max_failures: 0,
            min_hosts: 0,
            accept_timeout: most(|limits| limits.accept_timeout),
            timeout: most(|limits| limits.timeout),
            retry_delay: Duration::ZERO,
            ..Settings::default().limits(1)
        };
        let hosts = self.hosts().cloned().collect();
        let wave =
            ResolvedWave { name: "fetch".to_owned(), action: Action::Fetch, hosts, groups: Groups::default(), limits };
        self.waves.insert(0, wave);
        self.stage = true;
    }

    fn those(&self, is_it: impl Fn(&ResolvedHost) -> bool) -> Option<String> {
        list(self.hosts().filter(|host| is_it(host)).map(|host| host.hostname.as_str()))
    }
}
