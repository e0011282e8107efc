//! A `nixos-rebuild` that does as it is told.

use std::fs;
use std::path::{Path, PathBuf};

use homelab_deploy::protocol::HostName;
use miette::{IntoDiagnostic, Result};

use super::program::make_program;

/// Never ends, and starts a process of its own that does not either; both end with the folder, so that none outlives the
/// test. The record gets a line "<host> child <pid>".
pub const HANG: &str = r#"
(while [ -d "$here" ]; do sleep 0.2; done) &
echo "$host child $!" >>"$here/record"
wait
"#;

/// Goes on until the [gate is opened](Rebuild::open).
pub const GATE: &str = r#"while [ -d "$here" ] && [ ! -e "$here/$host.open" ]; do sleep 0.05; done"#;

/// Complains as a failing build does, and exits with 1.
pub const FAIL: &str = "echo \"error: attribute 'unboundd' missing\" >&2; exit 1";

/// The folder with the program and its orders.
#[derive(Debug)]
pub struct Rebuild {
    folder: PathBuf,
}

impl Rebuild {
    /// Puts the program into `folder`. It succeeds at once until it is told otherwise.
    pub fn install(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        let program = folder.join("nixos-rebuild");
        make_program(&program, include_str!("nixos-rebuild"))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder to put on a listener's `PATH`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says what happens on `host` from now on, in the words of a shell.
    pub fn on(&self, host: &HostName, script: &str) -> Result<()> {
        // A rename, since a listener may be starting the program at this moment.
        let draft = self.folder.join(format!("{host}.draft"));
        fs::write(&draft, script).into_diagnostic()?;
        fs::rename(&draft, self.folder.join(format!("{host}.sh"))).into_diagnostic()
    }

    /// Lets what waits at the [gate](GATE) of `host` go on, and whatever comes there later.
    pub fn open(&self, host: &HostName) -> Result<()> {
        fs::write(self.folder.join(format!("{host}.open")), "").into_diagnostic()
    }

    /// What has been run so far, on all hosts, in order.
    pub fn record(&self) -> Vec<String> {
        let record = fs::read_to_string(self.folder.join("record")).unwrap_or_default();
        record.lines().map(str::to_owned).collect()
    }

    /// How it was called on `host` so far: the arguments of each call.
    pub fn calls(&self, host: &HostName) -> Vec<String> {
        let start = format!("{host} start ");
        let calls = self.record().into_iter().filter_map(|line| {
            let (_pid, arguments) = line.strip_prefix(&start)?.split_once(' ')?;
            Some(arguments.to_owned())
        });
        calls.collect()
    }
}
