//! Room on the disk for runs that find it full: the directories of the next ones, made while there is room. Each file that is
//! to outlive a reboot is there already, as long as it may become, and is written over. A disk that writes in place, as
//! most do, needs no more room for that.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::{BEFORE, FINAL, LOCK, REQUEST, RESULT, UNIT, draft, private_directory, remove_all};

/// How many runs in a row can be kept on a full disk.
const SPARES: usize = 3;

/// The folder of these directories, beside that of all runs.
const FOLDER: &str = "spares";

const KIB: usize = 1024;

/// The room for each file, in bytes. The last lines of the log take the most.
const ROOM: [(&str, usize); 5] =
    [(REQUEST, 8 * KIB), (BEFORE, 8 * KIB), (RESULT, 40 * KIB), (UNIT, KIB), (FINAL, 40 * KIB)];

/// Makes those that are missing, for the runs in this folder.
pub(in crate::listener) fn prepare(runs: &Path) -> io::Result<()> {
    let new = runs.with_file_name(FOLDER).join("new");
    for spare in spares(runs).filter(|spare| !spare.exists()) {
        make(&new).and_then(|()| fs::rename(&new, spare)).inspect_err(|_| drop(remove_all(&new)))?;
    }
    Ok(())
}

fn make(directory: &Path) -> io::Result<()> {
    remove_all(directory)?;
    private_directory(directory)?;
    File::create(directory.join(LOCK))?;
    for (name, bytes) in ROOM {
        File::create(draft(directory, name))?.write_all(&vec![b' '; bytes])?;
    }
    Ok(())
}

/// Makes one the directory of a run, unless there is one already. An error is that there is none.
pub(super) fn take(directory: &Path) -> io::Result<()> {
    let runs = directory.parent().unwrap_or(directory);
    spares(runs)
        .map(|spare| fs::rename(spare, directory))
        .find(Result::is_ok)
        .unwrap_or(Err(io::ErrorKind::NotFound.into()))
}

fn spares(runs: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = runs.with_file_name(FOLDER);
    (1..=SPARES).map(move |number| folder.join(number.to_string()))
}
