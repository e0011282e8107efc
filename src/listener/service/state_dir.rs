//! The state directory of a listener, with one directory for each run.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{self, Path, PathBuf};

use miette::Diagnostic;
use rustix::fs::OFlags;
use thiserror::Error;
use uuid::Uuid;

use super::history::RequestHistory;
use crate::clock;
use crate::listener::run::{DELIVERED, FINAL, RunDir, RunSpec, name_of, prepare_spares};
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::protocol::{BusyWith, Response};

const RUNS: &str = "runs";

/// The state directory, and the one in memory if there is one.
#[derive(Debug)]
pub(crate) struct StateDir {
    /// The folder of runs since the last boot.
    live: PathBuf,
    /// The folder of runs on disk; equal to `live` if there is none in memory.
    kept: PathBuf,
    number: u64,
    /// Keeps other listeners from using the directory.
    _lock: File,
}

#[derive(Debug)]
pub(crate) struct RecoveredState {
    pub(super) state_dir: StateDir,
    pub(crate) history: RequestHistory,
    /// Ended runs whose final response the server may not have, oldest first.
    pub(super) undelivered: Vec<(RunDir, RunSpec, Response)>,
    /// Runs that were not concluded, oldest first.
    pub(super) unfinished: Vec<(RunDir, RunSpec)>,
}

#[derive(Debug, Error, Diagnostic)]
pub enum StateError {
    /// The directory cannot be opened, or somebody else may have written what this host would believe to have run.
    #[error("cannot use the state directory: {0}")]
    #[diagnostic(help(
        "give one that only the listener may write to, with --state-dir, or StateDirectory= in its unit; if the \
         content of this one is the listener's, chmod go-w it"
    ))]
    Folder(#[from] PrivateDirError),
    #[error("another listener uses the state directory {0}")]
    #[diagnostic(help("two listeners on one machine need a --state-dir each"))]
    InUse(PathBuf),
}

impl StateDir {
    /// Opens the state directory, and creates it if it is missing. `runtime_dir` is in memory, and has room when the
    /// disk is full. Unreadable runs are logged and left alone.
    pub(crate) fn open(
        state_dir: &Path,
        runtime_dir: Option<&Path>,
        history: RequestHistory,
    ) -> Result<RecoveredState, StateError> {
        let unusable = |error| PrivateDirError::Io(state_dir.to_owned(), error);
        let kept = runs_in(state_dir)?;
        let live = runtime_dir.map_or_else(|| Ok(kept.clone()), runs_in)?;
        let lock = PrivateDir::open(state_dir)?.file("lock", OFlags::WRONLY | OFlags::CREATE)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateError::InUse(state_dir.to_owned()),
            TryLockError::Error(error) => unusable(error).into(),
        })?;

        let recovered = Self { live, kept, number: 0, _lock: lock }.recover(history).map_err(unusable)?;
        prepare_spares(&recovered.state_dir.kept);
        Ok(recovered)
    }

    fn recover(mut self, mut history: RequestHistory) -> io::Result<RecoveredState> {
        let (mut ended, mut unfinished, mut undelivered) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.names()? {
            let dir = self.dir(&name.to_string());
            if let Err(error) = dir.copy_all() {
                tracing::warn!("cannot store the record of the run in {}: {error}", dir.path().display());
            }
            match (dir.spec(), dir.get(FINAL)) {
                (Ok(spec), Some(response)) => ended.push((dir, spec, response)),
                (Ok(spec), None) => unfinished.push((dir, spec)),
                (Err(error), response) => {
                    // Its key is unknown, but every key leads to one name, so the request stays known.
                    tracing::error!("{} is a run whose request cannot be read: {error}", dir.path().display());
                    history.damaged(name, response);
                }
            }
        }
        ended.sort_by_key(|(_, spec, _)| spec.number);
        unfinished.sort_by_key(|(_, spec)| spec.number);
        let last = [ended.last().map(|(_, spec, _)| spec), unfinished.last().map(|(_, spec)| spec)];
        self.number = last.into_iter().flatten().map(|spec| spec.number).max().unwrap_or_default();

        for (dir, spec, response) in ended {
            if !dir.has(DELIVERED) {
                undelivered.push((dir, spec.clone(), response.clone()));
            }
            let forgotten = history.ended(spec, response);
            self.clean_up(&history, forgotten.as_ref())();
        }
        Ok(RecoveredState { state_dir: self, history, undelivered, unfinished })
    }

    /// Returns the names of all run directories. Other files may lie beside them.
    fn names(&self) -> io::Result<BTreeSet<Uuid>> {
        let entries = fs::read_dir(&self.live)?.chain(fs::read_dir(&self.kept)?);
        let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())));
        names.filter_map(Result::transpose).collect()
    }

    pub(super) fn run_dir(&self, key: &str) -> RunDir {
        self.dir(&name_of(key).to_string())
    }

    fn dir(&self, name: &str) -> RunDir {
        let (live, kept) = (self.live.join(name), self.kept.join(name));
        // From before a reboot, or from a listener without a directory in memory: the lock is there, too.
        if !live.exists() && kept.exists() { RunDir::in_one(kept) } else { RunDir::new(live, kept) }
    }

    pub(super) const fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Returns the damaged run that is still locked, if there is one.
    pub(super) fn damaged_holder(&self, history: &RequestHistory) -> Option<BusyWith> {
        let mut damaged = history.damaged.keys().map(|name| self.dir(&name.to_string()));
        // Unlocked explicitly: a process that is being spawned has a copy of the file until it execs.
        let unlocked = |dir: &RunDir| dir.lock().and_then(|file| file.unlock());
        let dir = damaged.find(|dir| unlocked(dir).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))?;
        let since = fs::metadata(dir.path()).and_then(|dir| dir.created()).ok();
        let since = since.and_then(|since| since.try_into().ok()).unwrap_or_else(clock::now);
        Some(BusyWith { id: "a run whose record is damaged".to_owned(), operator: None, since })
    }

    /// Returns what makes room after the end of a run, which may wait for a slow disk.
    pub(super) fn clean_up(
        &self,
        history: &RequestHistory,
        forgotten: Option<&RunSpec>,
    ) -> impl FnOnce() + Send + use<> {
        let [old, forgotten] = [history.without_output(), forgotten].map(|spec| Some(self.run_dir(&spec?.key)));
        let runs = self.kept.clone();
        move || {
            let shrunk = old.map(|dir| (dir.shrink(), dir));
            let removed = forgotten.map(|dir| (dir.remove(), dir));
            for (done, dir) in shrunk.into_iter().chain(removed) {
                if let Err(error) = done {
                    tracing::warn!("cannot remove the run in {}: {error}", dir.path().display());
                }
            }
            prepare_spares(&runs);
        }
    }

    /// Makes the copies for which the disk had no room.
    pub(super) fn copy_all(&self, history: &RequestHistory) {
        for (spec, _) in &history.ended {
            self.run_dir(&spec.key).copy_all().ok();
        }
    }
}

