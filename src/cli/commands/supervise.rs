//! `supervise`: the process over one run. For the listener only, and so not in the help.

use std::io;
use std::path::PathBuf;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::runtime;
use crate::listener::supervisor::supervise;

#[derive(Debug, Args)]
pub(in crate::cli) struct Supervise {
    /// The directory of the run
    run_dir: PathBuf,
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot supervise the run in {0}: {1}")]
struct SuperviseError(PathBuf, #[source] io::Error);

impl Supervise {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let supervised = runtime::block_on(supervise(&self.run_dir))?;
        supervised.map_err(|error| Exit::Failed.because(SuperviseError(self.run_dir, error)))?;
        Ok(Exit::Success)
    }
}
