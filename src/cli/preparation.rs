//! Preparing what `plan` shows and `apply` carries out.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use super::exit::{CommandError, Exit};
use super::flake::{self, FlakeArgs};
use super::hook_args::HookArgs;
use super::operator::{Audience, OperatorArgs};
use super::out;
use super::plan_file::PlanArgs;
use super::rollback_args::RollbackArgs;
use super::state::StateArgs;
use super::systems::SystemsArgs;
use crate::bus::Bus;
use crate::clock;
use crate::operator::plan_file::PlanFile;
use crate::operator::prepare::changes_of;
use crate::operator::resumption::{Sources, prepare_again};
use crate::operator::saved_plan::{SavedPlan, check_hosts};
use crate::operator::{Kind, Part, PrepareError, PrepareOptions, Prepared, SystemsFrom};
use crate::plan::Plan;
use crate::protocol::{HostName, Revision};
use crate::report;
use crate::rollout::{Event, EventKind, Summary};

// Which plan, for what and for whom.
#[derive(Debug, Args)]
pub(super) struct Preparation {
    #[command(flatten)]
    plan: PlanArgs,

    /// Branch, tag or commit to deploy instead of the plan's
    #[arg(long, env = "HOMELAB_DEPLOY_REVISION")]
    revision: Option<Revision>,

    // It is gone, and stays as an error that says why.
    #[arg(long, env = "HOMELAB_DEPLOY_RESOLVE_ON_HOST", hide = true, value_parser = crate::cli::switch::read)]
    resolve_on_host: bool,

    /// Leave out this host; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_EXCLUDE", value_name = "HOST", value_delimiter = ',')]
    exclude: Vec<HostName>,

    /// Run this wave only; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_ONLY", value_name = "WAVE", value_delimiter = ',', conflicts_with = "from")]
    only: Vec<String>,

    /// Begin with this wave
    #[arg(long, env = "HOMELAB_DEPLOY_FROM", value_name = "WAVE")]
    from: Option<String>,

    /// Ask hosts as well that are current: they run and boot what the last deployment of this commit made
    #[arg(long, env = "HOMELAB_DEPLOY_EVEN_IF_CURRENT", value_parser = crate::cli::switch::read)]
    even_if_current: bool,

    #[command(flatten)]
    systems: SystemsArgs,

    #[command(flatten)]
    hooks: HookArgs,

    #[command(flatten)]
    pub(super) flake: FlakeArgs,

    #[command(flatten)]
    rollback: RollbackArgs,

    #[command(flatten)]
    pub(super) operator: OperatorArgs,

    #[command(flatten)]
    pub(super) state: StateArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("--resolve-on-host is gone: a host never chooses the commit of others")]
#[diagnostic(help(
    "one host could make all others run what it likes; set `flake` in the plan or --flake so that this machine looks the branch up, \
     or give the full commit id of 40 digits"
))]
struct ResolveOnHostIsGone;

#[derive(Debug, Error, Diagnostic)]
#[error("a plan that was saved says all of it: hosts, commit and systems")]
#[diagnostic(help("leave the flags away that choose those, or apply the plan that it was made from"))]
struct AllIsSaved;

/// A rollout that could begin at once, how it is shown, and the connection that it was prepared over.
pub(super) struct Previewed {
    pub(super) bus: Bus,
    pub(super) prepared: Prepared,
    pub(super) preview: String,
}

impl Preparation {
    /// Refuses what earlier versions took and this one must not do.
    pub(super) fn refuse_what_is_gone(&self) -> Result<(), CommandError> {
        if self.resolve_on_host { Err(Exit::Usage.with(ResolveOnHostIsGone)) } else { Ok(()) }
    }

