//! Flags that several commands take, and the settings that they set.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::connection::OperatorArgs;
use super::context::StateArgs;
use super::exit::{CommandError, OrUsage};
use super::folders::cache_dir;
use crate::bus::ServerUrl;
use crate::operator::flake::{Accepted, Consent, FlakeRules};
use crate::operator::plan_file::{PlanFile, read_systems};
use crate::operator::{BuildOptions, OperatorContext, Prepared, SystemsFrom};
use crate::plan::{Hook, Hooks, Plan, Rollback, parse_confirm_timeout};
use crate::protocol::{FlakeAttr, FlakeUrl, HostName, Tier};

/// Parses the variable of a boolean flag. An empty variable counts as unset.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("give 1 or 0".to_owned()),
    }
}

// The flake in which a revision is looked up if the plan names none.
#[derive(Debug, Args)]
pub(super) struct FlakeArgs {
    /// Flake in which a branch or tag is looked up where the plan names none [default: the one that the hosts name, once it
    /// was accepted]
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE", value_name = "URL")]
    pub(super) flake: Option<FlakeUrl>,

    /// Accept that the hosts name this flake; it is remembered for the fleet
    #[arg(long, env = "HOMELAB_DEPLOY_ACCEPT_FLAKE", value_name = "URL")]
    accept_flake: Option<FlakeUrl>,
}

impl FlakeArgs {
    /// Who deploys by these flags. A person is asked by `consent`.
    pub(super) fn context(
        &self,
        operator: &OperatorArgs,
        state: &StateArgs,
        consent: Option<Consent>,
    ) -> OperatorContext {
        let servers = operator.settings().servers;
        let flakes = FlakeRules {
            given: self.flake.clone(),
            accept: self.accept_flake.clone(),
            accepted: Accepted::of(state.folder(), servers.iter().map(ServerUrl::to_string)),
            consent,
        };
        OperatorContext {
            name: operator.name(),
            discovery: operator.discovery(state),
            journals: state.journals(),
            flakes,
            cache: cache_dir(),
        }
    }
}

// A context passes its hooks to a command by these flags. A plan has keys for them.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they are named like the keys")]
pub(super) struct HookArgs {
    #[arg(long, hide = true, value_name = "JSON")]
    on_start: Option<Argv>,

    #[arg(long, hide = true, value_name = "JSON")]
    on_halt: Option<Argv>,

    #[arg(long, hide = true, value_name = "JSON")]
    on_finish: Option<Argv>,
}

/// A program and its arguments, as a JSON array.
#[derive(Debug, Clone)]
struct Argv(Vec<String>);

impl HookArgs {
    pub(super) fn hooks(&self) -> Hooks {
        let programs = [&self.on_start, &self.on_halt, &self.on_finish];
        Hook::ALL.into_iter().zip(programs).filter_map(|(hook, argv)| Some((hook, argv.clone()?.0))).collect()
    }
}

impl FromStr for Argv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let argv: Vec<String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if argv.first().is_none_or(String::is_empty) {
            return Err("it names no program".to_owned());
        }
        Ok(Self(argv))
    }
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Hosts return to what they ran before when their deployment fails, and when it cuts them off; in a plan that is
    /// for the waves that say nothing of `rollback`
    #[arg(long, env = "HOMELAB_DEPLOY_AUTO_ROLLBACK", value_parser = switch)]
    pub(super) auto_rollback: bool,

    /// How long a host that may return has to be reached again after its activation, from 5s to 1h [default: 1m]; in a
    /// plan that is for the waves that say nothing of `confirm_timeout`
    #[arg(long, env = "HOMELAB_DEPLOY_CONFIRM_TIMEOUT", value_name = "DURATION")]
    #[arg(value_parser = parse_confirm_timeout)]
    pub(super) confirm_timeout: Option<Duration>,
}

