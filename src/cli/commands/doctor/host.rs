//! A host, as its listener would find it: the key, what the server lets it do, the programs, the flake.

use uuid::Uuid;

use super::findings::Findings;
use super::operator::deviations;
use crate::bus::{self, Bus, Settings};
use crate::listener;
use crate::nats_config::{FleetList, ListenerName, Principal};
use crate::protocol::{FlakeUrl, SubjectError};

pub(in crate::cli) struct HostCheckup<'a> {
    pub(in crate::cli) name: ListenerName,
    pub(in crate::cli) settings: Settings,
    pub(in crate::cli) flake: Option<FlakeUrl>,
    pub(in crate::cli) fleet: Option<&'a FleetList>,
}

impl HostCheckup<'_> {
    pub(in crate::cli) async fn examine(self) -> Result<Findings, SubjectError> {
        let mut findings = Findings::default();
        match &self.flake {
            Some(flake) => {
                let missing = listener::missing(flake).await;
                if missing.is_empty() {
                    findings.ok("programs", "nixos-rebuild, nix and git are there, and the flake can be asked");
                }
                for what in missing {
                    findings.problem(
                        "programs",
                        what,
                        "the NixOS module brings the programs; see docs/operations.md for keys of git",
                    );
                }
            }
            None => findings.note("flake", "it was not looked at", "give --flake-url as the listener has it"),
        }
        let holder = Principal::Listener(self.name);
        let known = bus::public_key(&self.settings.nkey_file).ok().and_then(|(key, _)| self.fleet?.holder(&key));
        if let Some(other) = known.filter(|known| *known != holder) {
            findings.problem(
                "key",
                format!("this is the key of the {other}"),
                "give this host its own seed, keys/TIER.HOST.seed",
            );
        }
        let mut bus = match Bus::connect(&self.settings).await {
            Ok(bus) => bus,
            Err(error) => {
                findings.error("server", &error);
                return Ok(findings);
            }
        };
        findings.ok("server", "it accepts the key");
        let (needs, must_not) = (holder.needs()?, holder.must_not()?);
        let token = Uuid::new_v4().to_string();
        match super::operator::try_out(&mut bus, needs.iter().chain(&must_not), &token).await {
            Ok(tried) => {
                let deviations = deviations(&tried, &needs, &must_not, &token);
                if deviations.is_empty() {
                    findings.ok("permissions", "this key may answer for this host, and for no other");
                }
                findings.deviations("permissions", "this key", &deviations);
            }
            Err(why) => findings.problem("server", why, "try again when the server is well"),
        }
        Ok(findings)
    }
}
