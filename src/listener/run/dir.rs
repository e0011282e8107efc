//! The directories of one run. Records that must not be lost are in memory, which always has room. Those that must
//! outlive a reboot are copied to disk as soon as it has room: nothing fills a disk more often than a build.
//!
//! ```text
//! in memory   everything but the output: request, lock, phase, baseline, confirmation, result, final response
//! on disk     a copy of the request, the baseline, the result and the final response; the output
//! ```
//!
//! Without a directory in memory, the disk has it all. Room for copies is reserved in advance, see
//! [`files`](super::files).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::Spec;
use super::files::{
    BEFORE, COMMIT, COPIED, FINAL, LOCK, PHASE, REQUEST, RESULT, Record, UNIT, draft, private_directory, remove,
    remove_all, take_spare, write, write_durably,
};
use crate::listener::NAMESPACE;
use crate::protocol::{Phase, Response};

const TOLD: &str = "told";
const CONFIRMED: &str = "confirmed";

/// The link that `nixos-rebuild build` makes to the built system. It also keeps the garbage collector from it.
const BUILT: &str = "result";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    /// Gone after a reboot.
    live: PathBuf,
    /// On disk; equal to `live` if there is no directory in memory.
    kept: PathBuf,
}

/// Returns the name of a run's directory. A key is anyone's text, and so not used as a name itself.
pub(in crate::listener) fn name_of(key: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, key.as_bytes())
}

impl RunDir {
    /// Creates a handle for a run with a directory in memory and one on disk.
    pub const fn new(live: PathBuf, kept: PathBuf) -> Self {
        Self { live, kept }
    }

    pub fn in_one(path: PathBuf) -> Self {
        Self { kept: path.clone(), live: path }
    }

    pub fn path(&self) -> &Path {
        &self.live
    }

    pub(super) fn kept(&self) -> &Path {
        &self.kept
    }

