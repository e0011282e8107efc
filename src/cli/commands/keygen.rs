//! `keygen`: makes an NKey pair, so that no other tool is needed to begin.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use miette::Diagnostic;
use nkeys::KeyPair;
use thiserror::Error;

use crate::bus;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::out;

#[derive(Debug, Args)]
pub(in crate::cli) struct Keygen {
    /// Where to write the seed; the file must not exist yet
    seed_file: PathBuf,

    /// Only print the public key of the seed in that file
    #[arg(long)]
    public: bool,
}

#[derive(Debug, Error, Diagnostic)]
pub(super) enum KeygenError {
    #[error("cannot make a key: {0}")]
    Key(#[from] nkeys::error::Error),
    #[error("{0} exists already")]
    #[diagnostic(help("a seed that is overwritten is lost for good: choose another name, or move the file away"))]
    Exists(PathBuf),
    #[error("cannot write {0}: {1}")]
    #[diagnostic(help("the folder must exist and be writable"))]
    Write(PathBuf, io::Error),
}

impl Keygen {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let public = if self.public {
            let (public, warning) = bus::public_key(&self.seed_file)?;
            out::warnings(warning.as_slice());
            public
        } else {
            generate(&self.seed_file)?
        };
        out::data(&format!("{public}\n"));
        Ok(Exit::Success)
    }
}

/// Writes a new seed to `file` and returns its public key.
pub(super) fn generate(file: &Path) -> Result<String, KeygenError> {
    let pair = KeyPair::new_user();
    let seed = pair.seed()?;
    let mut options = OpenOptions::new();
    let mut seed_file = options.write(true).create_new(true).mode(0o600).open(file).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            KeygenError::Exists(file.to_owned())
        } else {
            KeygenError::Write(file.to_owned(), error)
        }
    })?;
    writeln!(seed_file, "{seed}").map_err(|error| KeygenError::Write(file.to_owned(), error))?;
    Ok(pair.public_key())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_seed_is_for_its_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ops.seed");
        let public = generate(&file).unwrap();
        let seed = std::fs::read_to_string(&file).unwrap();
        assert_eq!(KeyPair::from_seed(seed.trim()).unwrap().public_key(), public);
        assert!(public.starts_with('U'));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        assert!(matches!(generate(&file), Err(KeygenError::Exists(_))));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), seed);
    }
}
