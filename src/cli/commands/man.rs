//! `man`: renders the manual from the texts of `--help`.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};

use crate::cli::out::{self, CommandResult, Exit, Unwritable};

#[derive(Debug, Args)]
pub(in crate::cli) struct Man {
    /// Write a page for each command into this folder instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(in crate::cli) fn run(self, command: Command) -> CommandResult {
        if let Some(folder) = self.out {
            let written = fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(command, &folder));
            written.map_err(|error| Unwritable(folder, error))?;
        } else {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).expect("writing to memory cannot fail");
            out::data(&String::from_utf8_lossy(&page));
        }
        Ok(Exit::Success)
    }
}
