//! Flags that several commands take, and the settings that they set.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::context::{cache_dir, state_dir};
use super::out::{self, CommandError, usage};
use crate::bus::{self, Bus, ClientCert, SeedReaders, ServerUrl, Settings};
use crate::operator::flake::{AcceptedFlakes, Consent, FlakeRules};
use crate::operator::journal::Journals;
use crate::operator::plan_file::{PlanFile, read_systems};
use crate::operator::{BuildOptions, Discovery, KnownHosts, OperatorContext, SystemsFrom};
use crate::plan::{Hooks, Plan, ResolvedPlan, Rollback, parse_confirm_timeout};
use crate::protocol::{FlakeAttr, FlakeUrl, HostName, Subject, subject};

/// Parses the variable of a boolean flag. An empty variable counts as unset.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("give 1 or 0".to_owned()),
    }
}

/// The heading of the connection flags in the help. Each flag names it: `next_help_heading` would also apply to the
/// flags of the commands that include these.
pub(super) const HEADING: &str = "Connection";

#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// NATS server, nats://HOST:PORT or tls://HOST:PORT; several are tried in turn
    #[arg(long, env = "HOMELAB_DEPLOY_NATS_URL", value_name = "URL", help_heading = HEADING, required = true, value_delimiter = ',')]
    nats_url: Vec<ServerUrl>,

    /// File with the seed of the NKey to connect with
    #[arg(long, env = "HOMELAB_DEPLOY_NKEY_FILE", value_name = "FILE", help_heading = HEADING)]
    nkey_file: PathBuf,

    /// Certificate authorities of the server, in PEM [default: those of the system]
    #[arg(long, env = "HOMELAB_DEPLOY_TLS_CA", value_name = "FILE", help_heading = HEADING)]
    tls_ca: Option<PathBuf>,

    /// Client certificate, in PEM
    #[arg(long, env = "HOMELAB_DEPLOY_TLS_CERT", value_name = "FILE", help_heading = HEADING, requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Key of the client certificate, in PEM
    #[arg(long, env = "HOMELAB_DEPLOY_TLS_KEY", value_name = "FILE", help_heading = HEADING, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl ConnectionArgs {
    /// Returns the settings of a connection that has this name in the server's monitoring.
    pub(super) fn settings(&self, name: impl Into<String>, seed_readers: SeedReaders) -> Settings {
        let client_cert = self.tls_cert.clone().zip(self.tls_key.clone());
        Settings {
            servers: self.nats_url.clone(),
            nkey_file: self.nkey_file.clone(),
            seed_readers,
            ca_file: self.tls_ca.clone(),
            client_cert: client_cert.map(|(cert, key)| ClientCert { cert, key }),
            name: name.into(),
            subscription_capacity: bus::SUBSCRIPTION_CAPACITY,
        }
    }
}

/// More than the largest fleet answers at once. Unused capacity costs nothing; a full subscription loses answers.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,

    /// Subject of discovery requests
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_SUBJECT", value_name = "SUBJECT", default_value = subject::DISCOVER)]
    #[arg(help_heading = HEADING)]
    discover_subject: Subject,

    /// How long to wait for answers to them [default: 2s, or less once all known hosts have answered]
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_WINDOW", value_name = "DURATION")]
    #[arg(help_heading = HEADING, value_parser = humantime::parse_duration)]
    discover_window: Option<Duration>,

    /// Name of the operator, as hosts and other operators see it [default: USER@MACHINE]
    #[arg(long, env = "HOMELAB_DEPLOY_OPERATOR", value_name = "NAME")]
    operator: Option<String>,

    #[arg(long, env = "USER", hide = true, default_value = "unknown")]
    login_name: String,

    #[command(flatten)]
    pub(super) state: StateArgs,
}

impl OperatorArgs {
    /// Connects, and prints the warnings about the connection.
    pub(super) async fn connect(&self) -> Result<Bus, CommandError> {
        let bus = Bus::connect(&self.settings()).await?;
        out::warnings(&bus.warnings);
        Ok(bus)
    }

    pub(super) fn settings(&self) -> Settings {
        let settings = self.connection.settings(self.name(), SeedReaders::Warn);
        Settings { subscription_capacity: SUBSCRIPTION_CAPACITY, ..settings }
    }

    pub(super) fn name(&self) -> String {
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.operator.clone().unwrap_or_else(|| format!("{}@{}", self.login_name, machine()))
    }

    fn servers(&self) -> impl Iterator<Item = String> {
        self.connection.nats_url.iter().map(ServerUrl::to_string)
    }

