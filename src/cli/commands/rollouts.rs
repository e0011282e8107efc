//! `rollouts`, `status`, `report` and `abort`: show recorded rollouts, and stop one that runs in another process.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::args::{StateArgs, switch};
use crate::cli::display::DisplayArgs;
use crate::cli::out::{self, CommandError, CommandResult, Exit};
use crate::cli::session::NothingRecorded;
use crate::clock;
use crate::operator::journal::{JournalError, Journals, Recorded};
use crate::report::{self, Document, Liveness, html, junit, markdown};

/// How often the journal of a running rollout is read again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollouts {
    /// Print one JSON array with the outcome of each
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = switch)]
    json: bool,

    #[command(flatten)]
    state: StateArgs,
}

// One rollout on record.
#[derive(Debug, Args)]
struct RecordArgs {
    /// The beginning of the rollout's id [default: the running rollout, else the latest]
    id: Option<String>,

    #[command(flatten)]
    state: StateArgs,
}

// The journal of a rollout has no logs for `--verbose` to show.
#[derive(Debug, Args)]
#[command(mut_arg("verbose", |verbose| verbose.hide(true)))]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    record: RecordArgs,

    #[command(flatten)]
    display: DisplayArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Abort {
    /// The beginning of the rollout's id [default: the running rollout]
    id: Option<String>,

    #[command(flatten)]
    state: StateArgs,
}

impl RecordArgs {
    /// Returns the folder of records, and the id of the rollout that is meant: of those that run, the latest.
    fn find(&self) -> Result<(Journals, String), CommandError> {
        let journals = self.state.journals();
        let found = match &self.id {
            Some(id) => Some(journals.find(id)?),
            None => match running(&journals).unwrap_or_default().pop() {
                Some(id) => Some(id),
                None => journals.latest()?,
            },
        };
        let found = found.ok_or_else(|| {
            let help = "`homelab-deploy apply FILE` starts one; --state-dir names another folder of records";
            Exit::Precondition.error("no rollout is on record here", help)
        })?;
        Ok((journals, found))
    }
}

impl Rollouts {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let (all, errors) = self.state.journals().all()?;
        out::warnings(&errors);
        let liveness = |recorded: &Recorded| if recorded.running { Liveness::Running } else { Liveness::Over };
        let rows: Vec<_> = all.iter().map(|recorded| (&recorded.summary, liveness(recorded))).collect();
        if self.json {
            out::json(&report::rollouts_json(&rows));
        } else if rows.is_empty() {
            out::note("No rollout is on record here.");
        } else {
            out::data(&report::rollouts_table(&rows, clock::now(), out::stdout_line_limit()));
        }
        Ok(Exit::Success)
    }
}

impl Status {
    /// Shows all events so far, then new ones while the rollout runs.
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let (journals, id) = self.record.find()?;
        let mut follower = journals.follow(&id)?;
        let mut reporter = self.display.reporter();
        loop {
            // A write error is ignored: a reader that closed its pipe has seen what it wanted.
            follower.look(|event, summary| _ = reporter.event(event, &[], summary).ok())?;
            reporter.flush().ok();
            if !follower.is_running() {
                break;
            }
            reporter.tick(clock::now(), &follower.summary).ok();
            tokio::time::sleep(LOOK_EVERY).await;
        }
        drop(reporter);
        let summary = &follower.summary;
        if summary.rollout.is_none() {
            return Err(NothingRecorded.into());
        }
        self.display.recap(summary);
        // A rollout that was cut off is one that was interrupted.
        Ok(summary.outcome.map_or(Exit::Interrupted, Exit::from))
    }
}

impl Abort {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let journals = self.state.journals();
        let id = match &self.id {
            Some(id) => journals.find(id)?,
            None => only_running(&journals)?,
        };
        let recorded = journals.read(&id)?;
        let rollout = recorded.summary.rollout.filter(|_| recorded.running);
        let rollout = rollout.ok_or_else(|| nothing_to_stop(format!("rollout {id} is not running")))?;
        journals.stop(rollout.id)?;
        out::note(&format!(
            "Rollout {} sends nothing new. `homelab-deploy status {}` shows how it ends.",
            rollout.name(),
            rollout.id.short()
        ));
        Ok(Exit::Success)
    }
}

fn only_running(journals: &Journals) -> Result<String, CommandError> {
    match running(journals)?.as_slice() {
        [] => Err(nothing_to_stop("no rollout is running".to_owned())),
        [id] => Ok(id.clone()),
        several => {
            let what = format!("several rollouts are running: {}", several.join(", "));
            Err(Exit::Precondition.error(what, "name the one to stop: `homelab-deploy abort ID`"))
        }
    }
}

fn nothing_to_stop(why: String) -> CommandError {
    Exit::Precondition.error(why, "there is nothing to stop; `homelab-deploy rollouts` lists those on record")
}

/// Returns the ids of the running rollouts, the latest last.
fn running(journals: &Journals) -> Result<Vec<String>, JournalError> {
    let (all, _) = journals.all()?;
    let running = all.into_iter().filter(|recorded| recorded.running);
    Ok(running.filter_map(|recorded| Some(recorded.summary.rollout?.id.to_string())).collect())
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Report {
    #[command(flatten)]
    record: RecordArgs,

    /// Format: a page for a browser, text for an issue, results for a CI system, or JSON
    #[arg(long, value_enum, default_value_t = Format::Html)]
    format: Format,

    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Html,
    Markdown,
    Junit,
    Json,
}

impl Report {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let (journals, id) = self.record.find()?;
        let recorded = journals.read(&id)?;
        let liveness = if recorded.running { Liveness::Running } else { Liveness::Over };
        let document = Document::of(&recorded.summary, liveness, clock::now());
        let document = document.ok_or(NothingRecorded)?;
        let text = match self.format {
            Format::Html => html(&document, &clock::zone()),
            Format::Markdown => markdown(&document, &clock::zone()),
            Format::Junit => junit(&document),
            Format::Json => format!("{}\n", document.json()),
        };
        match &self.out {
            Some(file) => out::file(file, &text)?,
            None => _ = out::data(&text),
        }
        Ok(Exit::Success)
    }
}