impl RollbackArgs {
    /// Applies the flags to the waves of a plan that do not decide this themselves.
    pub(super) fn apply_defaults_to(&self, plan: &mut Plan) {
        if self.auto_rollback {
            plan.roll_back(Rollback::Auto);
        }
        if let Some(timeout) = self.confirm_timeout {
            plan.confirm_within(timeout);
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct GuardArgs {
    #[command(flatten)]
    pub(super) force: ForceArgs,

    /// Deploy although prod hosts run a later commit than this one
    #[arg(long, env = "HOMELAB_DEPLOY_ALLOW_DOWNGRADE", value_parser = switch)]
    allow_downgrade: bool,
}

// Of the guards, this one also holds for rollbacks.
#[derive(Debug, Args)]
pub(super) struct ForceArgs {
    /// Start although another operator's rollout is under way; hosts that are busy with that one will reject this one
    #[arg(long, env = "HOMELAB_DEPLOY_FORCE", value_parser = switch)]
    force: bool,
}

impl GuardArgs {
    /// Refuses to start if another rollout runs or prod hosts would be downgraded, unless a flag allows it.
    pub(super) fn check(&self, prepared: &Prepared) -> Result<(), CommandError> {
        self.force.check(prepared)?;
        if !self.allow_downgrade {
            // Test hosts may be downgraded: they exist to try branches and go back.
            prepared.check_not_downgrade(&[Tier::Prod])?;
        }
        Ok(())
    }
}

impl ForceArgs {
    /// Refuses to start while another operator's rollout runs, unless `--force` is given.
    pub(super) fn check(&self, prepared: &Prepared) -> Result<(), CommandError> {
        if self.force { Ok(()) } else { Ok(prepared.check_no_other_rollout()?) }
    }
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Copy the systems there, as `nix copy --to` takes it: `file:///srv/cache`, `s3://BUCKET`, `ssh-ng://HOST`
    #[arg(long, env = "HOMELAB_DEPLOY_COPY_TO", value_name = "URL")]
    copy_to: Option<String>,

    /// Sign the systems with the secret key in this file
    #[arg(long, env = "HOMELAB_DEPLOY_SIGN_KEY", value_name = "FILE")]
    sign_key: Option<PathBuf>,

    /// The name in nixosConfigurations of a host that has another there than its own; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_ATTR", value_name = "HOST=NAME", value_delimiter = ',', value_parser = attr)]
    attr: Vec<(HostName, FlakeAttr)>,
}

// The source of a rollout's systems.
#[derive(Debug, Args)]
pub(super) struct SystemsArgs {
    /// Give each host the system that this file has for it, as `homelab-deploy build` writes one
    #[arg(long, env = "HOMELAB_DEPLOY_SYSTEMS", value_name = "FILE", conflicts_with = "build")]
    systems: Option<PathBuf>,

    /// Build the systems of all hosts here, in one evaluation, and give each host its own
    #[arg(long, env = "HOMELAB_DEPLOY_BUILD", value_parser = switch)]
    build: bool,

    #[command(flatten)]
    how: BuildArgs,

    /// Cache that is asked what changes [default: where the systems were copied to, else the store of this machine]
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
    /// Whether a flag names a source of systems.
    pub(super) const fn are_given(&self) -> bool {
        self.build || self.systems.is_some()
    }

    /// Returns the source of the systems. A flag takes precedence over the plan.
    pub(super) fn source(&self, plan: &PlanFile) -> Result<Option<SystemsFrom>, CommandError> {
        if self.build {
            return Ok(Some(SystemsFrom::Building(self.how.options())));
        }
        let built = match &self.systems {
            Some(file) => read_systems(file).map(Some),
            None => plan.systems(),
        };
        Ok(built.or_usage()?.map(SystemsFrom::Built))
    }
}

fn attr(text: &str) -> Result<(HostName, FlakeAttr), String> {
    let (host, attr) = text.split_once('=').ok_or("it is not HOST=NAME")?;
    Ok((host.parse().map_err(|e| format!("{e}"))?, attr.parse().map_err(|e| format!("{e}"))?))
}
