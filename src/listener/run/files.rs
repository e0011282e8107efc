//! The files of a run: what is in them, how they are written and removed, and the room on the disk for runs that find it full.
//!
//! That room is the directories of the next runs, made while there is room. Each file that is to outlive a reboot is there
//! already, as long as it may become, and is written over. A disk that writes in place, as most do, needs no more room for that.

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
/// What was so on the host before the run: it is what the host can return to.
pub(in crate::listener) const BEFORE: Record<SystemSnapshot> = Record("before.json", PhantomData);
/// How the run ended, as it says itself.
pub(in crate::listener) const RESULT: Record<RunResult> = Record("result.json", PhantomData);
/// How the unit of the run ended, if it had one.
pub(in crate::listener) const UNIT: Record<UnitEnd> = Record("unit.json", PhantomData);
/// What the deployer is told in the end.
pub(in crate::listener) const FINAL: Record<Response> = Record("final.json", PhantomData);
pub(in crate::listener) const PHASE: Record<Phase> = Record("phase", PhantomData);
/// The commit that is deployed, once it is known.
pub(in crate::listener) const COMMIT: Record<Commit> = Record("commit", PhantomData);
/// How many runs in a row can be kept on a full disk.
const SPARES: usize = 3;

/// The folder of these directories, beside that of all runs.
const SPARES_FOLDER: &str = "spares";

const KIB: usize = 1024;

/// What is copied to the disk, in the order in which it comes about, with the room for it in bytes. The last lines of the log
/// take the most.
pub(super) const COPIED: [(&str, usize); 5] =
    [(REQUEST.0, 8 * KIB), (BEFORE.0, 8 * KIB), (RESULT.0, 40 * KIB), (UNIT.0, KIB), (FINAL.0, 40 * KIB)];

/// Makes a directory that only its owner can look into: output may tell secrets. One that exists is fine.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn remove(file: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(file))
}

/// Removes a directory that may not be there, with all that is in it.
pub(super) fn remove_all(directory: &Path) -> io::Result<()> {
    unless_missing(fs::remove_dir_all(directory))
}

fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        // Where the disk has no room for a directory, what would be in it is not there either.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

/// Where a file is until it is whole.
pub(super) fn draft(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.new"))
}

/// Writes a file so that nobody reads half of it.
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = draft(directory, name);
    fs::write(&new, bytes)?;
    fs::rename(new, directory.join(name))
}

/// Writes a file so that after a power cut it is there whole or not at all. This waits for the disk, which may take
/// seconds: the loop that serves NATS does not call it.
pub(super) fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = draft(directory, name);
    // Over what is there, which is the room for it.
    let mut file = File::options().write(true).create(true).truncate(false).open(&new)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    sync_directory(directory)?;
    // The directory is as new as its first file.
    directory.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes those that are missing, for the runs in this folder.
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

/// Makes one the directory of a run, unless there is one already. An error is that there is none.
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
