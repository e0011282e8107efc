//! The file of systems that were built before.

use std::io;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use thiserror::Error;

use crate::plan::Systems;

/// The largest file that is read, in bytes: a hundred thousand hosts.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why there are no systems in a file.
#[derive(Debug, Error, Diagnostic)]
pub enum SystemsFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy build --out FILE` writes one"))]
    Unreadable(PathBuf, #[source] io::Error),
    /// It says something else.
    #[error("{path} is not a file of systems: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help(r#"it looks like {{"commit": "<40 digits>", "systems": {{"ns1": "/nix/store/…"}}}}"#))]
    Mistaken(PathBuf, #[source] serde_json::Error),
}

/// Reads a file as `homelab-deploy build` writes it.
pub fn read_systems(path: &Path) -> Result<Systems, SystemsFileError> {
    let unreadable = |error| SystemsFileError::Unreadable(path.to_owned(), error);
    if path.metadata().map_err(unreadable)?.len() > MAX_BYTES {
        return Err(unreadable(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {MAX_BYTES} bytes"),
        )));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|error| SystemsFileError::Mistaken(path.to_owned(), error))
}