    /// Reads the plan, calls the roll, and decides on hosts and commit. Nothing is deployed.
    pub(super) async fn prepare(&self, audience: Audience) -> Result<Previewed, CommandError> {
        if let Some(saved) = self.plan.saved() {
            return self.prepare_saved(saved).await;
        }
        let mut file = self.plan.read()?;
        self.rollback.apply_defaults_to(&mut file.plan);
        let systems = self.systems.source(&file)?;
        let revision = SystemsFrom::revision(systems.as_ref(), &file.plan, self.revision.clone());
        let revision = revision.map_err(|mistakes| Exit::Usage.with(file.place(mistakes)))?;
        let wanted = PrepareOptions {
            plan: file.plan.clone(),
            source: Some(file.source()),
            revision,
            exclude: self.exclude.clone(),
            part: self.part(),
            operator: self.operator.name(),
            kind: Kind::Rollout,
            hooks: self.hooks.hooks(),
            even_if_current: self.even_if_current,
            journals: self.state.journals(),
            systems,
            binary_cache: self.systems.cache.clone(),
            cache: self.state.cache(),
            flakes: self.flake.rules(&self.state, &self.operator.settings().servers, flake::consent(audience)),
        };
        let mut bus = self.operator.connect().await?;
        let prepared = wanted.prepare(&mut bus, &self.operator.discovery(&self.state)).await;
        let mut prepared = prepared.map_err(|error| self.unprepared(error, &file))?;
        prepared.warnings.extend(report::missed(&prepared.missed(&self.state.journals()), &clock::zone()));
        let preview = report::preview(&prepared.rollout, &prepared.warnings, prepared.changes.as_ref(), out::width());
        Ok(Previewed { bus, prepared, preview })
    }

    /// Takes up a plan that was saved with its hosts, if those are as they were.
    async fn prepare_saved(&self, file: &Path) -> Result<Previewed, CommandError> {
        let is_settled = self.revision.is_none() && self.exclude.is_empty() && self.part() == Part::Whole;
        if !is_settled || self.systems.are_given() {
            return Err(Exit::Usage.with(AllIsSaved));
        }
        let saved = SavedPlan::read(file).map_err(|error| Exit::Usage.with(error))?;
        let rollout = saved.rollout(self.operator.name());
        let mut bus = self.operator.connect().await?;
        let (flakes, cache) =
            (self.flake.rules(&self.state, &self.operator.settings().servers, None), self.state.cache());
        let sources = Sources { flakes: &flakes, cache: cache.as_deref() };
        let begun = Event { at: clock::now(), kind: EventKind::Begun(Arc::new(rollout.clone())) };
        let left = Summary::of([&begun]);
        let prepared = prepare_again(&left, &rollout, &mut bus, &self.operator.discovery(&self.state), sources).await;
        let mut prepared = prepared.map_err(unprepared)?;
        check_hosts(&rollout.plan, &prepared.roster).map_err(|error| Exit::Precondition.with(error))?;
        if let Some(cache) = &self.systems.cache {
            prepared.changes = changes_of(&rollout.plan, &prepared.roster, Some(cache)).await.ok();
        }
        let preview = report::preview(&rollout, &prepared.warnings, prepared.changes.as_ref(), out::width());
        Ok(Previewed { bus, prepared, preview })
    }

    fn unprepared(&self, error: PrepareError, file: &PlanFile) -> CommandError {
        match error {
            PrepareError::Plan(mistakes) => Exit::Usage.with(file.place(mistakes)),
            PrepareError::Lookup(error) if error.is_answer() && self.revision.is_none() => {
                Exit::Precondition.with(file.place(Plan::about_revision(&file.text, &error)))
            }
            error => unprepared(error),
        }
    }

    fn part(&self) -> Part {
        match &self.from {
            Some(from) => Part::From(from.clone()),
            None if self.only.is_empty() => Part::Whole,
            None => Part::Only(self.only.clone()),
        }
    }
}

/// Why nothing could be prepared that is in no file.
pub(super) fn unprepared(error: PrepareError) -> CommandError {
    match error {
        PrepareError::Plan(_) | PrepareError::Selection(_) => Exit::Usage.with(error),
        PrepareError::Fleet(_)
        | PrepareError::Flake(_)
        | PrepareError::Lookup(_)
        | PrepareError::Nix(_)
        | PrepareError::NoFlake
        | PrepareError::TwoMachines(_) => Exit::Precondition.with(error),
    }
}