    /// Returns the subject, the window and the known hosts for roll calls.
    pub(super) fn discovery(&self) -> Discovery {
        Discovery {
            subject: self.discover_subject.clone(),
            window: self.discover_window,
            known: KnownHosts::of(self.state.folder(), self.servers()),
        }
    }
}

// Where the settings and the records of an operator are.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// File with contexts [default: ./homelab-deploy.toml, else ~/.config/homelab-deploy/config.toml]
    #[arg(long, env = "HOMELAB_DEPLOY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Context in that file, for settings that no flag and no variable gives [default: its `default-context`]
    #[arg(long, env = "HOMELAB_DEPLOY_CONTEXT", value_name = "NAME")]
    context: Option<String>,

    /// Folder for the records of rollouts [default: ~/.local/state/homelab-deploy, or the folder of the context there]
    #[arg(long, env = "HOMELAB_DEPLOY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    pub(super) fn journals(&self) -> Journals {
        Journals::below(&self.folder())
    }

    /// Returns the folder of everything that this operator's commands record.
    fn folder(&self) -> PathBuf {
        let context = self.context.as_deref().filter(|name| !name.is_empty());
        self.state_dir.clone().unwrap_or_else(|| state_dir(context))
    }
}

// An operator who deploys, and the flake in which a revision is looked up if the plan names none.
#[derive(Debug, Args)]
pub(super) struct DeployerArgs {
    /// Flake in which to look up a branch or tag if the plan names none [default: the one that the hosts name, once
    /// accepted]
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE", value_name = "URL")]
    pub(super) flake: Option<FlakeUrl>,

    /// Accept this flake, which the hosts name; remembered for the fleet
    #[arg(long, env = "HOMELAB_DEPLOY_ACCEPT_FLAKE", value_name = "URL")]
    accept_flake: Option<FlakeUrl>,

    #[command(flatten)]
    pub(super) operator: OperatorArgs,
}

impl DeployerArgs {
    /// Returns who deploys. A person is asked by `consent` about flakes that hosts name.
    pub(super) fn context(&self, consent: Option<Consent>) -> OperatorContext {
        let operator = &self.operator;
        let (name, discovery, journals) = (operator.name(), operator.discovery(), operator.state.journals());
        let flakes = FlakeRules {
            given: self.flake.clone(),
            accept: self.accept_flake.clone(),
            accepted: AcceptedFlakes::of(operator.state.folder(), operator.servers()),
            consent,
        };
        OperatorContext { name, discovery, journals, flakes, cache: cache_dir() }
    }
}

/// Parses the hooks of a context, as a JSON object. The context passes them to a command by a hidden flag.
pub(super) fn hooks(json: &str) -> Result<Hooks, String> {
    let hooks: Hooks = serde_json::from_str(json).map_err(|error| error.to_string())?;
    match hooks.iter().find(|(_, argv)| argv.first().is_none_or(String::is_empty)) {
        Some((hook, _)) => Err(format!("{hook} names no program")),
        None => Ok(hooks),
    }
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Roll a host back if its deployment fails or cuts it off; in a plan, for the waves without `rollback`
    #[arg(long, env = "HOMELAB_DEPLOY_AUTO_ROLLBACK", value_parser = switch)]
    pub(super) auto_rollback: bool,

    /// How long a host that can roll back may be out of reach after its activation, from 5s to 1h [default: 1m]; in a
    /// plan, for the waves without `confirm_timeout`
    #[arg(long, env = "HOMELAB_DEPLOY_CONFIRM_TIMEOUT", value_name = "DURATION")]
    #[arg(value_parser = parse_confirm_timeout)]
    pub(super) confirm_timeout: Option<Duration>,
}

impl RollbackArgs {
    /// Applies the flags to the waves of a plan that do not decide this themselves.
    pub(super) fn apply_defaults_to(&self, plan: &mut Plan) {
        if self.auto_rollback {
            plan.set_default_rollback(Rollback::Auto);
        }
        if let Some(timeout) = self.confirm_timeout {
            plan.set_default_confirm_timeout(timeout);
        }
    }

    /// Returns a warning if a plan that is carried out as it was prepared has no wave that rolls back.
    pub(super) fn unheeded(&self, plan: &ResolvedPlan) -> Option<String> {
        let is_without = self.auto_rollback && plan.waves.iter().all(|wave| wave.limits.rollback == Rollback::None);
        is_without.then(|| "--auto-rollback has no effect: no wave rolls back, as it was prepared".to_owned())
    }
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Copy the systems to this store, as in `nix copy --to`: `file:///srv/cache`, `s3://BUCKET`, `ssh-ng://HOST`
    #[arg(long, env = "HOMELAB_DEPLOY_COPY_TO", value_name = "URL")]
    copy_to: Option<String>,

