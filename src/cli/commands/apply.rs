//! `apply`: carries out a plan, or resumes a rollout.

use std::fs;
use std::sync::Arc;

use clap::Args;

use super::plan::PrepareArgs;
use crate::cli::args::switch;
use crate::cli::out::{self, CommandError, CommandResult, Exit, SetupError, Stream};
use crate::cli::session::{NothingRecorded, RolloutArgs};
use crate::operator::background::Background;
use crate::operator::journal::{Journal, Journals};
use crate::operator::plan_file::has_changed;
use crate::operator::prepare::prepare_again;
use crate::report;
use crate::rollout::{Outcome, Rollout, Summary};

/// What is settled when a rollout is resumed. The flags are refused then, and their variables do not count.
pub(in crate::cli) const SETTLED: [&str; 7] =
    ["revision", "exclude", "only", "from", "even_if_current", "systems", "build"];

#[derive(Debug, Args)]
#[command(mut_arg("plan", |plan| plan.required_unless_present_any(["resume", "take_over"])))]
pub(in crate::cli) struct Apply {
    #[command(flatten)]
    prepare: PrepareArgs,

    /// Resume a rollout: the one with this id, or the latest if it is not done
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    #[arg(conflicts_with_all = SETTLED, conflicts_with = "plan")]
    resume: Option<String>,

    /// Run in the background, independent of this terminal; `status` shows the progress
    #[arg(long, env = "HOMELAB_DEPLOY_DETACH", conflicts_with = "resume", value_parser = switch)]
    detach: bool,

    // `--detach` starts this command again in the background, with this flag and the prepared rollout.
    #[arg(long, value_name = "ID", hide = true)]
    take_over: Option<String>,

    #[command(flatten)]
    rollout: RolloutArgs,
}

impl Apply {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        self.prepare.refuse_removed_flag()?;
        match (&self.take_over, &self.resume) {
            (Some(id), _) => self.take_over(id).await,
            (None, Some(id)) => self.resume(id).await,
            (None, None) => self.start().await,
        }
    }

    fn journals(&self) -> Journals {
        self.rollout.operator().state.journals()
    }

    async fn start(&self) -> CommandResult {
        let args = &self.rollout;
        args.check_somebody_can_answer()?;
        let (bus, prepared) = self.prepare.prepare(&args.deployer, &args.hooks, args.display.audience()).await?;
        args.check(&prepared)?;
        if !args.may_start(&prepared, "").await {
            return Ok(Exit::Declined);
        }
        // The answers of a large fleet take more memory than its rollout.
        drop(prepared.roster);
        if self.detach {
            return self.start_in_background(prepared.rollout);
        }
        let ended = args.begin(bus, prepared.rollout).await?;
        Ok(args.conclude(ended).await)
    }

    fn start_in_background(&self, rollout: Rollout) -> CommandResult {
        let rollout = Arc::new(rollout);
        Background::same_command().begin(&rollout, &self.journals())?;
        out::data(&format!("{}\n", rollout.id));
        if self.rollout.is_for_a_person() {
            let id = rollout.id.short();
            out::note(&format!("  watch:    homelab-deploy status {id}\n  stop:     homelab-deploy abort {id}"));
        }
        Ok(Exit::Success)
    }

    /// Resumes a rollout that ended early, if the fleet has not changed in a way that forbids it.
    async fn resume(&self, id: &str) -> CommandResult {
        let journals = self.journals();
        let (left, journal) = open_to_resume(&journals, id)?;
        let rollout = left.rollout.clone().ok_or(NothingRecorded)?;
        if left.outcome == Some(Outcome::Succeeded) {
            out::note(&report::recap(&left, Stream::Stderr.style(), out::stderr_line_limit()));
            return Ok(Exit::Success);
        }
        if rollout.source.is_some() && !rollout.revision.is_commit() {
            let id = rollout.id.short();
            let what = format!("rollout {id} has no commit: an earlier version left it to the first host to find one");
            let help = "a host never chooses the commit of others: start anew with `homelab-deploy apply`";
            return Err(Exit::Precondition.error(what, help));
        }
        let mut bus = self.rollout.operator().connect().await?;
        let by = self.rollout.deployer.context(None);
        self.rollout.check(&prepare_again(&left, &rollout, &mut bus, &by).await?)?;
        out::warnings(self.prepare.rollback.unheeded(&rollout.plan).as_slice());
        // The stop file was meant for the previous process, which was killed before it saw the file.
        fs::remove_file(journals.stop_file(rollout.id)).ok();
        if let Some(source) = rollout.source.as_ref().filter(|source| has_changed(source)) {
            out::note(&format!("{} has changed since; the rollout continues with the plan as it was.", source.path));
        }
        self.rollout.resume(bus, left, journal).await
    }

    /// Starts, in the background, the rollout that was prepared at the operator's terminal.
    async fn take_over(&self, id: &str) -> CommandResult {
        let recorded = self.journals().read(id)?;
        let journal = Journal::inherited().map_err(SetupError)?;
        let bus = self.rollout.operator().connect().await?;
        self.rollout.resume(bus, recorded.summary, journal).await
    }
}

/// Opens the rollout with this id. If the id is empty, opens the latest one, unless that succeeded.
fn open_to_resume(journals: &Journals, id: &str) -> Result<(Summary, Journal), CommandError> {
    let found = if id.is_empty() { journals.latest() } else { journals.find(id).map(Some) };
    let found = found?.ok_or_else(|| {
        let help = "`homelab-deploy rollouts` lists those on record";
        Exit::Precondition.error("there is no rollout to resume", help)
    })?;
    let (left, journal) = journals.take_over(&found)?;
    if id.is_empty() && left.outcome == Some(Outcome::Succeeded) {
        let help = "an older one is resumed by its id; `homelab-deploy rollouts` lists them";
        return Err(Exit::Precondition.error(format!("the latest rollout is done: {found}"), help));
    }
    Ok((left, journal))
}
