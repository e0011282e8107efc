//! `plan` and `apply`: what a plan comes down to now, and carrying it out.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use crate::bus::Bus;
use crate::cli::confirm;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::operator::{DisplayArgs, OperatorArgs, drive};
use crate::cli::out;
use crate::cli::plan_file::{PlanArgs, PlanFile};
use crate::cli::runtime::block_on;
use crate::clock;
use crate::operator::{RollCall, resolve_revision};
use crate::plan::Roster;
use crate::protocol::{RequestIds, Revision, RolloutId};
use crate::report;
use crate::rollout::{Machine, Rollout};

/// Show what a plan comes down to for the hosts that are there now. Nothing is deployed.
#[derive(Debug, Args)]
pub(in crate::cli) struct Plan {
    #[command(flatten)]
    preparation: Preparation,
}

/// Carry out a plan: wave after wave, halting when one fails.
#[derive(Debug, Args)]
pub(in crate::cli) struct Apply {
    #[command(flatten)]
    preparation: Preparation,

    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES")]
    yes: bool,

    #[command(flatten)]
    display: DisplayArgs,
}

/// What it takes to know what a plan comes down to.
#[derive(Debug, Args)]
struct Preparation {
    #[command(flatten)]
    plan: PlanArgs,

    /// Branch, tag or commit to deploy instead of the plan's
    #[arg(long, env = "HOMELAB_DEPLOY_REVISION")]
    revision: Option<Revision>,

    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("there is nobody to ask whether to start")]
#[diagnostic(help("add --yes: with --json, and without a terminal, no question can be answered"))]
struct NobodyToAsk;

/// A rollout that could begin at once, and the connection that it was prepared over.
struct Prepared {
    bus: Bus,
    rollout: Rollout,
    preview: String,
}

impl Plan {
    pub(in crate::cli) fn run(self) -> CommandResult {
        block_on(async {
            let prepared = self.preparation.prepare().await?;
            out::data(&format!("{}\n", prepared.preview));
            Ok(Exit::Success)
        })?
    }
}

impl Apply {
    pub(in crate::cli) fn run(self) -> CommandResult {
        if !self.yes && (self.display.json || !io::stdin().is_terminal()) {
            return Err(Exit::Usage.because(NobodyToAsk));
        }
        block_on(self.apply())?
    }

    async fn apply(self) -> CommandResult {
        let Prepared { bus, rollout, preview } = self.preparation.prepare().await?;
        if !self.display.json {
            out::note(&preview);
        }
        if !self.yes && !confirm::start().await {
            out::note("Nothing was deployed.");
            return Ok(Exit::Declined);
        }
        let discovery = self.preparation.operator.discovery(None);
        let rollout = Arc::new(rollout);
        let mut machine = Machine::new(Arc::clone(&rollout), clock::now());
        let ask = confirm::wave(self.display.audience());
        let progress = drive(bus, rollout.id, discovery, &mut machine, &self.display, ask).await?;
        if !self.display.json {
            out::note(&report::recap(&progress.summary, self.display.style()));
        }
        Ok(progress.outcome.into())
    }
}

impl Preparation {
    /// Reads the plan, asks who is there, and settles hosts and commit. Nothing is deployed.
    async fn prepare(&self) -> Result<Prepared, CommandError> {
        let file = self.plan.read().map_err(|error| Exit::Usage.because(error))?;
        let in_plan = |mistakes| Exit::Usage.because(file.place(mistakes));
        let asked = file.plan.revision(self.revision.clone()).map_err(in_plan)?;

        let mut bus = self.operator.connect().await?;
        let roster = self.call_roll(&mut bus, &file).await?;
        let (frozen, warnings) = file.plan.resolve(&roster).map_err(in_plan)?;
        let flake = file.plan.flake(&roster, &frozen).map_err(in_plan)?;
        let commit = resolve_revision(&asked, flake.as_ref()).await.map_err(|e| Exit::Precondition.because(e))?;

        let rollout = Rollout {
            id: RolloutId::from(Uuid::new_v4()),
            ids: RequestIds::new(Uuid::new_v4()),
            operator: self.operator.name(),
            asked,
            revision: commit.into(),
            subject: None,
            plan: frozen,
        };
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let preview = report::preview(&rollout, &warnings, out::width());
        Ok(Prepared { bus, rollout, preview })
    }

    async fn call_roll(&self, bus: &mut Bus, file: &PlanFile) -> Result<Roster, CommandError> {
        let tiers = file.plan.tiers();
        // One question asks for one tier or for all.
        let tier = tiers.first().copied().filter(|_| tiers.len() == 1);
        let discovery = self.operator.discovery(tier);
        let call = RollCall { discovery: &discovery, only: file.plan.named_only() };
        let called = call.call(bus).await.map_err(|error| Exit::Precondition.because(error))?;
        Ok(Roster::new(called.hosts))
    }
}
