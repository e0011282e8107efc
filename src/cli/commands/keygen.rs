//! `keygen`: makes an NKey pair, so that no other tool is needed to begin.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use nkeys::KeyPair;

use crate::bus;
use crate::cli::out::{self, CommandError, CommandResult, Exit, Unwritable};

#[derive(Debug, Args)]
pub(in crate::cli) struct Keygen {
    /// Where to write the seed; the file must not exist yet
    seed_file: PathBuf,

    /// Only print the public key of the seed in that file
    #[arg(long)]
    public: bool,
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
pub(super) fn generate(file: &Path) -> Result<String, CommandError> {
    let pair = KeyPair::new_user();
    let seed = pair.seed().expect("a new pair has its seed");
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(file);
    match made.and_then(|mut made| writeln!(made, "{seed}")) {
        Ok(()) => Ok(pair.public_key()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let help = "a seed that is overwritten is lost for good: choose another name, or move the file away";
            Err(Exit::Precondition.error(format!("{} exists already", file.display()), help))
        }
        Err(error) => Err(Unwritable(file.to_owned(), error).into()),
    }
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

        assert!(generate(&file).unwrap_err().report.to_string().ends_with("seed exists already"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), seed);
    }
}
