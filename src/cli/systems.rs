//! The flags about systems that are built before hosts are asked.

use std::path::PathBuf;

use clap::Args;

use super::exit::{CommandError, Exit};
use crate::operator::plan_file::PlanFile;
use crate::operator::systems_file::read_systems;
use crate::operator::{BuildOptions, SystemsFrom};
use crate::protocol::{FlakeAttr, HostName};

// How systems are built.
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

// Where the systems come from, for a rollout.
#[derive(Debug, Args)]
pub(super) struct SystemsArgs {
    /// Give each host the system that this file has for it, as `homelab-deploy build` writes one
    #[arg(long, env = "HOMELAB_DEPLOY_SYSTEMS", value_name = "FILE", conflicts_with = "build")]
    systems: Option<PathBuf>,

    /// Build the systems of all hosts here, in one evaluation, and give each host its own
    #[arg(long, env = "HOMELAB_DEPLOY_BUILD", value_parser = crate::cli::switch::read)]
    build: bool,

    #[command(flatten)]
    how: BuildArgs,

    /// Cache that is asked what changes [default: where the systems were copied to, else the store of this machine]
    #[arg(long, env = "HOMELAB_DEPLOY_CACHE", value_name = "URL")]
    pub(super) cache: Option<String>,
}

impl BuildArgs {
    /// The same for whom it is done by.
    pub(super) fn options(&self) -> BuildOptions {
        let Self { copy_to, sign_key, attr } = self;
        BuildOptions { attrs: attr.iter().cloned().collect(), sign_key: sign_key.clone(), copy_to: copy_to.clone() }
    }
}

impl SystemsArgs {
    /// Whether a flag says where they come from.
    pub(super) const fn are_given(&self) -> bool {
        self.build || self.systems.is_some()
    }

    /// Where the systems come from; a flag goes before what the plan says.
    pub(super) fn source(&self, plan: &PlanFile) -> Result<Option<SystemsFrom>, CommandError> {
        if self.build {
            return Ok(Some(SystemsFrom::Building(self.how.options())));
        }
        let built = match &self.systems {
            Some(file) => read_systems(file).map(Some),
            None => plan.systems(),
        };
        Ok(built.map_err(|error| Exit::Usage.with(error))?.map(SystemsFrom::Built))
    }
}

fn attr(text: &str) -> Result<(HostName, FlakeAttr), String> {
    let (host, attr) = text.split_once('=').ok_or("it is not HOST=NAME")?;
    Ok((host.parse().map_err(|e| format!("{e}"))?, attr.parse().map_err(|e| format!("{e}"))?))
}
