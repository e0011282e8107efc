//! What a listener keeps on disk: one directory for each run.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{self, Path, PathBuf};

use miette::Diagnostic;
use rustix::fs::OFlags;
use thiserror::Error;
use uuid::Uuid;

use super::NAMESPACE;
use super::ledger::FINALS;
use super::run::{RunDir, Spec};
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::protocol::{ReplySubject, Response};

/// How many ended runs keep their output.
const OUTPUTS: usize = 20;

/// The state directory.
#[derive(Debug)]
pub(super) struct Memory {
    runs: PathBuf,
    /// Ended runs, oldest first.
    ended: VecDeque<RunDir>,
    /// Held as long as this listener lives, so that no other one uses the directory.
    _lock: File,
}

/// What was found in it.
#[derive(Debug)]
pub(super) struct Recalled {
    /// How earlier runs ended, oldest first.
    pub(super) finals: Vec<(Spec, Response)>,
    /// The ends of runs that the server may not have been given, oldest first.
    pub(super) untold: Vec<Untold>,
    /// Runs that were not concluded.
    pub(super) unfinished: Vec<(RunDir, Spec)>,
}

/// How a run ended, and whom that still has to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Untold {
    dir: RunDir,
    pub(super) reply_to: ReplySubject,
    pub(super) response: Response,
}

impl Untold {
    pub(super) const fn new(dir: RunDir, reply_to: ReplySubject, response: Response) -> Self {
        Self { dir, reply_to, response }
    }

    /// The server has it: a listener that is started anew need not tell it again.
    pub(super) fn told(&self) {
        if let Err(error) = self.dir.write_told() {
            tracing::warn!("cannot note that the end of the run in {} was told: {error}", self.dir.path().display());
        }
    }
}

/// Why the state directory cannot be used.
#[derive(Debug, Error, Diagnostic)]
pub enum StateError {
    /// It cannot be made, read or written.
    #[error("cannot use the state directory {0}: {1}")]
    #[diagnostic(help("give one that the listener may write to with --state-dir, or StateDirectory= in its unit"))]
    Unusable(PathBuf, #[source] io::Error),
    /// It cannot be opened, or somebody else may have written it: what is in it is what this host is told to have run.
    #[error("cannot use the state directory: {0}")]
    #[diagnostic(help(
        "give one that nobody but the listener may write to, with --state-dir, or StateDirectory= in its unit; shut this one \
         with chmod go-w when what is in it is the listener's"
    ))]
    Folder(#[from] PrivateDirError),
    /// Another listener works with it.
    #[error("another listener uses the state directory {0}")]
    #[diagnostic(help("two listeners on one machine need a --state-dir each"))]
    InUse(PathBuf),
}

impl Memory {
    /// Opens the state directory, and makes it where it is missing. What cannot be read in it is reported and left
    /// alone.
    pub(super) fn open(state_dir: &Path) -> Result<(Self, Recalled), StateError> {
        let unusable = |error| StateError::Unusable(state_dir.to_owned(), error);
        // The processes over runs are started elsewhere, in the root directory for one.
        let runs = path::absolute(state_dir).map_err(unusable)?.join("runs");
        let state = PrivateDir::create(state_dir)?;
        state.create_folder("runs")?;
        let lock = state.file("lock", OFlags::WRONLY | OFlags::CREATE)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateError::InUse(state_dir.to_owned()),
            TryLockError::Error(error) => unusable(error),
        })?;

        let mut ended = Vec::new();
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(&runs).map_err(unusable)? {
            let dir = RunDir::new(entry.map_err(unusable)?.path());
            let spec = match dir.spec() {
                Ok(spec) => spec,
                Err(error) => {
                    tracing::warn!("{} is no run that can be read: {error}", dir.path().display());
                    continue;
                }
            };
            match dir.final_response() {
                Ok(Some(response)) => ended.push((dir, spec, response)),
                Ok(None) => unfinished.push((dir, spec)),
                Err(error) => {
                    // The request must stay known, or it could be run a second time.
                    tracing::warn!("{} is judged anew, as its end cannot be read: {error}", dir.path().display());
                    unfinished.push((dir, spec));
                }
            }
        }
        ended.sort_by_key(|(_, _, response)| response.at);
        unfinished.sort_by_key(|(_, spec)| spec.accepted_at);

        let mut memory = Self { runs, ended: VecDeque::new(), _lock: lock };
        let (mut finals, mut untold) = (Vec::new(), Vec::new());
        for (dir, spec, response) in ended {
            if !dir.was_told() {
                untold.push(Untold::new(dir.clone(), spec.reply_to.clone(), response.clone()));
            }
            memory.ended(dir);
            finals.push((spec, response));
        }
        Ok((memory, Recalled { finals, untold, unfinished }))
    }

    /// Where the run of this key has its place. The key is anyone's text, so it does not name the directory itself.
    pub(super) fn run_dir(&self, key: &str) -> RunDir {
        let name = Uuid::new_v5(&NAMESPACE, key.as_bytes()).to_string();
        RunDir::new(self.runs.join(name))
    }

    /// A run was concluded: what is too old now is forgotten.
    pub(super) fn ended(&mut self, dir: RunDir) {
        self.ended.push_back(dir);
        if let Some(old) = self.ended.len().checked_sub(OUTPUTS + 1).and_then(|index| self.ended.get(index)) {
            let (current, previous) = old.output_files();
            for file in [current, previous] {
                forget(fs::remove_file(&file), &file);
            }
        }
        if self.ended.len() > FINALS
            && let Some(oldest) = self.ended.pop_front()
        {
            forget(fs::remove_dir_all(oldest.path()), oldest.path());
        }
    }
}

