//! The directories of one run. Records that must not be lost are in memory, which always has room. Those that must
//! outlive a reboot are copied to disk as soon as it has room: nothing fills a disk more often than a build.
//!
//! ```text
//! in memory   everything but the output: request, lock, phase, baseline, confirmation, result, final response
//! on disk     a copy of the request, the baseline, the result and the final response; the output
//! ```
//!
//! Without a directory in memory, the disk has it all. The directories of the next runs are made while there is room.
//! They contain each file that must outlive a reboot, in its largest size, and a run writes over them. A disk that
//! writes in place, as most do, needs no more room for that.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{BEFORE, COMMIT, CONFIRMED, DELIVERED, FINAL, PHASE, REQUEST, RESULT, Record, RunSpec, UNIT};
use crate::listener::NAMESPACE;
use crate::protocol::Phase;

/// Held by the supervisor and all that it starts, while the run goes on.
const LOCK: &str = "lock";
/// The link that `nixos-rebuild build` makes to the built system. It also keeps the garbage collector from it.
const BUILT: &str = "result";

/// The files that are copied to disk, in order, and the bytes reserved for each. Log tails take the most.
const COPIED: [(&str, usize); 5] =
    [(REQUEST.0, 8 * KIB), (BEFORE.0, 8 * KIB), (RESULT.0, 40 * KIB), (UNIT.0, KIB), (FINAL.0, 40 * KIB)];
const KIB: usize = 1024;

/// The folder of spare directories, beside that of the runs, and the number of consecutive runs that a full disk can
/// take.
const SPARES_FOLDER: &str = "spares";
const SPARES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    /// Gone after a reboot.
    live: PathBuf,
    /// On disk; equal to `live` if there is no directory in memory.
    kept: PathBuf,
}

/// Returns the name of a run's directory. A key is anyone's text, and so not used as a name itself.
pub(crate) fn name_of(key: &str) -> Uuid {
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

    /// Returns the arguments that tell a supervisor its directories.
    pub(super) fn arguments(&self) -> [&Path; 2] {
        [&self.live, &self.kept]
    }

    /// Creates the directories, and writes down the request. The returned lock keeps all others from the run.
    pub(crate) fn create(&self, spec: &RunSpec) -> io::Result<File> {
        // Without a spare directory, the disk may still have room.
        take_spare(&self.kept).ok();
        private_directory(&self.live)?;
        let lock = self.lock()?;
        self.clear()?;
        self.write_and_copy(REQUEST, spec)?;
        Ok(lock)
    }

    /// Removes unreadable remains of a run with the same key.
    fn clear(&self) -> io::Result<()> {
        let names = [PHASE.0, COMMIT.0, BEFORE.0, CONFIRMED.0, BUILT, RESULT.0, UNIT.0, FINAL.0, DELIVERED.0];
        let records = names.into_iter().flat_map(|name| [self.live.join(name), self.kept.join(name)]);
        records.chain(self.output_parts().into_values()).try_for_each(|file| remove(&file))
    }

    /// Takes the lock of the run. The error is [`io::ErrorKind::WouldBlock`] if somebody else holds it.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let file = File::create(self.live.join(LOCK))?;
        file.try_lock()?;
        Ok(file)
    }

    /// Waits for the lock: a check whether the run is locked holds it for a moment.
    pub(crate) fn wait_for_lock(&self) -> io::Result<File> {
        let file = File::create(self.live.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }

    /// Writes a record in memory, and on disk unless that is full. Missing copies are made [later](Self::copy_all).
    pub(crate) fn write_and_copy<T: Serialize>(&self, Record(name, _): Record<T>, value: &T) -> io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        if self.live == self.kept {
            return self.copy(name, &bytes);
        }
        write(&self.live, name, &bytes)?;
        if let Err(error) = self.copy(name, &bytes) {
            tracing::warn!("{name} of the run in {} cannot be stored for after a reboot: {error}", self.live.display());
        }
        Ok(())
    }

    /// Writes down what nobody needs after a reboot.
    pub(crate) fn write_volatile<T: Serialize>(&self, Record(name, _): Record<T>, value: &T) -> io::Result<()> {
        write(&self.live, name, &serde_json::to_vec(value)?)
    }

    pub(crate) fn forget<T>(&self, Record(name, _): Record<T>) -> io::Result<()> {
        remove(&self.live.join(name))
    }

    /// Returns a record, if it exists and can be read.
    pub(crate) fn get<T: DeserializeOwned>(&self, record: Record<T>) -> Option<T> {
        read(&self.live, record).ok()
    }

    pub(crate) fn has<T>(&self, Record(name, _): Record<T>) -> bool {
        self.live.join(name).exists()
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
    pub(crate) fn copy_all(&self) -> io::Result<()> {
        let written = COPIED.iter().filter_map(|(name, _)| Some((name, fs::read(self.live.join(name)).ok()?)));
        written.into_iter().try_for_each(|(name, bytes)| self.copy(name, &bytes))
    }

    pub fn spec(&self) -> io::Result<RunSpec> {
        // One of the two may be damaged.
        read(&self.live, REQUEST).or_else(|error| read(&self.kept, REQUEST).map_err(|_| error))
    }

    /// Returns the place for the environment of a run that does not inherit one. It may hold secrets.
    pub(super) fn environment_file(&self) -> PathBuf {
        self.live.join("environment")
    }

    /// Completes the records of a run that is over, and removes what only a running one needs.
    pub(super) fn tidy_up(&self) -> [io::Result<()>; 3] {
        [self.copy_all(), remove(&self.environment_file()), self.forget_built()]
    }

    pub(crate) fn phase(&self) -> Phase {
        self.get(PHASE).unwrap_or(Phase::Resolve)
    }

    pub(crate) fn built(&self) -> Option<String> {
        let path = fs::read_link(self.live.join(BUILT)).ok()?.into_os_string().into_string().ok()?;
        Some(path).filter(|path| path.starts_with("/nix/store/"))
    }

    /// Releases the built system to the garbage collector, unless something else keeps it.
    pub(crate) fn forget_built(&self) -> io::Result<()> {
        remove(&self.live.join(BUILT))
    }

    /// Notes that the server has the final response. Not durable: in doubt it is delivered again.
    pub(crate) fn mark_delivered(&self) -> io::Result<()> {
        self.write_volatile(DELIVERED, &())?;
        if self.live == self.kept { Ok(()) } else { fs::write(self.kept.join(DELIVERED.0), "") }
    }

    /// Returns the place of the part of the output that begins at this offset.
    pub(crate) fn output_part(&self, start: u64) -> PathBuf {
        self.kept.join(if start == 0 { "output.log".to_owned() } else { format!("output.{start}.log") })
    }

    /// Returns the kept parts of the output, by the offsets at which they begin.
    pub(crate) fn output_parts(&self) -> BTreeMap<u64, PathBuf> {
        let names = fs::read_dir(&self.kept)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let start = |name: &str| match name.strip_prefix("output.")?.strip_suffix("log")? {
            "" => Some(0),
            start => start.strip_suffix('.')?.parse().ok(),
        };
        let mut parts: BTreeMap<u64, PathBuf> =
            names.filter_map(|name| Some((start(&name)?, self.kept.join(name)))).collect();
        // The first part in the form of an earlier supervisor, which began `output.log` anew after it.
        let first = self.kept.join("output.log.1");
        if let Ok(first_bytes) = fs::metadata(&first).map(|file| file.len()) {
            parts = parts.into_iter().map(|(start, part)| (start + first_bytes, part)).collect();
            parts.insert(0, first);
        }
        parts
    }

    /// Removes the output and the unused room from disk, and from memory what is complete on disk.
    pub(crate) fn shrink(&self) -> io::Result<()> {
        let unused = COPIED.map(|(name, _)| draft(&self.kept, name));
        self.output_parts().values().chain(&unused).try_for_each(|file| remove(file))?;
        if self.live != self.kept && self.kept.join(FINAL.0).exists() { remove_all(&self.live) } else { Ok(()) }
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_all(&self.live)?;
        remove_all(&self.kept)
    }
}

