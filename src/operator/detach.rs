//! Rollouts in the background: another process of this program, out of reach of the process that prepared them.

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

/// This very program, even when its file was replaced by an update.
#[cfg(target_os = "linux")]
pub fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// This program where it lies: only Linux has a name for a file that an update replaced.
#[cfg(not(target_os = "linux"))]
pub fn this_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from(env!("CARGO_PKG_NAME")))
}

#[derive(Debug, Clone)]
pub struct Background {
    /// The program: this one, unless a test says otherwise.
    pub program: PathBuf,
    /// Its arguments, to which the rollout to take over is added.
    pub arguments: Vec<OsString>,
    /// What it finds in its environment besides that of this process.
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

    /// `apply`, which finds its settings in the environment.
    pub fn apply(environment: Vec<(&'static str, OsString)>) -> Self {
        Self { program: this_program(), arguments: vec!["apply".into()], environment }
    }

    /// Records what is to be done, and leaves it to another process to take it up.
    pub fn begin(&self, rollout: &Arc<Rollout>, journals: &Journals) -> Result<(), DetachError> {
        let mut journal = journals.create(rollout.id)?;
        let begun = Event { at: clock::now(), kind: EventKind::Begun(Arc::clone(rollout)) };
        let unusable = |error| JournalError::Io(journals.folder().to_owned(), error);
        journal.record(&begun).and_then(|()| journal.sync()).map_err(unusable)?;
        self.start(rollout.id, journal, journals)
    }

    /// Leaves a rollout that was begun before to another process, which goes on where the journal ends.
    pub fn resume(&self, id: RolloutId, journal: Journal, journals: &Journals) -> Result<(), DetachError> {
        // The wish to stop was for the process before this one.
        std::fs::remove_file(journals.stop_file(id)).ok();
        self.start(id, journal, journals)
    }

    /// Starts the process for a rollout, whose [journal](Journal::inherited) is handed over. What it prints stands beside that.
    fn start(&self, id: RolloutId, journal: Journal, journals: &Journals) -> Result<(), DetachError> {
        let output = journals.create_output(id)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["--take-over", &id.to_string()]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("HOMELAB_DEPLOY_DETACH");
        let stdout = output.try_clone().map_err(DetachError::Process)?;
        command.stdin(journal).stdout(stdout).stderr(output);
        // Ctrl-C and the end of a terminal are for the group of processes in its foreground, and a client that is done with
        // its server kills the group of that. The new process is in neither, not even for the moment in which it starts.
        command.process_group(0);
        // It is on its own from here: nobody waits for it, and its journal tells what it does.
        command.spawn().map(drop).map_err(DetachError::Process)
    }
}