    /// Returns the arguments that tell a supervisor its directories.
    pub(in crate::listener) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![self.live.clone().into_os_string()];
        if self.live != self.kept {
            arguments.extend(["--kept".into(), self.kept.clone().into_os_string()]);
        }
        arguments
    }

    /// Creates the directories, and writes down the request. The returned lock keeps all others from the run.
    pub(in crate::listener) fn create(&self, spec: &Spec) -> io::Result<File> {
        // Without a spare directory, the disk may still have room.
        take_spare(&self.kept).ok();
        private_directory(&self.live)?;
        let lock = self.lock()?;
        self.clear()?;
        self.keep(REQUEST, spec)?;
        Ok(lock)
    }

    /// Removes unreadable remains of a run with the same key.
    fn clear(&self) -> io::Result<()> {
        let (output, previous) = self.output_files();
        let leftovers = [PHASE.0, COMMIT.0, "part", BEFORE.0, CONFIRMED, BUILT, RESULT.0, UNIT.0, FINAL.0, TOLD];
        for file in leftovers.iter().flat_map(|name| [self.live.join(name), self.kept.join(name)]) {
            remove(&file)?;
        }
        remove(&output)?;
        remove(&previous)
    }

    /// Takes the lock of the run. The supervisor and all that it starts hold it while the run goes on. The error is
    /// [`io::ErrorKind::WouldBlock`] if somebody else holds it.
    pub(in crate::listener) fn lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.try_lock()?;
        Ok(file)
    }

    /// Waits for the lock: a check whether the run is locked holds it for a moment.
    pub(in crate::listener) fn wait_for_lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.lock()?;
        Ok(file)
    }

    fn lock_file(&self) -> io::Result<File> {
        File::create(self.live.join(LOCK))
    }

    pub(in crate::listener) fn is_in_hand(&self) -> bool {
        match self.lock() {
            // Unlocked explicitly: a process that is being spawned has a copy of the file until it execs.
            Ok(lock) => lock.unlock().is_err(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Writes a record in memory, and on disk unless that is full. Missing copies are made [later](Self::settle).
    pub(in crate::listener) fn keep<T: Serialize>(&self, Record(name, _): Record<T>, value: &T) -> io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        if self.live == self.kept {
            return self.copy(name, &bytes);
        }
        write(&self.live, name, &bytes)?;
        if let Err(error) = self.copy(name, &bytes) {
            tracing::warn!("{name} of the run in {} cannot be kept over a reboot: {error}", self.live.display());
        }
        Ok(())
    }

    /// Writes down what nobody needs after a reboot.
    pub(in crate::listener) fn note<T: Serialize>(&self, Record(name, _): Record<T>, value: &T) -> io::Result<()> {
        write(&self.live, name, &serde_json::to_vec(value)?)
    }

    /// Returns a record, if it exists and can be read.
    pub(in crate::listener) fn get<T: DeserializeOwned>(&self, record: Record<T>) -> Option<T> {
        self.read(record).ok()
    }

    fn read<T: DeserializeOwned>(&self, Record(name, _): Record<T>) -> io::Result<T> {
        Ok(serde_json::from_slice(&fs::read(self.live.join(name))?)?)
    }

    /// Writes a file to the disk unless it has this content already: writing it again would need more room.
    fn copy(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if fs::read(self.kept.join(name)).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        private_directory(&self.kept)?;
        write_durably(&self.kept, name, bytes)
    }

    /// Makes the copies for which the disk had no room.
    pub(in crate::listener) fn settle(&self) -> io::Result<()> {
        let written = COPIED.iter().filter_map(|(name, _)| Some((name, fs::read(self.live.join(name)).ok()?)));
        written.into_iter().try_for_each(|(name, bytes)| self.copy(name, &bytes))
    }

    pub fn spec(&self) -> io::Result<Spec> {
        // One of the two may be damaged.
        self.read(REQUEST).or_else(|error| {
            let copy = fs::read(self.kept.join(REQUEST.0)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            copy.ok_or(error)
        })
    }

    /// Returns the file with the run's environment, if it does not inherit one.
    pub(in crate::listener) fn environment_file(&self) -> PathBuf {
        self.live.join("environment")
    }

    /// Writes down the run's environment, readable by its owner only.
    pub(in crate::listener) fn write_environment(&self, environment: &str) -> io::Result<()> {
        let mut file =
            File::options().create(true).write(true).truncate(true).mode(0o600).open(self.environment_file())?;
        file.write_all(environment.as_bytes())
    }

    /// Removes the environment of a run that is over: it may hold secrets.
    pub(in crate::listener) fn remove_environment(&self) -> io::Result<()> {
        remove(&self.environment_file())
    }

    pub(in crate::listener) fn phase(&self) -> Phase {
        self.get(PHASE).unwrap_or(Phase::Resolve)
    }

    pub(in crate::listener) fn built(&self) -> Option<String> {
        let path = fs::read_link(self.live.join(BUILT)).ok()?.into_os_string().into_string().ok()?;
        Some(path).filter(|path| path.starts_with("/nix/store/"))
    }

    /// Releases the built system to the garbage collector, unless something else keeps it.
    pub(in crate::listener) fn forget_built(&self) -> io::Result<()> {
        remove(&self.live.join(BUILT))
    }

    /// Notes that the operator has confirmed the activation. Not needed after a reboot.
    pub(in crate::listener) fn write_confirmed(&self) -> io::Result<()> {
        fs::write(self.live.join(CONFIRMED), "")
    }

    pub(in crate::listener) fn is_confirmed(&self) -> bool {
        self.live.join(CONFIRMED).exists()
    }

    /// Removes a confirmation that came before the activation.
    pub(in crate::listener) fn forget_confirmed(&self) -> io::Result<()> {
        remove(&self.live.join(CONFIRMED))
    }

    /// Whether the supervisor or systemd has noted the end of the run.
    pub(in crate::listener) fn has_ended(&self) -> bool {
        [RESULT.0, UNIT.0].iter().any(|file| self.live.join(file).exists())
    }

    /// Whether the run has been concluded. The caller should hold the lock.
    pub(in crate::listener) fn is_concluded(&self) -> bool {
        [RESULT.0, FINAL.0].iter().any(|file| self.live.join(file).exists())
    }

    /// Notes that the server has the final response. Not durable: in doubt it is delivered again.
    pub(in crate::listener) fn write_told(&self) -> io::Result<()> {
        fs::write(self.live.join(TOLD), "")?;
        if self.live == self.kept { Ok(()) } else { fs::write(self.kept.join(TOLD), "") }
    }

    pub(in crate::listener) fn was_told(&self) -> bool {
        self.live.join(TOLD).exists()
    }

    /// Returns the final response; `None` if the run has not been concluded.
    pub(in crate::listener) fn final_response(&self) -> io::Result<Option<Response>> {
        match self.read(FINAL) {
            Ok(response) => Ok(Some(response)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the output and the unused room from disk, and from memory what is complete on disk.
    pub(in crate::listener) fn shrink(&self) -> io::Result<()> {
        let (current, previous) = self.output_files();
        remove(&current)?;
        remove(&previous)?;
        COPIED.iter().try_for_each(|(name, _)| remove(&draft(&self.kept, name)))?;
        if self.live != self.kept && self.kept.join(FINAL.0).exists() { remove_all(&self.live) } else { Ok(()) }
    }

    pub(in crate::listener) fn remove(&self) -> io::Result<()> {
        remove_all(&self.live)?;
        remove_all(&self.kept)
    }
}
