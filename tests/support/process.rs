//! Processes that are killed when dropped.

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

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, once the process has exited.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().into_diagnostic()
    }

    /// Sends SIGTERM, as a service manager does.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| miette!("{} is no process id", self.child.id()))?;
        kill_process(pid, signal).into_diagnostic()
    }

    /// Returns all output so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has exited already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