/// Creates the folder of all runs in a private folder. The path is absolute, as supervisors start elsewhere.
fn runs_in(folder: &Path) -> Result<PathBuf, StateError> {
    let folder = path::absolute(folder).map_err(|error| PrivateDirError::Io(folder.to_owned(), error))?;
    Ok(PrivateDir::create(&folder)?.create_folder(RUNS)?.path().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use jiff::Timestamp;

    use super::*;
    use crate::listener::run::tests::{give_back, spec};
    use crate::listener::service::history::{FINALS, OUTPUTS};
    use crate::protocol::Status;

    fn conclude(state_dir: &mut StateDir, history: &mut RequestHistory, key: &str, second: i64) {
        let dir = state_dir.run_dir(key);
        let spec = RunSpec { number: state_dir.next_number(), ..spec(key) };
        dir.create(&spec).unwrap();
        fs::write(dir.output_part(0), "output").unwrap();
        let response = Response {
            at: Some(Timestamp::from_second(second).unwrap()),
            ..Response::new("ns1".parse().unwrap(), Status::Completed, key)
        };
        dir.write_and_copy(FINAL, &response).unwrap();
        let forgotten = history.ended(spec, response);
        state_dir.clean_up(history, forgotten.as_ref())();
    }

    fn open(state_dir: &Path, runtime_dir: Option<&Path>) -> Result<RecoveredState, StateError> {
        StateDir::open(state_dir, runtime_dir, RequestHistory::new("ns1".parse().unwrap()))
    }

    fn close(StateDir { _lock: lock, .. }: StateDir) {
        give_back(&lock);
    }

    #[test]
    fn ended_runs_are_recalled_in_order_and_the_old_ones_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let RecoveredState { mut state_dir, mut history, .. } = open(folder.path(), None).unwrap();
        for number in 0..FINALS + 5 {
            // The clock goes backwards.
            conclude(&mut state_dir, &mut history, &format!("r-{number}"), 1_000_000 - i64::try_from(number).unwrap());
        }
        close(state_dir);
        let RecoveredState { state_dir, history, .. } = open(folder.path(), None).unwrap();
        let keys: Vec<&str> = history.ended.iter().map(|(spec, _)| spec.key.as_str()).collect();
        assert_eq!((keys.len(), keys[0], keys[FINALS - 1]), (FINALS, "r-5", "r-204"));
        assert_eq!(state_dir.number, FINALS as u64 + 5);
        let outputs = keys.iter().filter(|key| state_dir.run_dir(key).output_part(0).exists()).count();
        assert_eq!(outputs, OUTPUTS);
    }

    #[test]
    fn what_cannot_be_read_is_left_alone_and_known_for_all_that() {
        let folder = tempfile::tempdir().unwrap();
        let RecoveredState { mut state_dir, mut history, .. } = open(folder.path(), None).unwrap();
        conclude(&mut state_dir, &mut history, "good", 1);
        let unfinished = state_dir.run_dir("unfinished");
        unfinished.create(&spec("unfinished")).unwrap();
        let spoilt = state_dir.run_dir("spoilt");
        spoilt.create(&spec("spoilt")).unwrap();
        fs::write(spoilt.path().join("final.json"), "").unwrap();
        let spoil_request = |key: &str| {
            let dir = state_dir.run_dir(key);
            fs::write(dir.path().join("request.json"), r#"{"key":"to"#).unwrap();
            dir
        };
        state_dir.run_dir("torn").create(&spec("torn")).unwrap();
        let torn = spoil_request("torn");
        conclude_only(&state_dir, "ended");
        spoil_request("ended");
        fs::create_dir(state_dir.kept.join("foreign")).unwrap();
        fs::write(state_dir.kept.join("README"), "hello").unwrap();
        close(state_dir);

        let RecoveredState { state_dir, history, unfinished: recovered, .. } = open(folder.path(), None).unwrap();
        assert_eq!(history.ended.len(), 1);
        assert_eq!(recovered.len(), 2);
        assert!(recovered.contains(&(unfinished, spec("unfinished"))));
        assert!(recovered.contains(&(spoilt, spec("spoilt"))));
        let damaged: BTreeSet<_> = history.damaged.iter().map(|(name, end)| (*name, end.status)).collect();
        assert_eq!(damaged, [(name_of("torn"), Status::Failed), (name_of("ended"), Status::Completed)].into());
        assert_eq!(fs::read_dir(&state_dir.kept).unwrap().count(), 7);

        assert_eq!(state_dir.damaged_holder(&history), None);
        let lock = torn.lock().unwrap();
        assert!(state_dir.damaged_holder(&history).is_some());
        give_back(&lock);
    }

    fn conclude_only(state_dir: &StateDir, key: &str) {
        let dir = state_dir.run_dir(key);
        dir.create(&spec(key)).unwrap();
        dir.write_and_copy(FINAL, &Response::new("ns1".parse().unwrap(), Status::Completed, key)).unwrap();
    }

    #[test]
    fn after_a_reboot_the_disk_knows_what_ran() {
        let folder = tempfile::tempdir().unwrap();
        let (state, runtime) = (folder.path().join("state"), folder.path().join("run"));
        let RecoveredState { mut state_dir, mut history, .. } = open(&state, Some(&runtime)).unwrap();
        conclude(&mut state_dir, &mut history, "ended", 1);
        state_dir.run_dir("unfinished").create(&spec("unfinished")).unwrap();
        assert!(state_dir.run_dir("unfinished").path().starts_with(&runtime));
        close(state_dir);

        let RecoveredState { state_dir, history, unfinished, .. } = open(&state, Some(&runtime)).unwrap();
        assert_eq!((history.ended.len(), unfinished.len()), (1, 1));
        assert!(state_dir.run_dir("ended").path().starts_with(&runtime));
        close(state_dir);

        fs::remove_dir_all(&runtime).unwrap();
        let RecoveredState { state_dir, history, unfinished, .. } = open(&state, Some(&runtime)).unwrap();
        assert_eq!((history.ended.len(), unfinished.len()), (1, 1));
        assert!(state_dir.run_dir("ended").path().starts_with(&state));
        assert!(state_dir.run_dir("new").path().starts_with(&runtime));
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_an_error_with_help() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let advice = |error: StateError| error.help().unwrap().to_string();
        assert!(advice(open(&file.join("state"), None).unwrap_err()).contains("--state-dir"));

        let ours = folder.path().join("ours");
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).unwrap();
        symlink(&ours, folder.path().join("link")).unwrap();
        for folder in [&ours, &folder.path().join("link")] {
            let error = open(folder, None).unwrap_err();
            assert!(matches!(error, StateError::Folder(_)), "{error}");
            assert!(advice(error).contains("--state-dir"));
        }

        let _first = open(folder.path(), None).unwrap();
        assert!(matches!(open(folder.path(), None), Err(StateError::InUse(_))));
    }

    #[test]
    fn no_key_leads_out_of_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = open(folder.path(), None).unwrap().state_dir;
        for key in ["../../etc", "/etc", "deploy.responses.x", ""] {
            assert_eq!(state_dir.run_dir(key).path().parent(), Some(state_dir.kept.as_path()));
        }
    }
}
