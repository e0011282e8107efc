//! Systems that were built before the rollout, and which host gets which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::diagnostic::{PlanDiagnostic, PlanErrors, list};
use super::resolved::{ResolvedHost, ResolvedPlan};
use crate::protocol::{Commit, HostReport, SystemPath};

/// The systems of a commit, by the names of their hosts, as `homelab-deploy build` or a CI job writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Systems {
    /// What they were built from.
    pub commit: Commit,
    /// The flake of that commit, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flake: Option<String>,
    /// The cache that they were copied to, as `nix copy` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// The store path for each host. There may be more hosts than a plan has.
    pub systems: BTreeMap<String, SystemPath>,
}

impl Systems {
    /// Makes sure that these are the systems of the commit that is to be deployed.
    pub fn check_commit(&self, commit: &Commit) -> Result<(), PlanErrors> {
        if self.commit == *commit {
            return Ok(());
        }
        let (built, wanted) = (self.commit.short(), commit.short());
        let mistake =
            PlanDiagnostic::mistake(format!("the systems were built from {built}, and the plan is for {wanted}"));
        let help = format!(
            "build them again with `homelab-deploy build`, or deploy what was built with --revision {}",
            self.commit
        );
        Err(mistake.help(help).into())
    }
}

impl ResolvedPlan {
    /// Gives each host the system that was built for it. A host without one would evaluate its own, which is what this is to
    /// spare it: it is a mistake, as is a listener that does not take one.
    pub fn take_systems(&mut self, systems: &Systems) -> Result<(), PlanErrors> {
        for host in self.waves.iter_mut().flat_map(|wave| &mut wave.hosts) {
            host.system = systems.systems.get(host.hostname.as_str()).cloned();
        }
        let mistakes = [
            self.those(|host| host.system.is_none()).map(|hosts| {
                PlanDiagnostic::mistake(format!("no system was built for {hosts}"))
                    .help("build theirs as well with `homelab-deploy build`, or leave them out with --exclude")
            }),
            self.those(|host| host.present && !host.supports_system).map(|hosts| {
                PlanDiagnostic::mistake(format!("the listeners of {hosts} do not take systems that were built elsewhere")).help(
                    "set `systems.trustedKeys` there and deploy that once without built systems, or leave them out with --exclude",
                )
            }),
            self.those(|host| host.shared_subject.is_some()).map(|hosts| {
                PlanDiagnostic::mistake(format!("{hosts} cannot be sent a system of their own: others may hear it"))
                    .help("let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>")
            }),
        ];
        PlanErrors::unless_none(mistakes.into_iter().flatten().collect())
    }

    /// The names of the hosts of which this is true, where there are any.
    fn those(&self, is_it: impl Fn(&ResolvedHost) -> bool) -> Option<String> {
        list(self.hosts().filter(|host| is_it(host)).map(|host| host.hostname.as_str()))
    }
}

/// Whether a switch to this system would change nothing: it runs and boots already, and the last run did not fail half-way.
pub fn runs(report: &HostReport, system: &SystemPath) -> bool {
    let has_failed = report.last.as_ref().is_some_and(|last| last.status != crate::protocol::Status::Completed);
    report.busy.is_none()
        && !has_failed
        && report.system.as_deref() == Some(system.as_str())
        && report.next_boot_differs != Some(true)
}
