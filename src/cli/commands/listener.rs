//! `listener`: accepts deployments of this host. `supervise`: supervises one run; only the listener calls it, so the help
//! does not show it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::bus::{SeedReaders, Settings};
use crate::cli::args::{ConnectionArgs, HEADING};
use crate::cli::log::LogArgs;
use crate::cli::out::{CommandError, CommandResult, Exit, SetupError};
use crate::listener::supervisor::{RunDir, note_unit_end, supervise};
use crate::listener::{
    self, Config, RebuildFlag, RunSettings, SystemKey, Systemd, UnitEnd, UserUnits, deploy_subjects,
};
use crate::protocol::subject::DISCOVER;
use crate::protocol::{FlakeAttr, FlakeUrl, HostName, Role, Subject, SubjectTemplate, Tier};

/// The longest time that a deployment may take, in seconds: a year. systemd refuses times that overflow its clock.
const LONGEST_TIMEOUT: u64 = 365 * 24 * 60 * 60;

#[derive(Debug, Args)]
pub(in crate::cli) struct Listener {
    #[command(flatten)]
    connection: ConnectionArgs,

    /// Name of this host in subjects and, without --flake-attr, in nixosConfigurations
    #[arg(long, env = "HOMELAB_DEPLOY_HOSTNAME", value_name = "HOST")]
    hostname: HostName,

    /// Tier of this host: test or prod
    #[arg(long, env = "HOMELAB_DEPLOY_TIER")]
    tier: Tier,

    /// Role of this host
    #[arg(long, env = "HOMELAB_DEPLOY_ROLE")]
    role: Option<Role>,

    /// Flake with the configuration of this host, without a revision
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE_URL", value_name = "URL")]
    flake_url: FlakeUrl,

    /// Name of the configuration of this host in nixosConfigurations [default: the name of the host]
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE_ATTR", value_name = "NAME")]
    flake_attr: Option<FlakeAttr>,

    /// Argument to add to each call of nixos-rebuild, such as --show-trace; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_NIXOS_REBUILD_FLAG", value_name = "FLAG", allow_hyphen_values = true)]
    nixos_rebuild_flag: Vec<RebuildFlag>,

    /// Public key that may sign systems for this host, as NAME:BASE64; may be repeated. Without one, the host accepts
    /// no system that was built elsewhere
    #[arg(long, env = "HOMELAB_DEPLOY_SYSTEM_KEY", value_name = "KEY", value_delimiter = ' ')]
    system_key: Vec<SystemKey>,

    /// How long a deployment may take, in seconds
    #[arg(long, env = "HOMELAB_DEPLOY_TIMEOUT", value_name = "SECONDS", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Result of a deployment after which only units of a user fail: `fail`, or `warn`, which names them and completes
    #[arg(long, env = "HOMELAB_DEPLOY_USER_UNITS", value_name = "fail|warn", value_parser = user_units)]
    #[arg(default_value = "fail", hide_default_value = true)]
    user_units: UserUnits,

    /// Subject to accept requests on; may be repeated; <hostname>, <tier> and <role> are filled in [default:
    /// deploy.<tier>.<hostname>, deploy.<tier>.all and deploy.<tier>.role.<role>]
    #[arg(long, env = "HOMELAB_DEPLOY_DEPLOY_SUBJECT", value_name = "SUBJECT", value_delimiter = ',')]
    #[arg(default_values_t = SubjectTemplate::defaults(), hide_default_value = true)]
    deploy_subject: Vec<SubjectTemplate>,

    /// Subject of discovery requests
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_SUBJECT", value_name = "SUBJECT", default_value = DISCOVER)]
    #[arg(help_heading = HEADING)]
    discover_subject: Subject,

    /// Folder for runs and their results [default: the state directory of the unit, else /var/lib/homelab-deploy]
    #[arg(long, env = "HOMELAB_DEPLOY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Serve Prometheus metrics on this address, at /metrics (off by default)
    #[arg(long, env = "HOMELAB_DEPLOY_METRICS_LISTEN", value_name = "IP:PORT")]
    metrics_listen: Option<SocketAddr>,

