//! What a listener answers when it is asked who is there.

use std::path::PathBuf;

use super::Config;
use super::busy;
use super::host::Host;
use super::ledger::Ledger;
use crate::protocol::{DiscoveryAnswer, HostReport};

/// What this listener can do beyond the original protocol.
const FEATURES: [&str; 3] = ["id", "expires", "heartbeat"];

/// Answers with what does not change, and with what is so right now.
#[derive(Debug)]
pub(super) struct Reporter {
    host: Host,
    root: PathBuf,
    fixed: HostReport,
}

impl Reporter {
    pub(super) fn new(config: &Config) -> Self {
        let host = Host::new(config.root.clone());
        let fixed = HostReport {
            hostname: config.hostname.clone(),
            tier: config.tier,
            role: config.role.clone(),
            deploy_subjects: config.deploy_subjects.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            features: FEATURES.map(str::to_owned).into(),
            flake: Some(config.flake.public()),
            machine: host.machine(),
            revision: None,
            generation: None,
            system: None,
            booted_system_differs: None,
            uptime_s: None,
            busy: None,
            last: None,
        };
        Self { host, root: config.root.clone(), fixed }
    }

    /// The answer as of now.
    pub(super) fn answer(&self, ledger: &Ledger) -> DiscoveryAnswer {
        let (generation, system) = self.host.generation_and_system();
        DiscoveryAnswer::Host(Box::new(HostReport {
            revision: ledger.deployed(system.as_deref()).cloned(),
            generation,
            system,
            booted_system_differs: self.host.booted_system_differs(),
            uptime_s: self.host.uptime_s(),
            busy: ledger.holder().or_else(|| busy::activation(&self.root)),
            last: ledger.last_run(),
            ..self.fixed.clone()
        }))
    }
}
