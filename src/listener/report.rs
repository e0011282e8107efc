//! What a listener answers to a roll call.

use std::path::PathBuf;

use uuid::Uuid;

use super::Config;
use super::activation_lock;
use super::history::RequestHistory;
use super::host::{Host, System};
use super::snapshot::configuration_revision;
use crate::clock;
use crate::protocol::{Commit, DiscoveryAnswer, Feature, HostReport, Problem};

/// Answers with what does not change, and with what is so right now.
#[derive(Debug)]
pub(super) struct Reporter {
    host: Host,
    root: PathBuf,
    fixed: HostReport,
    /// The last system that was asked, and the commit that it says it is of.
    said: Option<(System, Option<Commit>)>,
}

impl Reporter {
    pub(super) fn new(config: &Config, instance: Uuid) -> Self {
        let host = Host::new(config.root.clone());
        let of_trust = Feature::OF_TRUST.into_iter().filter(|_| !config.system_keys.is_empty());
        let features = Feature::ALWAYS.into_iter().chain(of_trust).collect();
        let fixed = HostReport {
            hostname: config.hostname.clone(),
            tier: config.tier,
            role: config.role.clone(),
            deploy_subjects: config.deploy_subjects.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            features,
            flake: Some(config.flake.public()),
            instance: Some(instance),
            machine: host.machine(),
            revision: None,
            generation: None,
            system: None,
            booted_system_differs: None,
            reboot_required: None,
            next_boot_differs: None,
            deployed_differs: None,
            uptime_s: None,
            now: None,
            busy: None,
            last: None,
            problems: Vec::new(),
        };
        Self { host, root: config.root.clone(), fixed, said: None }
    }

    pub(super) async fn answer(&mut self, ledger: &RequestHistory, problems: Vec<Problem>) -> DiscoveryAnswer {
        let system = self.host.current();
        let said = match &system {
            Some(system) => self.revision_of(system).await,
            None => None,
        };
        let system = system.map(|system| system.path);
        let profile = self.host.profile();
        let next_boot = profile.as_ref().map(|profile| profile.system.path.as_str());
        DiscoveryAnswer::Host(Box::new(HostReport {
            last: ledger.last_run(system.as_deref(), next_boot).map(Box::new),
            revision: said.or_else(|| ledger.deployed(system.as_deref()).cloned()),
            generation: profile.as_ref().and_then(|profile| profile.generation),
            reboot_required: self.host.reboot_required(),
            next_boot_differs: next_boot.zip(system.as_deref()).map(|(next_boot, running)| next_boot != running),
            deployed_differs: ledger.last_deployed().and_then(|deployed| deployed.differs_from(system.as_deref()?)),
            system,
            booted_system_differs: self.host.booted_system_differs(),
            uptime_s: self.host.uptime_s(),
            now: Some(clock::now()),
            busy: ledger.holder().or_else(|| activation_lock::activation(&self.root)).map(Box::new),
            problems,
            ..self.fixed.clone()
        }))
    }

    /// The commit that a system says it is of. Each system is asked once.
    async fn revision_of(&mut self, system: &System) -> Option<Commit> {
        if self.said.as_ref().is_none_or(|(asked, _)| asked != system) {
            self.said = Some((system.clone(), configuration_revision(&self.host, system).await));
        }
        self.said.as_ref().and_then(|(_, said)| said.clone())
    }
}