fn read<T: DeserializeOwned>(directory: &Path, Record(name, _): Record<T>) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(directory.join(name))?)?)
}

/// Creates a directory for its owner only, as output may contain secrets, unless it exists.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove(file: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(file))
}

/// Removes a directory with its content, if it exists.
fn remove_all(directory: &Path) -> io::Result<()> {
    unless_missing(fs::remove_dir_all(directory))
}

fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        // If the disk had no room for a directory, its files are missing, too.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

/// Returns the place of a file until it is complete.
fn draft(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.new"))
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = draft(directory, name);
    fs::write(&new, bytes)?;
    fs::rename(new, directory.join(name))
}

/// Writes a file so that after a power cut it is there whole or not at all. This waits for the disk, perhaps for
/// seconds: the loop that serves NATS must not call it.
fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = draft(directory, name);
    // Written over the reserved room.
    let mut file = File::options().write(true).create(true).truncate(false).open(&new)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    // The directory may be as new as its first file.
    directory.ancestors().take(2).try_for_each(|directory| File::open(directory)?.sync_all())
}

/// Makes the missing spare directories beside this folder of runs.
pub(crate) fn prepare_spares(runs: &Path) {
    // Made under another name: a run that begins meanwhile must not take a part of one.
    let new = runs.with_file_name(SPARES_FOLDER).join("new");
    let mut made = spares(runs).filter(|spare| !spare.exists());
    if let Err(error) = made.try_for_each(|spare| make_spare(&new).and_then(|()| fs::rename(&new, spare))) {
        remove_all(&new).ok();
        tracing::warn!("there is no room in {} for the next runs: {error}", runs.display());
    }
}

fn make_spare(directory: &Path) -> io::Result<()> {
    remove_all(directory)?;
    private_directory(directory)?;
    File::create(directory.join(LOCK))?;
    COPIED.iter().try_for_each(|&(name, bytes)| fs::write(draft(directory, name), vec![b' '; bytes]))
}

/// Turns a spare directory into that of a run, unless that exists. Fails if there is no spare one.
fn take_spare(directory: &Path) -> io::Result<()> {
    let runs = directory.parent().unwrap_or(directory);
    let mut taken = spares(runs).map(|spare| fs::rename(spare, directory));
    taken.find(Result::is_ok).unwrap_or(Err(io::ErrorKind::NotFound.into()))
}

fn spares(runs: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = runs.with_file_name(SPARES_FOLDER);
    (1..=SPARES).map(move |number| folder.join(number.to_string()))
}
