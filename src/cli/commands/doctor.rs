//! `doctor`: finds what is wrong, and says what to do about it.

mod findings;
mod operator;
mod server_file;

use std::path::{Path, PathBuf};

use clap::{Arg, Args};
use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use self::findings::{Findings, Level};
use self::operator::{OperatorCheckup, deviations, try_out};
use super::nats_config::read_fleet;
use crate::bus::{self, Bus, SeedReaders};
use crate::cli::args::switch;
use crate::cli::connection::OperatorArgs;
use crate::cli::context::StateArgs;
use crate::cli::exit::{CommandResult, Exit, OrUsage};
use crate::cli::preparation::PlanFolders;
use crate::cli::{block_on, out};
use crate::listener;
use crate::nats_config::{FleetList, ListenerName, Principal};
use crate::protocol::{FlakeUrl, HostName, Role, SubjectError, Tier};

// Three commands in one, of which `doctor FILE` needs no connection.
#[derive(Debug, Args)]
#[command(mut_arg("nats_url", unless_file))]
#[command(mut_arg("nkey_file", |arg| unless_file(arg).default_value("/dev/null").hide_default_value(true)))]
#[command(
    override_usage = "homelab-deploy doctor [OPTIONS]\n       homelab-deploy doctor --listener [OPTIONS]\n       \
                            homelab-deploy doctor FILE"
)]
pub(in crate::cli) struct Doctor {
    /// Look at this configuration of nats-server only: what each key may do, and what it needs
    #[arg(value_name = "FILE", conflicts_with = "listener")]
    file: Option<PathBuf>,

    /// Look at this host as its listener would, with its key; takes --hostname, --tier, --role and --flake-url as the
    /// listener does
    #[arg(long)]
    listener: bool,

    /// File with the hosts and operators of the fleet [default: fleet.toml beside FILE]
    #[arg(long, env = "HOMELAB_DEPLOY_FLEET", value_name = "FILE")]
    fleet: Option<PathBuf>,

    /// Print one JSON array with everything that was found
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = switch)]
    json: bool,

    /// With --listener: name of this host
    #[arg(long, env = "HOMELAB_DEPLOY_HOSTNAME", value_name = "HOST", required_if_eq("listener", "true"))]
    hostname: Option<HostName>,

    /// With --listener: tier of this host
    #[arg(long, env = "HOMELAB_DEPLOY_TIER", required_if_eq("listener", "true"))]
    tier: Option<Tier>,

    /// With --listener: role of this host
    #[arg(long, env = "HOMELAB_DEPLOY_ROLE")]
    role: Option<Role>,

    /// With --listener: flake with the configuration of this host
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE_URL", value_name = "URL")]
    flake_url: Option<FlakeUrl>,

    /// Flake in which a branch or tag is looked up
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE", value_name = "URL")]
    flake: Option<FlakeUrl>,

    #[command(flatten)]
    plans: PlanFolders,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    operator: OperatorArgs,
}

fn unless_file(arg: Arg) -> Arg {
    arg.required(false).required_unless_present("file")
}

#[derive(Debug, Error, Diagnostic)]
#[error(transparent)]
struct TooLong(SubjectError);

impl Doctor {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let fleet = self.fleet_file().map(|file| read_fleet(&file)).transpose().or_usage()?;
        let findings = match (&self.file, self.listener_name()) {
            (Some(file), _) => Ok(server_file::examine(file, fleet.as_ref())),
            (None, Some(name)) => block_on(self.examine_host(name, fleet.as_ref()))?,
            (None, None) => {
                let discovery = self.operator.discovery(&self.state);
                block_on(OperatorCheckup { args: &self, discovery, fleet: fleet.as_ref() }.examine())?
            }
        };
        let findings = findings.map_err(TooLong).or_usage()?;
        if self.json {
            out::json(&findings.0);
        } else {
            out::data(&findings.text(out::data_room()));
        }
        Ok(if findings.worst() == Level::Problem { Exit::Failed } else { Exit::Success })
    }

    fn fleet_file(&self) -> Option<PathBuf> {
        let beside = || Some(self.file.as_ref()?.parent().unwrap_or(Path::new("")).join("fleet.toml"));
        self.fleet.clone().or_else(|| beside().filter(|file| file.exists()))
    }

    fn listener_name(&self) -> Option<ListenerName> {
        let (hostname, tier) = self.hostname.clone().zip(self.tier).filter(|_| self.listener)?;
        Some(ListenerName { tier, hostname, role: self.role.clone() })
    }

    /// Examines this host as its listener would: the programs, the flake, the key, and what the server lets the key do.
    async fn examine_host(&self, name: ListenerName, fleet: Option<&FleetList>) -> Result<Findings, SubjectError> {
        let connection = &self.operator.connection;
        let settings = connection.settings(format!("homelab-deploy doctor {}", name.hostname), SeedReaders::Refuse);
        let mut findings = Findings::default();
        match &self.flake_url {
            Some(flake) => {
                let missing = listener::missing(flake).await;
                if missing.is_empty() {
                    findings.ok("programs", "nixos-rebuild, nix and git are there, and the flake can be asked");
                }
                let next = "the NixOS module brings the programs; see docs/operations.md for keys of git";
                for what in missing {
                    findings.problem("programs", what, next);
                }
            }
            None => findings.note("flake", "it was not looked at", "give --flake-url as the listener has it"),
        }
        let is_this = |other: &Principal| matches!(other, Principal::Listener(other) if (other.tier, &other.hostname) == (name.tier, &name.hostname));
        let known = bus::public_key(&settings.nkey_file).ok().and_then(|(key, _)| fleet?.holder(&key));
        let has_its_own = known.as_ref().is_some_and(is_this);
        let holder = Principal::Listener(name);
        if let Some(other) = known.filter(|known| *known != holder) {
            let next = if has_its_own {
                "give --role as fleet.toml has it, or change it there and print the server's permissions anew"
            } else {
                "give this host its own seed, keys/TIER.HOST.seed"
            };
            findings.problem("key", format!("this is the key of the {other}"), next);
        }
        let connected = Bus::connect(&settings).await.map_err(|error| findings.error("server", &error));
        let Ok(mut bus) = connected else { return Ok(findings) };
        findings.ok("server", "it accepts the key");
        let (needs, must_not) = (holder.needs()?, holder.must_not()?);
        let token = Uuid::new_v4().to_string();
        if let Some(tried) = try_out(&mut bus, needs.iter().chain(&must_not), &token, &mut findings).await {
            let deviations = deviations(&tried, &needs, &must_not, &token);
            if deviations.is_empty() {
                findings.ok("permissions", "this key may answer for this host, and for no other");
            }
            findings.deviations("permissions", "this key", &deviations);
        }
        Ok(findings)
    }
}
