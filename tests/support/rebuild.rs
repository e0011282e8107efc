//! A scripted `nixos-rebuild`.

use std::fs;
use std::path::{Path, PathBuf};

use homelab_deploy::protocol::HostName;
use miette::{IntoDiagnostic, Result};

use super::program::make_program;

/// Hangs, and starts a child that hangs too. Both exit when the folder is removed, so that none outlives the test.
/// Records a line "<host> child <pid>".
pub const HANG: &str = r#"
(while [ -d "$here" ]; do sleep 0.2; done) &
echo "$host child $!" >>"$here/record"
wait
"#;

/// Waits until the [gate is opened](Rebuild::open).
pub const GATE: &str = r#"while [ -d "$here" ] && [ ! -e "$here/$host.open" ]; do sleep 0.05; done"#;

/// Prints an error like a failing build and exits with 1.
pub const FAIL: &str = "echo \"error: attribute 'unboundd' missing\" >&2; exit 1";

/// The folder with the program and its scripts.
#[derive(Debug)]
pub struct Rebuild {
    folder: PathBuf,
}

impl Rebuild {
    /// Installs the program in `folder`. Without a script it succeeds at once.
    pub fn install(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        let program = folder.join("nixos-rebuild");
        make_program(&program, include_str!("nixos-rebuild"))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Returns the folder for a listener's `PATH`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sets the shell script for `host`.
    pub fn on(&self, host: &HostName, script: &str) -> Result<()> {
        // A rename, since a listener may be starting the program now.
        let draft = self.folder.join(format!("{host}.draft"));
        fs::write(&draft, script).into_diagnostic()?;
        fs::rename(&draft, self.folder.join(format!("{host}.sh"))).into_diagnostic()
    }

    /// Opens the [gate](GATE) of `host` for current and later runs.
    pub fn open(&self, host: &HostName) -> Result<()> {
        fs::write(self.folder.join(format!("{host}.open")), "").into_diagnostic()
    }

    /// Returns the record of all runs so far, on all hosts, in order.
    pub fn record(&self) -> Vec<String> {
        let record = fs::read_to_string(self.folder.join("record")).unwrap_or_default();
        record.lines().map(str::to_owned).collect()
    }

    /// Returns the arguments of each call on `host` so far.
    pub fn calls(&self, host: &HostName) -> Vec<String> {
        let start = format!("{host} start ");
        let calls = self.record().into_iter().filter_map(|line| {
            let (_pid, arguments) = line.strip_prefix(&start)?.split_once(' ')?;
            Some(arguments.to_owned())
        });
        calls.collect()
    }
}
