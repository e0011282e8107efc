//! `report`: a rollout as one document.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use miette::Diagnostic;
use thiserror::Error;

use super::rollouts::meant;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::out;
use crate::cli::state::StateArgs;
use crate::clock;
use crate::report::{Document, Liveness, html, junit, markdown};

#[derive(Debug, Args)]
pub(in crate::cli) struct Report {
    /// The beginning of the rollout's id [default: the one that runs, else the latest]
    id: Option<String>,

    /// What to write: a page for a browser, text for an issue, results for a CI system, or JSON
    #[arg(long, value_enum, default_value_t = Format::Html)]
    format: Format,

    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Html,
    Markdown,
    Junit,
    Json,
}

#[derive(Debug, Error, Diagnostic)]
enum ReportError {
    #[error("nothing was recorded of rollout {0}")]
    #[diagnostic(help("it ended before anything was sent"))]
    Empty(String),
    #[error("cannot write {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("give a file that you may write, or leave --out away"))]
    Unwritable(PathBuf, #[source] io::Error),
}

impl Report {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let journals = self.state.journals();
        let id = meant(&journals, self.id.as_deref())?;
        let recorded = journals.read(&id).map_err(|error| Exit::Precondition.with(error))?;
        let liveness = if recorded.running { Liveness::Running } else { Liveness::Over };
        let document = Document::of(&recorded.summary, liveness, clock::now());
        let document = document.ok_or_else(|| Exit::Precondition.with(ReportError::Empty(id)))?;
        let text = match self.format {
            Format::Html => html(&document, &clock::zone()),
            Format::Markdown => markdown(&document, &clock::zone()),
            Format::Junit => junit(&document),
            Format::Json => format!("{}\n", document.json()),
        };
        match self.out {
            Some(path) => {
                let written = fs::write(&path, text);
                written.map_err(|error| Exit::Precondition.with(ReportError::Unwritable(path, error)))?;
            }
            None => {
                out::data(&text);
            }
        }
        Ok(Exit::Success)
    }
}
