//! Processes that end with the value that stands for them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use rustix::process::{Pid, Signal, kill_process};

/// A process whose output goes to a file; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with both of its outputs appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options().append(true).create(true).open(log);
        let output = output.into_diagnostic().wrap_err_with(|| format!("cannot open {}", log.display()))?;
        let errors = output.try_clone().into_diagnostic()?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let program = command.get_program().to_string_lossy();
        let child = child.into_diagnostic().wrap_err_with(|| format!("cannot start {program}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().into_diagnostic()
    }

    /// Asks it to end, as a service manager does: with SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| miette!("{} is no process id", self.child.id()))?;
        kill_process(pid, signal).into_diagnostic()
    }

    /// Everything that it has written so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing left to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
