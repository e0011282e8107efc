//! Generates keys of users.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use homelab_deploy::nats_config::{Principal, PublicKey, User};
use miette::{IntoDiagnostic, Result};
use nkeys::KeyPair;

/// A key pair whose seed is in a file.
#[derive(Debug, Clone)]
pub struct Key {
    public: PublicKey,
    seed_file: PathBuf,
}

impl Key {
    /// Generates a key pair, with the seed in `<folder>/<name>.seed`, readable only for its owner.
    pub fn generate(folder: &Path, name: &str) -> Result<Self> {
        let pair = KeyPair::new_user();
        let seed_file = folder.join(format!("{name}.seed"));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&seed_file).into_diagnostic()?;
        writeln!(file, "{}", pair.seed().into_diagnostic()?).into_diagnostic()?;
        let public = pair.public_key().parse().into_diagnostic()?;
        Ok(Self { public, seed_file })
    }

    pub fn seed_file(&self) -> &Path {
        &self.seed_file
    }

    /// Returns the server's user with this key.
    pub fn user(&self, holder: Principal) -> User {
        User { holder, key: self.public.clone() }
    }
}