    /// Set by systemd where it waits to be told that the service is up
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<OsString>,

    /// Set by systemd where it ends a service that it has not heard of for so many microseconds
    #[arg(long, env = "WATCHDOG_USEC", hide = true, value_name = "MICROSECONDS")]
    watchdog_usec: Option<u64>,

    /// Set by systemd for a unit that has a state directory
    #[arg(long, env = "STATE_DIRECTORY", hide = true)]
    state_directory: Option<PathBuf>,

    /// Set by systemd for a unit that has a directory in memory: what must be known for sure is there
    #[arg(long, env = "RUNTIME_DIRECTORY", hide = true)]
    runtime_directory: Option<PathBuf>,

    /// How often to report a deployment that goes on
    #[arg(long, env = "HOMELAB_DEPLOY_HEARTBEAT", hide = true, default_value = "30s", value_parser = humantime::parse_duration)]
    heartbeat: Duration,

    /// How long a deployment may take to end when it is told to
    #[arg(long, env = "HOMELAB_DEPLOY_GRACE", hide = true, default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// Where the file system of the host begins
    #[arg(long, env = "HOMELAB_DEPLOY_ROOT", hide = true, default_value = "/")]
    root: PathBuf,

    #[command(flatten)]
    log: LogArgs,
}

fn user_units(text: &str) -> Result<UserUnits, &'static str> {
    match text {
        "fail" => Ok(UserUnits::Fail),
        "warn" => Ok(UserUnits::Warn),
        _ => Err("give fail or warn"),
    }
}

impl Listener {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        self.log.start();
        let name = format!("homelab-deploy listener {}", self.hostname);
        let settings = Settings {
            subscription_capacity: listener::SUBSCRIPTION_CAPACITY,
            ..self.connection.settings(name, SeedReaders::Refuse)
        };
        let systemd = Systemd::at(self.notify_socket.as_deref()).map_err(SetupError)?;
        let watchdog = self.watchdog_usec.map(Duration::from_micros);
        // The path, and not /proc/self/exe: systemd starts the supervisor as well.
        let program = env::current_exe().map_err(SetupError)?;
        let config = self.config(program)?;
        let stop = stop_signal().map_err(SetupError)?;
        listener::listen(config, &settings, systemd.with_watchdog(watchdog), stop).await?;
        Ok(Exit::Success)
    }

    fn config(self, supervisor: PathBuf) -> Result<Config, CommandError> {
        let deploy_subjects = deploy_subjects(&self.deploy_subject, &self.hostname, self.tier, self.role.as_ref());
        let help = "give --role, or a --deploy-subject without <role>";
        let deploy_subjects = deploy_subjects.map_err(|error| Exit::Usage.error(error.to_string(), help))?;
        if deploy_subjects.is_empty() {
            return Err(
                Exit::Usage.error("there is no subject to listen on: every --deploy-subject needs a role", help)
            );
        }
        let state_dir = self.state_dir.or(self.state_directory);
        Ok(Config {
            tier: self.tier,
            role: self.role,
            deploy_subjects,
            discover_subject: self.discover_subject,
            run: RunSettings {
                flake: self.flake_url,
                host: self.hostname,
                attr: self.flake_attr,
                rebuild_flags: self.nixos_rebuild_flag,
                system_keys: self.system_key,
                root: self.root,
                user_units: self.user_units,
                timeout: Duration::from_secs(self.timeout.min(LONGEST_TIMEOUT)),
                grace: self.grace,
            },
            // Only tests set it. A timer without an interval would panic.
            heartbeat: self.heartbeat.max(Duration::from_millis(1)),
            metrics_listen: self.metrics_listen,
            state_dir: state_dir.unwrap_or_else(|| "/var/lib/homelab-deploy".into()),
            runtime_dir: self.runtime_directory,
            supervisor,
        })
    }
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Supervise {
    /// The directory of the run
    run_dir: PathBuf,

    /// Directory on the disk for what outlives a reboot
    kept: PathBuf,

    /// Only record how the unit of the run ended, from the variables that systemd sets for `ExecStopPost=`: these two
    #[arg(long)]
    unit_ended: bool,

    #[arg(long, env = "SERVICE_RESULT", hide = true, default_value = "")]
    service_result: String,

    #[arg(long, env = "EXIT_CODE", hide = true, default_value = "")]
    exit_code: String,

    #[arg(long, env = "EXIT_STATUS", hide = true, default_value = "")]
    exit_status: String,

    /// Set by systemd where it waits to be told that the run is in hand
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<OsString>,
}

