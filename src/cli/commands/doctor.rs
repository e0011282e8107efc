//! `doctor`: what is wrong, and what to do about it.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use miette::Diagnostic;
use thiserror::Error;

use super::nats_config::read_fleet;
use crate::bus::SeedReaders;
use crate::cli::checkup::host::HostCheckup;
use crate::cli::checkup::operator::Operator;
use crate::cli::checkup::{Findings, Level, server_file};
use crate::cli::connection::ConnectionArgs;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::operator::OperatorArgs;
use crate::cli::out;
use crate::cli::plan_file::PlanFolders;
use crate::cli::runtime::block_on;
use crate::cli::state::StateArgs;
use crate::nats_config::{FleetList, ListenerName};
use crate::protocol::{FlakeUrl, HostName, Role, SubjectError, Tier};

/// The command: one of three, of which the first needs no connection.
#[derive(Debug)]
pub(in crate::cli) struct Doctor {
    common: Common,
    patient: Patient,
}

#[derive(Debug)]
enum Patient {
    ServerFile(PathBuf),
    Host(HostArgs, ConnectionArgs),
    Fleet(Box<FleetArgs>),
}

#[derive(Debug, Error, Diagnostic)]
#[error(transparent)]
struct TooLong(SubjectError);

#[derive(Debug, Args)]
struct Common {
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
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = crate::cli::switch::read)]
    json: bool,
}

#[derive(Debug, Args)]
struct HostArgs {
    /// With --listener: name of this host
    #[arg(long, env = "HOMELAB_DEPLOY_HOSTNAME", value_name = "HOST", required = false)]
    #[arg(required_if_eq("listener", "true"))]
    hostname: HostName,

    /// With --listener: tier of this host
    #[arg(long, env = "HOMELAB_DEPLOY_TIER", required = false, required_if_eq("listener", "true"))]
    tier: Tier,

    /// With --listener: role of this host
    #[arg(long, env = "HOMELAB_DEPLOY_ROLE")]
    role: Option<Role>,

    /// With --listener: flake with the configuration of this host
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE_URL", value_name = "URL")]
    flake_url: Option<FlakeUrl>,
}

#[derive(Debug, Args)]
struct FleetArgs {
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

impl Doctor {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let fleet = self.fleet_file().map(|file| read_fleet(&file)).transpose();
        let fleet = fleet.map_err(|error| Exit::Usage.with(error))?;
        let findings = match self.patient {
            Patient::ServerFile(file) => server_file::examine(&file, fleet.as_ref()),
            Patient::Host(host, connection) => host.examine(&connection, fleet.as_ref())?,
            Patient::Fleet(args) => args.examine(fleet.as_ref())?,
        };
        if self.common.json {
            out::json(&findings.0);
        } else {
            out::data(&findings.text(out::data_room()));
        }
        Ok(if findings.worst() == Level::Problem { Exit::Failed } else { Exit::Success })
    }

    fn fleet_file(&self) -> Option<PathBuf> {
        let beside = || match &self.patient {
            Patient::ServerFile(file) => Some(file.parent().unwrap_or(Path::new("")).join("fleet.toml")),
            Patient::Host(..) | Patient::Fleet(_) => None,
        };
        self.common.fleet.clone().or_else(|| beside().filter(|file| file.exists()))
    }
}

impl HostArgs {
    fn examine(self, connection: &ConnectionArgs, fleet: Option<&FleetList>) -> Result<Findings, CommandError> {
        let settings = connection.settings(format!("homelab-deploy doctor {}", self.hostname), SeedReaders::Refuse);
        let name = ListenerName { tier: self.tier, hostname: self.hostname, role: self.role };
        let host = HostCheckup { name, settings, flake: self.flake_url, fleet };
        block_on(host.examine())?.map_err(|error| Exit::Usage.with(TooLong(error)))
    }
}

impl FleetArgs {
    fn examine(self, fleet: Option<&FleetList>) -> Result<Findings, CommandError> {
        let operator = Operator {
            settings: self.operator.settings(),
            discovery: self.operator.discovery(&self.state),
            fleet,
            flake: self.flake,
            plans: self.plans.files(),
            journals: self.state.journals(),
        };
        block_on(operator.examine())?.map_err(|error| Exit::Usage.with(TooLong(error)))
    }
}

impl Args for Doctor {
    fn augment_args(command: Command) -> Command {
        let unless_file = |arg: Arg| {
            let is_needed = matches!(arg.get_id().as_str(), "nats_url" | "nkey_file");
            if is_needed { arg.required(false).required_unless_present("file") } else { arg }
        };
        let command = HostArgs::augment_args(Common::augment_args(command));
        FleetArgs::augment_args(command).mut_args(unless_file).override_usage(
            "homelab-deploy doctor [OPTIONS]\n       homelab-deploy doctor --listener [OPTIONS]\n       \
             homelab-deploy doctor FILE",
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Doctor {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let common = Common::from_arg_matches(matches)?;
        let patient = match &common.file {
            Some(file) => Patient::ServerFile(file.clone()),
            None if common.listener => {
                Patient::Host(HostArgs::from_arg_matches(matches)?, ConnectionArgs::from_arg_matches(matches)?)
            }
            None => Patient::Fleet(Box::new(FleetArgs::from_arg_matches(matches)?)),
        };
        Ok(Self { common, patient })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
