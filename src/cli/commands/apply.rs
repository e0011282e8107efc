//! `apply`: carries out a plan, or resumes a rollout.

use std::fs;
use std::io;
use std::sync::Arc;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use crate::cli::args::{GuardArgs, switch};
use crate::cli::carrier::{Carrier, NothingRecorded};
use crate::cli::display::{Audience, DisplayArgs};
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::preparation::{Preparation, Previewed};
use crate::cli::{block_on, confirm, out};
use crate::operator::detach::Background;
use crate::operator::journal::{Journal, Journals};
use crate::operator::plan_file::has_changed;
use crate::protocol::RolloutId;
use crate::report;
use crate::rollout::{Machine, Outcome, Rollout, Summary};

#[derive(Debug, Args)]
#[command(mut_arg("plan", |plan| plan.required_unless_present_any(["resume", "take_over"]).conflicts_with("resume")))]
pub(in crate::cli) struct Apply {
    #[command(flatten)]
    preparation: Preparation,

    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
    yes: bool,

    #[command(flatten)]
    guards: GuardArgs,

    /// Take up a rollout where it was left: the one with this id, or the latest if it is not done
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    resume: Option<String>,

    /// Run in the background, where the end of this terminal does not matter; `status` shows how far it is
    #[arg(long, env = "HOMELAB_DEPLOY_DETACH", conflicts_with = "resume", value_parser = switch)]
    detach: bool,

    // `--detach` starts this command again in the background, with this flag and the prepared rollout.
    #[arg(long, value_name = "ID", hide = true)]
    take_over: Option<String>,

    #[command(flatten)]
    display: DisplayArgs,
}

#[derive(Debug, Error, Diagnostic)]
enum ApplyError {
    #[error("there is no rollout to resume")]
    #[diagnostic(help("`homelab-deploy rollouts` lists those that were run from here"))]
    NothingToResume,
    #[error("the latest rollout is done: {0}")]
    #[diagnostic(help("an older one is resumed by its id; `homelab-deploy rollouts` lists them"))]
    LatestIsDone(String),
    #[error("rollout {} has no commit: an earlier version left it to the first host to find one", .0.short())]
    #[diagnostic(help("a host never chooses the commit of others: start anew with `homelab-deploy apply`"))]
    NeverResolved(RolloutId),
    #[error("this process was not given the journal that it is to go on with: {0}")]
    NoJournal(#[source] io::Error),
}

impl Apply {
    pub(in crate::cli) fn run(self) -> CommandResult {
        self.preparation.refuse_what_is_gone()?;
        if let Some(id) = &self.take_over {
            return block_on(self.take_over(id))?;
        }
        if let Some(id) = &self.resume {
            return block_on(self.resume(id))?;
        }
        if !self.yes {
            confirm::check_somebody_can_answer(self.display.audience())?;
        }
        block_on(self.start())?
    }

    async fn start(&self) -> CommandResult {
        let Previewed { bus, prepared, preview } = self.preparation.prepare(self.display.audience()).await?;
        self.guards.check(&prepared)?;
        if self.display.audience() == Audience::Person {
            out::note(&report::emphasize(&preview, self.display.style()));
        }
        if !self.yes && !confirm::start().await {
            return Ok(Exit::Declined);
        }
        // The answers of a large fleet take more memory than its rollout.
        drop((prepared.roster, preview));
        let journals = self.preparation.state.journals();
        let rollout = prepared.rollout;
        if self.detach {
            return self.start_in_background(&journals, rollout);
        }
        Ok(self.conclude(self.carrier().begin(bus, rollout).await?))
    }

    fn start_in_background(&self, journals: &Journals, rollout: Rollout) -> CommandResult {
        let rollout = Arc::new(rollout);
        Background::same_command().begin(&rollout, journals)?;
        out::data(&format!("{}\n", rollout.id));
        if self.display.audience() == Audience::Person {
            let id = rollout.id.short();
            out::note(&format!("  watch:    homelab-deploy status {id}\n  stop:     homelab-deploy abort {id}"));
        }
        Ok(Exit::Success)
    }

    /// Resumes a rollout that ended early, if the fleet has not changed in a way that forbids it.
    async fn resume(&self, id: &str) -> CommandResult {
        let journals = self.preparation.state.journals();
        let (left, journal) = take_up(&journals, id)?;
        let rollout = left.rollout.clone().ok_or(NothingRecorded)?;
        if left.outcome == Some(Outcome::Succeeded) {
            out::note(&report::recap(&left, self.display.style(), out::room()));
            return Ok(Exit::Success);
        }
        // A rollout without a plan file may have a branch as its revision, which each host resolves for itself.
        if rollout.source.is_some() && !rollout.revision.is_commit() {
            return Err(ApplyError::NeverResolved(rollout.id).into());
        }
        let mut bus = self.preparation.operator.connect().await?;
        let prepared = self.preparation.prepare_again(&left, &rollout, &mut bus).await?;
        self.guards.check(&prepared)?;
        // The stop file was meant for the previous process, which was killed before it saw the file.
        fs::remove_file(journals.stop_file(rollout.id)).ok();
        if let Some(source) = rollout.source.as_ref().filter(|source| has_changed(source)) {
            out::note(&format!("{} was changed since; this goes on with the plan as it was.", source.path));
        }
        Ok(self.conclude(self.carrier().resume(bus, left, journal).await?))
    }

    /// Starts, in the background, the rollout that was prepared at the operator's terminal.
    async fn take_over(&self, id: &str) -> CommandResult {
        let recorded = self.preparation.state.journals().read(id)?;
        let journal = Journal::inherited().map_err(ApplyError::NoJournal)?;
        let bus = self.preparation.operator.connect().await?;
        Ok(self.conclude(self.carrier().resume(bus, recorded.summary, journal).await?))
    }

    fn carrier(&self) -> Carrier<'_> {
        let Preparation { operator, state, .. } = &self.preparation;
        Carrier { operator, state, display: &self.display }
    }

    fn conclude(&self, ended: Machine) -> Exit {
        let exit = self.carrier().conclude(ended.state());
        // The process exits now: dropping the state of a large fleet would only delay that.
        std::mem::forget(ended);
        exit
    }
}

/// Opens the rollout with this id. If the id is empty, opens the latest one, unless that succeeded.
fn take_up(journals: &Journals, id: &str) -> Result<(Summary, Journal), CommandError> {
    let found = if id.is_empty() { journals.latest() } else { journals.find(id).map(Some) };
    let found = found?.ok_or(ApplyError::NothingToResume)?;
    let (left, journal) = journals.take_up(&found)?;
    if id.is_empty() && left.outcome == Some(Outcome::Succeeded) {
        return Err(ApplyError::LatestIsDone(found).into());
    }
    Ok((left, journal))
}