impl Supervise {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let dir = RunDir::new(self.run_dir.clone(), self.kept);
        let supervised = if self.unit_ended {
            let end = UnitEnd { result: self.service_result, code: self.exit_code, status: self.exit_status };
            note_unit_end(&dir, &end)
        } else {
            async { supervise(dir, Systemd::at(self.notify_socket.as_deref())?).await }.await
        };
        let help = "the listener that prepared the run reports what became of it";
        let what = |error| format!("cannot supervise the run in {}: {error}", self.run_dir.display());
        supervised.map_err(|error: io::Error| Exit::Failed.error(what(error), help))?;
        Ok(Exit::Success)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        listener: Listener,
    }

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let required = [
            "x",
            "--nats-url",
            "n",
            "--nkey-file",
            "k",
            "--hostname",
            "ns1",
            "--tier",
            "prod",
            "--flake-url",
            "git+https://h/x",
        ];
        let command = Command::try_parse_from(required.iter().chain(arguments)).map_err(|e| e.kind().to_string())?;
        command.listener.config("/x".into()).map_err(|error| error.report.to_string())
    }

    fn subjects(arguments: &[&str]) -> Vec<String> {
        config(arguments).unwrap().deploy_subjects.iter().map(Subject::to_string).collect()
    }

    #[test]
    fn the_defaults_are_the_predecessors() {
        let config = config(&[]).unwrap();
        assert_eq!((config.run.timeout, config.run.grace), (Duration::from_mins(10), Duration::from_secs(10)));
        assert_eq!(config.discover_subject.as_str(), "deploy.discover");
        assert_eq!(config.run.user_units, UserUnits::Fail);
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/homelab-deploy"));
        assert_eq!(subjects(&[]), ["deploy.prod.ns1", "deploy.prod.all"]);
        assert_eq!(subjects(&["--role", "dns"])[2], "deploy.prod.role.dns");
    }

    #[test]
    fn subjects_of_the_users_own_are_filled_in_once() {
        let own = ["--deploy-subject", "a.<hostname>", "--deploy-subject", "a.ns1", "--deploy-subject", "b.<role>"];
        assert_eq!(subjects(&own), ["a.ns1"]);
        insta::assert_snapshot!(config(&["--deploy-subject", "b.<role>"]).unwrap_err(), @"there is no subject to listen on: every --deploy-subject needs a role");
        insta::assert_snapshot!(config(&["--deploy-subject", "b.<host>"]).unwrap_err(), @"invalid value for one of the arguments");
        insta::assert_snapshot!(config(&["--timeout", "0"]).unwrap_err(), @"invalid value for one of the arguments");
    }

    #[test]
    fn each_key_that_may_sign_systems_is_one_that_can() {
        const KEY: &str = "fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        let keys = |arguments: &[&str]| config(arguments).map(|config| config.run.system_keys.len());
        assert_eq!(keys(&[]), Ok(0), "by default a host takes no system from elsewhere");
        assert_eq!(keys(&["--system-key", KEY, "--system-key", KEY]), Ok(2));
        assert_eq!(keys(&["--system-key", &format!("{KEY} {KEY}")]), Ok(2), "as nix.conf lists them");
        insta::assert_snapshot!(keys(&["--system-key", "fleet-1"]).unwrap_err(), @"invalid value for one of the arguments");
    }

    #[test]
    fn the_flag_for_the_state_goes_before_systemds() {
        let state_dir = |arguments: &[&str]| config(arguments).unwrap().state_dir;
        assert_eq!(state_dir(&["--state-directory", "/s"]), PathBuf::from("/s"));
        assert_eq!(state_dir(&["--state-directory", "/s", "--state-dir", "/d"]), PathBuf::from("/d"));
    }
}
