//! The files of a run: how they are called, written and removed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(super) const LOCK: &str = "lock";
pub(super) const REQUEST: &str = "request.json";
pub(super) const BEFORE: &str = "before.json";
pub(super) const RESULT: &str = "result.json";
pub(super) const UNIT: &str = "unit.json";
pub(super) const FINAL: &str = "final.json";

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

/// The last bytes of a file, at most so many; none when it cannot be read.
pub(super) fn tail_of(path: &Path, bytes: usize) -> Vec<u8> {
    let bytes = bytes as u64;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(bytes).read_to_end(&mut tail)?;
        Ok(tail)
    };
    read().unwrap_or_default()
}
