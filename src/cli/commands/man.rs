//! `man`: renders the manual from the texts of `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use miette::Diagnostic;
use thiserror::Error;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::out;

#[derive(Debug, Args)]
pub(in crate::cli) struct Man {
    /// Write a page for each command into this folder instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot write manual pages to {0}: {1}")]
#[diagnostic(help("give a folder that you may write to"))]
struct ManError(PathBuf, #[source] io::Error);

impl Man {
    pub(in crate::cli) fn run(self, command: Command) -> CommandResult {
        match self.out {
            Some(folder) => {
                write_all(command, &folder).map_err(|error| ManError(folder, error))?;
            }
            None => {
                out::data(&page(command));
            }
        }
        Ok(Exit::Success)
    }
}

fn page(command: Command) -> String {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).expect("writing to memory cannot fail");
    String::from_utf8_lossy(&page).into_owned()
}

fn write_all(command: Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command, folder)
}
