//! `supervise`: supervises one run. Only the listener calls it, so the help does not show it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use crate::cli::block_on;
use crate::cli::exit::{CommandResult, Exit};
use crate::listener::supervisor::{RunDir, note_unit_end, supervise};
use crate::listener::{Systemd, UnitEnd};

#[derive(Debug, Args)]
pub(in crate::cli) struct Supervise {
    /// The directory of the run
    run_dir: PathBuf,

    /// Where on the disk is kept what outlives a reboot, unless that is the same directory
    #[arg(long, value_name = "DIR")]
    kept: Option<PathBuf>,

    /// Only note how the unit of the run ended, as systemd tells it in the environment of `ExecStopPost=`
    #[arg(long)]
    unit_ended: bool,

    /// Set by systemd for `ExecStopPost=`
    #[arg(long, env = "SERVICE_RESULT", hide = true, default_value = "")]
    service_result: String,

    /// Set by systemd for `ExecStopPost=`
    #[arg(long, env = "EXIT_CODE", hide = true, default_value = "")]
    exit_code: String,

    /// Set by systemd for `ExecStopPost=`
    #[arg(long, env = "EXIT_STATUS", hide = true, default_value = "")]
    exit_status: String,

    /// Set by systemd where it waits to be told that the run is in hand
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<OsString>,
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot supervise the run in {0}: {1}")]
struct SuperviseError(PathBuf, #[source] io::Error);

impl Supervise {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let dir = match self.kept {
            Some(kept) => RunDir::new(self.run_dir.clone(), kept),
            None => RunDir::in_one(self.run_dir.clone()),
        };
        let supervised = if self.unit_ended {
            let end = UnitEnd { result: self.service_result, code: self.exit_code, status: self.exit_status };
            note_unit_end(&dir, &end)
        } else {
            let starter = Systemd::at(self.notify_socket.as_deref());
            block_on(async { supervise(dir, starter?).await })?
        };
        supervised.map_err(|error| Exit::Failed.with(SuperviseError(self.run_dir, error)))?;
        Ok(Exit::Success)
    }
}
