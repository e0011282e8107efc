//! `apply`: carries out a plan, or resumes a rollout.

use std::fs;
use std::io;
use std::sync::Arc;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use super::plan::PrepareArgs;
use crate::cli::args::{GuardArgs, switch};
use crate::cli::display::DisplayArgs;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::out::Stream;
use crate::cli::session::{NothingRecorded, RolloutSession};
use crate::cli::{block_on, out};
use crate::operator::background::Background;
use crate::operator::journal::{Journal, Journals};
use crate::operator::plan_file::has_changed;
use crate::operator::prepare::prepare_again;
use crate::protocol::RolloutId;
use crate::report;
use crate::rollout::{Outcome, Rollout, Summary};

#[derive(Debug, Args)]
#[command(mut_arg("plan", |plan| plan.required_unless_present_any(["resume", "take_over"]).conflicts_with("resume")))]
pub(in crate::cli) struct Apply {
    #[command(flatten)]
    prepare: PrepareArgs,

    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
    yes: bool,

    #[command(flatten)]
    guards: GuardArgs,

    /// Resume a rollout: the one with this id, or the latest if it is not done
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    resume: Option<String>,

    /// Run in the background, independent of this terminal; `status` shows the progress
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
    #[diagnostic(help("`homelab-deploy rollouts` lists those on record"))]
    NothingToResume,
    #[error("the latest rollout is done: {0}")]
    #[diagnostic(help("an older one is resumed by its id; `homelab-deploy rollouts` lists them"))]
    LatestIsDone(String),
    #[error("rollout {} has no commit: an earlier version left it to the first host to find one", .0.short())]
    #[diagnostic(help("a host never chooses the commit of others: start anew with `homelab-deploy apply`"))]
    NeverResolved(RolloutId),
    #[error("this process did not inherit the journal to continue: {0}")]
    NoJournal(#[source] io::Error),
}

impl Apply {
    pub(in crate::cli) fn run(self) -> CommandResult {
        self.prepare.refuse_removed_flags()?;
        block_on(async {
            match (&self.take_over, &self.resume) {
                (Some(id), _) => self.take_over(id).await,
                (None, Some(id)) => self.resume(id).await,
                (None, None) => self.start().await,
            }
        })?
    }

    fn session(&self) -> RolloutSession<'_> {
        RolloutSession { operator: &self.prepare.operator, display: &self.display, yes: self.yes }
    }

    fn journals(&self) -> Journals {
        self.prepare.operator.state.journals()
    }

    async fn start(&self) -> CommandResult {
        let session = self.session();
        session.check_somebody_can_answer()?;
        let (bus, prepared) = self.prepare.prepare(self.display.audience()).await?;
        self.guards.check(&prepared)?;
        if !session.may_start(&prepared, "").await {
            return Ok(Exit::Declined);
        }
        // The answers of a large fleet take more memory than its rollout.
        drop(prepared.roster);
        if self.detach {
            return self.start_in_background(prepared.rollout);
        }
        let ended = session.begin(bus, prepared.rollout).await?;
        Ok(session.conclude(ended).await)
    }

    fn start_in_background(&self, rollout: Rollout) -> CommandResult {
        let rollout = Arc::new(rollout);
        Background::same_command().begin(&rollout, &self.journals())?;
        out::data(&format!("{}\n", rollout.id));
        if self.session().is_for_a_person() {
            let id = rollout.id.short();
            out::note(&format!("  watch:    homelab-deploy status {id}\n  stop:     homelab-deploy abort {id}"));
        }
        Ok(Exit::Success)
    }

    /// Resumes a rollout that ended early, if the fleet has not changed in a way that forbids it.
    async fn resume(&self, id: &str) -> CommandResult {
        let (operator, journals) = (&self.prepare.operator, self.journals());
        let (left, journal) = open_to_resume(&journals, id)?;
        let rollout = left.rollout.clone().ok_or(NothingRecorded)?;
        if left.outcome == Some(Outcome::Succeeded) {
            out::note(&report::recap(&left, Stream::Stderr.style(), out::stderr_line_limit()));
            return Ok(Exit::Success);
        }
        // A rollout without a plan file may have a branch as its revision, which each host resolves for itself.
        if rollout.source.is_some() && !rollout.revision.is_commit() {
            return Err(ApplyError::NeverResolved(rollout.id).into());
        }
        let mut bus = operator.connect().await?;
        let by = operator.context(&self.prepare.flake, None);
        self.guards.check(&prepare_again(&left, &rollout, &mut bus, &by).await?)?;
        // The stop file was meant for the previous process, which was killed before it saw the file.
        fs::remove_file(journals.stop_file(rollout.id)).ok();
        if let Some(source) = rollout.source.as_ref().filter(|source| has_changed(source)) {
            out::note(&format!("{} has changed since; the rollout continues with the plan as it was.", source.path));
        }
        self.session().resume(bus, left, journal).await
    }

    /// Starts, in the background, the rollout that was prepared at the operator's terminal.
    async fn take_over(&self, id: &str) -> CommandResult {
        let recorded = self.journals().read(id)?;
        let journal = Journal::inherited().map_err(ApplyError::NoJournal)?;
        let bus = self.prepare.operator.connect().await?;
        self.session().resume(bus, recorded.summary, journal).await
    }
}

/// Opens the rollout with this id. If the id is empty, opens the latest one, unless that succeeded.
fn open_to_resume(journals: &Journals, id: &str) -> Result<(Summary, Journal), CommandError> {
    let found = if id.is_empty() { journals.latest() } else { journals.find(id).map(Some) };
    let found = found?.ok_or(ApplyError::NothingToResume)?;
    let (left, journal) = journals.take_over(&found)?;
    if id.is_empty() && left.outcome == Some(Outcome::Succeeded) {
        return Err(ApplyError::LatestIsDone(found).into());
    }
    Ok((left, journal))
}
