//! How the process over a run comes to live on its own, out of reach of whatever ends the listener.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use super::output::clean;
use super::run::{RunDir, Spec};
use super::unit;

#[derive(Debug, Clone)]
pub(super) struct Launcher {
    supervisor: PathBuf,
    home: LaunchMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaunchMode {
    /// In a unit of its own. A control group is what systemd ends a service by, the listener's as well as this one's.
    Unit,
    /// In a session of its own, which it makes itself: no terminal and no process group are shared with the listener.
    Session,
}

impl Launcher {
    /// The launcher for the host whose file system begins at `root`.
    pub(super) fn new(supervisor: PathBuf, root: &Path) -> Self {
        // See sd_booted(3). Only root may ask for a unit of the system.
        let has_units = root.join("run/systemd/system").is_dir() && geteuid().is_root();
        Self { supervisor, home: if has_units { LaunchMode::Unit } else { LaunchMode::Session } }
    }

    /// Starts the process over the run in this directory. Blocks, in a unit until the process has the run in hand. An
    /// error does not mean for sure that there is no such process: its lock tells.
    pub(super) fn launch(&self, dir: &RunDir, spec: &Spec) -> io::Result<()> {
        match self.home {
            LaunchMode::Unit => self.in_a_unit(dir, spec),
            LaunchMode::Session => self.in_a_session(dir),
        }
    }

    fn in_a_unit(&self, dir: &RunDir, spec: &Spec) -> io::Result<()> {
        dir.write_environment(&unit::environment(env::vars_os()))?;
        let output = Command::new("systemd-run")
            .args(unit::arguments(&self.supervisor, dir, spec))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("systemd-run cannot be started: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("systemd-run: {}", clean(said.trim()))))
    }

    fn in_a_session(&self, dir: &RunDir) -> io::Result<()> {
        // Not waited for: the files tell how it goes. The runtime reaps it once it has ended.
        tokio::process::Command::new(&self.supervisor)
            .arg("supervise")
            .args(dir.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(dir.supervisor_log()?)
            .spawn()?;
        Ok(())
    }
}
