//! `build`: builds the systems of many hosts in one evaluation, on any machine with Nix.

use std::path::PathBuf;

use clap::Args;

use super::plan::{PlanFolders, is_path};
use crate::cli::args::{BuildArgs, DeployerArgs};
use crate::cli::context::KnownAliases;
use crate::cli::display::Audience;
use crate::cli::out::{self, CommandError, CommandResult, Exit, usage};
use crate::cli::session::ask_about_flake;
use crate::operator::plan_file::PlanFile;
use crate::operator::{Awaited, History, PrepareError, RollCall, resolve_revision};
use crate::plan::Roster;
use crate::protocol::{FlakeUrl, HostName, Revision};

// Hosts that are given by name, or that the plan names, can be built without NATS.
#[derive(Debug, Args)]
#[command(mut_arg("nats_url", |arg| arg.required(false)))]
#[command(mut_arg("nkey_file", |arg| arg.required(false).default_value("/dev/null").hide_default_value(true)))]
pub(in crate::cli) struct Build {
    /// A plan, as for `apply`, or the names of hosts
    #[arg(value_name = "PLAN|HOST", required = true)]
    what: Vec<String>,

    /// Branch, tag or commit to build instead of the plan's
    #[arg(long, env = "HOMELAB_DEPLOY_REVISION")]
    revision: Option<Revision>,

    #[command(flatten)]
    how: BuildArgs,

    /// Write the map of hosts and systems to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    folders: PlanFolders,

    #[command(flatten)]
    deployer: DeployerArgs,
}

/// The hosts to build, and the flake and revision to build them from.
type BuildPlan = (Vec<HostName>, Option<FlakeUrl>, Revision);

impl Build {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let (hosts, flake, revision) = self.plan().await?;
        let flake = flake.ok_or(PrepareError::NoFlake)?;
        let history = History::of(Some(&flake), None);
        let commit =
            resolve_revision(&revision, Some(&flake), &history, &self.deployer.operator.state.journals()).await?;
        let systems = self.how.options().build(&flake, &commit, &hosts).await?;
        let text = serde_json::to_string_pretty(&systems).expect("texts only, so this cannot fail") + "\n";
        let Some(file) = &self.out else {
            out::data(&text);
            return Ok(Exit::Success);
        };
        out::file(file, &text)?;
        let (count, file) = (systems.systems.len(), file.display());
        out::note(&format!("{count} systems of {}: roll them out with `apply --systems {file}`", commit.short()));
        Ok(Exit::Success)
    }

    async fn plan(&self) -> Result<BuildPlan, CommandError> {
        if let [plan] = self.what.as_slice()
            && (is_path(plan) || self.folders.find(plan).is_ok())
        {
            let path = self.folders.find(plan)?;
            let file = PlanFile::read(&path, &KnownAliases).map_err(usage)?;
            return self.plan_of_file(&file).await;
        }
        let host = |text: &String| {
            text.parse::<HostName>().map_err(|error| {
                let help = "a plan is a path that contains a slash or ends in .toml, or the name of a file in ./plans";
                Exit::Usage.error(format!("{text:?} is neither a plan nor the name of a host: {error}"), help)
            })
        };
        let hosts = self.what.iter().map(host).collect::<Result<_, _>>()?;
        let revision = self.revision.clone();
        let revision =
            revision.ok_or_else(|| Exit::Usage.error("there is no revision to build", "add --revision main"))?;
        Ok((hosts, self.deployer.flake.clone(), revision))
    }

    /// Returns what to build for a plan. No host is asked if the plan names all of its hosts and a flake is known.
    async fn plan_of_file(&self, file: &PlanFile) -> Result<BuildPlan, CommandError> {
        let plan = &file.plan;
        let misplaced = |mistakes| usage(file.place(mistakes));
        let revision = plan.revision(self.revision.clone()).map_err(misplaced)?;
        let by = self.deployer.context(ask_about_flake(Audience::Person));
        let flake = plan.flake.clone().or_else(|| by.flakes.given.clone());
        if plan.group_tiers().is_empty() && flake.is_some() {
            let hosts = plan.named_hosts().into_iter().map(|host| host.host).collect();
            return Ok((hosts, flake, revision));
        }
        if self.deployer.operator.settings().servers.is_empty() {
            let what = "the plan does not name its flake and every host, and there is no NATS server to ask the hosts";
            let help = "give --nats-url and --nkey-file; or set `flake` in the plan and name its hosts one by one";
            return Err(Exit::Usage.error(what, help));
        }
        let mut bus = self.deployer.operator.connect().await?;
        let awaited = Awaited::Everybody { tiers: plan.group_tiers(), named: plan.named_hosts() };
        let (asked, needed) = (plan.tiers(), plan.needed_tiers());
        let call = RollCall { discovery: &by.discovery, asked, needed, awaited };
        let roster = Roster::new(call.call(&mut bus).await?.hosts);
        let (resolved, _) = plan.resolve(&roster).map_err(misplaced)?;
        let flake = if flake.is_some() {
            flake
        } else {
            let named = resolved.flake_of_hosts(&roster).map_err(misplaced)?;
            by.flakes.accept(named, &revision).await?
        };
        Ok((resolved.hosts().map(|host| host.hostname.clone()).collect(), flake, revision))
    }
}