    /// Sign the systems with the secret key in this file
    #[arg(long, env = "HOMELAB_DEPLOY_SIGN_KEY", value_name = "FILE")]
    sign_key: Option<PathBuf>,

    /// Name of a host in nixosConfigurations, if it is not its own name; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_ATTR", value_name = "HOST=NAME", value_delimiter = ',', value_parser = attr)]
    attr: Vec<(HostName, FlakeAttr)>,
}

// The source of a rollout's systems.
#[derive(Debug, Args)]
pub(super) struct SystemsArgs {
    /// File with the built system of each host, as `homelab-deploy build` writes it
    #[arg(long, env = "HOMELAB_DEPLOY_SYSTEMS", value_name = "FILE", conflicts_with = "build")]
    pub(super) systems: Option<PathBuf>,

    /// Build the systems of all hosts on this machine first, in one evaluation
    #[arg(long, env = "HOMELAB_DEPLOY_BUILD", value_parser = switch)]
    pub(super) build: bool,

    #[command(flatten)]
    how: BuildArgs,

    /// Cache that knows what changes [default: the one that the systems were copied to, else the store of this machine]
    #[arg(long, env = "HOMELAB_DEPLOY_CACHE", value_name = "URL")]
    pub(super) cache: Option<String>,
}

impl BuildArgs {
    pub(super) fn options(&self) -> BuildOptions {
        let Self { copy_to, sign_key, attr } = self;
        BuildOptions { attrs: attr.iter().cloned().collect(), sign_key: sign_key.clone(), copy_to: copy_to.clone() }
    }
}

impl SystemsArgs {
    /// Returns the source of the systems. A flag takes precedence over the plan.
    pub(super) fn source(&self, plan: &PlanFile) -> Result<Option<SystemsFrom>, CommandError> {
        if self.build {
            return Ok(Some(SystemsFrom::Building(self.how.options())));
        }
        let built = match &self.systems {
            Some(file) => read_systems(file).map(Some),
            None => plan.systems(),
        };
        Ok(built.map_err(usage)?.map(SystemsFrom::Built))
    }
}

fn attr(text: &str) -> Result<(HostName, FlakeAttr), String> {
    let (host, attr) = text.split_once('=').ok_or("it is not HOST=NAME")?;
    Ok((host.parse().map_err(|e| format!("{e}"))?, attr.parse().map_err(|e| format!("{e}"))?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::plan::Roster;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        connection: ConnectionArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Settings, clap::error::ErrorKind> {
        let command = Command::try_parse_from([&["x", "--nkey-file", "k"], arguments].concat());
        command.map(|command| command.connection.settings("ops", SeedReaders::Warn)).map_err(|error| error.kind())
    }

    #[test]
    fn several_servers_come_with_commas_and_by_repetition() {
        let settings = parse(&["--nats-url", "a,tls://b:1", "--nats-url", "c"]).unwrap();
        let servers: Vec<String> = settings.servers.iter().map(ServerUrl::to_string).collect();
        assert_eq!(servers, ["nats://a:4222", "tls://b:1", "nats://c:4222"]);
        assert!(settings.client_cert.is_none());
    }

    #[test]
    fn a_rollback_that_comes_too_late_is_told() {
        let resolved = |rollback: &RollbackArgs| {
            let mut plan = Plan::parse("[[wave]]\ntargets = 'prod.ns1'\n", "sunday", &|_: &str| None).unwrap();
            rollback.apply_defaults_to(&mut plan);
            plan.resolve(&Roster::new(Vec::new())).unwrap().0
        };
        let [with, without] = [true, false].map(|auto_rollback| RollbackArgs { auto_rollback, confirm_timeout: None });
        assert!(with.unheeded(&resolved(&without)).is_some());
        assert_eq!(with.unheeded(&resolved(&with)), None);
        assert_eq!(without.unheeded(&resolved(&without)), None);
    }

    #[test]
    fn half_a_client_certificate_and_a_bad_address_are_usage_errors() {
        use clap::error::ErrorKind;
        assert_eq!(parse(&["--nats-url", "a", "--tls-cert", "c"]).unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse(&["--nats-url", "http://a"]).unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse(&[]).unwrap_err(), ErrorKind::MissingRequiredArgument);
        let both = parse(&["--nats-url", "a", "--tls-cert", "c", "--tls-key", "k"]).unwrap();
        assert!(both.client_cert.is_some());
    }
}
