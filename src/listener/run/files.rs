//! The files of a run: their content, how they are written and removed, and spare directories for runs on a full disk.
//!
//! The directories of the next runs are made while there is room. They contain each file that must outlive a reboot, in
//! its largest size, and a run writes over them. A disk that writes in place, as most do, needs no more room for that.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{RunResult, Spec, UnitEnd};
use crate::listener::snapshot::SystemSnapshot;
use crate::protocol::{Commit, Phase, Response};

/// A file of a run that holds one value.
pub struct Record<T>(pub(super) &'static str, pub(super) PhantomData<fn() -> T>);

pub(super) const LOCK: &str = "lock";

pub(in crate::listener) const REQUEST: Record<Spec> = Record("request.json", PhantomData);
/// The state of the host before the run, to which it can roll back.
pub(in crate::listener) const BEFORE: Record<SystemSnapshot> = Record("before.json", PhantomData);
/// The result, from the supervisor.
pub(in crate::listener) const RESULT: Record<RunResult> = Record("result.json", PhantomData);
/// The end of the run's unit, from systemd.
pub(in crate::listener) const UNIT: Record<UnitEnd> = Record("unit.json", PhantomData);
/// The final response.
pub(in crate::listener) const FINAL: Record<Response> = Record("final.json", PhantomData);
pub(in crate::listener) const PHASE: Record<Phase> = Record("phase", PhantomData);
/// The commit, once it is resolved.
pub(in crate::listener) const COMMIT: Record<Commit> = Record("commit", PhantomData);
/// The number of consecutive runs that a full disk can take.
const SPARES: usize = 3;

/// The folder of spare directories, beside that of the runs.
const SPARES_FOLDER: &str = "spares";

const KIB: usize = 1024;

/// The files that are copied to disk, in order, and the bytes reserved for each. Log tails take the most.
pub(super) const COPIED: [(&str, usize); 5] =
    [(REQUEST.0, 8 * KIB), (BEFORE.0, 8 * KIB), (RESULT.0, 40 * KIB), (UNIT.0, KIB), (FINAL.0, 40 * KIB)];

/// Creates a directory for its owner only, as output may contain secrets, unless it exists.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn remove(file: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(file))
}

/// Removes a directory with its content, if it exists.
pub(super) fn remove_all(directory: &Path) -> io::Result<()> {
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
pub(super) fn draft(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.new"))
}

/// Writes a file atomically.
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = draft(directory, name);
    fs::write(&new, bytes)?;
    fs::rename(new, directory.join(name))
}

/// Writes a file so that after a power cut it is there whole or not at all. This waits for the disk, perhaps for
/// seconds: the loop that serves NATS must not call it.
pub(super) fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = draft(directory, name);
    // Written over the reserved room.
    let mut file = File::options().write(true).create(true).truncate(false).open(&new)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    sync_directory(directory)?;
    // The directory may be as new as its first file.
    directory.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the missing spare directories beside this folder of runs.
pub(in crate::listener) fn prepare_spares(runs: &Path) -> io::Result<()> {
    let new = runs.with_file_name(SPARES_FOLDER).join("new");
    for spare in spares(runs).filter(|spare| !spare.exists()) {
        make_spare(&new).and_then(|()| fs::rename(&new, spare)).inspect_err(|_| drop(remove_all(&new)))?;
    }
    Ok(())
}

fn make_spare(directory: &Path) -> io::Result<()> {
    remove_all(directory)?;
    private_directory(directory)?;
    File::create(directory.join(LOCK))?;
    for (name, bytes) in COPIED {
        File::create(draft(directory, name))?.write_all(&vec![b' '; bytes])?;
    }
    Ok(())
}

/// Turns a spare directory into that of a run, unless that exists. Fails if there is no spare one.
pub(super) fn take_spare(directory: &Path) -> io::Result<()> {
    let runs = directory.parent().unwrap_or(directory);
    spares(runs)
        .map(|spare| fs::rename(spare, directory))
        .find(Result::is_ok)
        .unwrap_or(Err(io::ErrorKind::NotFound.into()))
}

fn spares(runs: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = runs.with_file_name(SPARES_FOLDER);
    (1..=SPARES).map(move |number| folder.join(number.to_string()))
}
