//! Boots a machine within this one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use miette::{IntoDiagnostic, Result, bail, miette};
use rustix::process::{Pid, Signal, kill_process};

use crate::program;
use crate::support::skip::skip;

/// The folder of a machine's parts.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/box");

/// Returns the file tree to boot machines from, or `None` if none can be booted here.
pub fn tree() -> Option<&'static Path> {
    static TREE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    TREE.get_or_init(make_tree).as_deref().map_err(|why| skip(why)).ok()
}

/// Makes the file tree. The error says why no machine can be booted here.
fn make_tree() -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/box");
    let made = Command::new(script).output().unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    match made.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&made.stdout).trim().into()),
        Some(3) => Err(why.trim().to_owned()),
        _ => panic!("{script} fails:\n{why}"),
    }
}

/// A machine with systemd as PID 1, which has booted a system of the flake. It ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    boot: Child,
    log: PathBuf,
}

impl Machine {
    /// Installs the system `installable` and boots it. `seed` becomes a file of root there.
    pub fn boot(tree: &Path, folder: &Path, name: &str, installable: &str, seed: &Path) -> Result<Self> {
        let (root, log) = (folder.join("machine"), folder.join("machine.log"));
        fs::create_dir(&root).into_diagnostic()?;
        let output = File::create(&log).into_diagnostic()?;
        // The machine ends with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"]);
        command.arg(Path::new(HERE).join("boot.sh")).arg(tree).arg(&root).arg(name).arg(program());
        command.arg(Path::new(HERE).join("nixos-rebuild")).arg(seed).arg(installable);
        command.stdin(Stdio::null()).stdout(output.try_clone().into_diagnostic()?).stderr(output);
        Ok(Self { boot: command.spawn().into_diagnostic()?, log })
    }

    /// Returns an error with the machine's output if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.boot.try_wait().into_diagnostic()? {
            None => Ok(()),
            Some(status) => Err(miette!("the machine ended with {status}:\n{}", self.said())),
        }
    }

    /// Returns the output of the boot.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs a script as root.
    pub fn try_run(&self, script: &str) -> Result<Output> {
        let init = self.init().ok_or_else(|| miette!("the machine does not run:\n{}", self.said()))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &init, "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wdns=/"]);
        command.args(["env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["bash", "-uc", script]).output().into_diagnostic()
    }

    /// Runs a script as root, which must succeed, and returns its output.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.try_run(script)?;
        if !output.status.success() {
            bail!("{script}\nfails with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Returns the pid of the machine's PID 1 outside the machine.
    pub fn init(&self) -> Option<String> {
        let nspawn = children(&self.boot.id().to_string()).into_iter().next()?;
        children(&nspawn)
            .into_iter()
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd"))
    }
}

fn children(pid: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = "journalctl --no-pager --quiet --lines 200 --output short-precise --unit 'homelab-deploy*' --unit 'nixos-rebuild*'";
            let said = self.run(journal).unwrap_or_else(|error| error.to_string());
            writeln!(io::stderr(), "--- {}\n{said}", std::thread::current().name().unwrap_or_default()).ok();
        }
        // The machine may have ended by itself, and then there is nothing to do.
        let pid = i32::try_from(self.boot.id()).ok().and_then(Pid::from_raw);
        pid.and_then(|pid| kill_process(pid, Signal::TERM).ok());
        self.boot.wait().ok();
    }
}