/// What could not be removed costs space and nothing else.
fn forget(removed: io::Result<()>, path: &Path) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::listener::run::tests::{give_back, spec};
    use crate::protocol::Status;

    fn conclude(memory: &mut Memory, key: &str, second: i64) {
        let dir = memory.run_dir(key);
        dir.create(&spec(key)).unwrap();
        fs::write(dir.output_files().0, "output").unwrap();
        let response = Response {
            at: Some(Timestamp::from_second(second).unwrap()),
            ..Response::new("ns1".parse().unwrap(), Status::Completed, key)
        };
        dir.write_final(&response).unwrap();
        memory.ended(dir);
    }

    fn close(Memory { _lock: lock, .. }: Memory) {
        give_back(&lock);
    }

    #[test]
    fn ended_runs_are_recalled_in_order_and_the_old_ones_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (mut memory, _) = Memory::open(folder.path()).unwrap();
        for number in 0..FINALS + 5 {
            conclude(&mut memory, &format!("r-{number}"), i64::try_from(number).unwrap());
        }
        close(memory);
        let (memory, recalled) = Memory::open(folder.path()).unwrap();
        let keys: Vec<&str> = recalled.finals.iter().map(|(spec, _)| spec.key.as_str()).collect();
        assert_eq!((keys.len(), keys[0], keys[FINALS - 1]), (FINALS, "r-5", "r-204"));
        let outputs = memory.ended.iter().filter(|dir| dir.output_files().0.exists()).count();
        assert_eq!(outputs, OUTPUTS);
    }

    #[test]
    fn what_cannot_be_read_is_skipped_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut memory, _) = Memory::open(folder.path()).unwrap();
        conclude(&mut memory, "good", 1);
        let unfinished = memory.run_dir("unfinished");
        unfinished.create(&spec("unfinished")).unwrap();
        let spoilt = memory.run_dir("spoilt");
        spoilt.create(&spec("spoilt")).unwrap();
        fs::write(spoilt.path().join("final.json"), "").unwrap();
        let torn = memory.run_dir("torn");
        torn.create(&spec("torn")).unwrap();
        fs::write(torn.path().join("request.json"), r#"{"key":"to"#).unwrap();
        fs::create_dir(memory.runs.join("foreign")).unwrap();
        fs::write(memory.runs.join("README"), "hello").unwrap();
        close(memory);

        let (memory, recalled) = Memory::open(folder.path()).unwrap();
        assert_eq!(recalled.finals.len(), 1);
        assert_eq!(recalled.unfinished.len(), 2);
        assert!(recalled.unfinished.contains(&(unfinished, spec("unfinished"))));
        assert!(recalled.unfinished.contains(&(spoilt, spec("spoilt"))));
        assert_eq!(fs::read_dir(memory.runs).unwrap().count(), 6);
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_an_error_with_help() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Memory::open(&file.join("state")).unwrap_err();
        assert!(matches!(error, StateError::Folder(_)) && error.help().is_some());

        let _first = Memory::open(folder.path()).unwrap();
        assert!(matches!(Memory::open(folder.path()), Err(StateError::InUse(_))));
    }

    #[test]
    fn no_key_leads_out_of_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = Memory::open(folder.path()).unwrap();
        for key in ["../../etc", "/etc", "deploy.responses.x", ""] {
            assert_eq!(memory.run_dir(key).path().parent(), Some(memory.runs.as_path()));
        }
    }
}
