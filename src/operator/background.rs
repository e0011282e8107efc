//! Runs rollouts in the background, in a process that survives the one that prepared them.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use miette::Diagnostic;
use thiserror::Error;
use tokio::process::Command;

use super::journal::{Journal, JournalError, Journals};
use crate::clock;
use crate::protocol::RolloutId;
use crate::rollout::{Event, EventKind, Rollout};

/// Returns this program. Only Linux can name the running one even if an update has replaced its file.
pub fn this_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from(env!("CARGO_PKG_NAME")))
}

#[derive(Debug, Clone)]
pub struct Background {
    /// This program, unless a test sets another.
    pub program: PathBuf,
    /// The arguments, without the id of the rollout, which is appended.
    pub arguments: Vec<OsString>,
    /// Variables added to the environment of this process.
    pub environment: Vec<(&'static str, OsString)>,
}

#[derive(Debug, Error, Diagnostic)]
pub enum DetachError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot start a process in the background: {0}")]
    Process(#[source] io::Error),
}

impl Background {
    pub fn same_command() -> Self {
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach").collect();
        Self { program: this_program(), arguments, environment: Vec::new() }
    }

    pub fn begin(&self, rollout: &Arc<Rollout>, journals: &Journals) -> Result<(), DetachError> {
        let mut journal = journals.create(rollout.id)?;
        let begun = Event { at: clock::now(), kind: EventKind::Begun(Arc::clone(rollout)) };
        let unusable = |error| JournalError::Io(journals.folder.clone(), error);
        journal.record(&begun).and_then(|()| journal.sync()).map_err(unusable)?;
        self.start(rollout.id, journal, journals)
    }

    /// Starts a background process that resumes a rollout where its journal ends.
    pub fn resume(&self, id: RolloutId, journal: Journal, journals: &Journals) -> Result<(), DetachError> {
        // The request to stop was for the previous process.
        std::fs::remove_file(journals.stop_file(id)).ok();
        self.start(id, journal, journals)
    }

    /// Starts the process and hands it the [journal](Journal::inherited). Its output goes to a file beside that.
    fn start(&self, id: RolloutId, journal: Journal, journals: &Journals) -> Result<(), DetachError> {
        let output = journals.create_output(id)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["--take-over", &id.to_string()]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("HOMELAB_DEPLOY_DETACH");
        let stdout = output.try_clone().map_err(DetachError::Process)?;
        command.stdin(journal).stdout(stdout).stderr(output);
        // Ctrl-C and a closed terminal signal the foreground process group, and an MCP client kills the process group
        // of its server. The new process is in neither, from its first moment on.
        command.process_group(0);
        // Nothing waits for the process; its journal shows what it does.
        command.spawn().map(drop).map_err(DetachError::Process)
    }
}
