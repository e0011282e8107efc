//! Runs real listeners.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use homelab_deploy::nats_config::ListenerName;
use homelab_deploy::protocol::HostName;
use miette::{IntoDiagnostic, Result, miette};

use super::keys::Key;
use super::process::Process;
use super::rebuild::Rebuild;

/// The listeners of a homelab, all of them on this machine.
#[derive(Debug)]
pub struct Fleet {
    program: PathBuf,
    folder: PathBuf,
    url: String,
    flake: String,
    rebuild: Rebuild,
    /// The URLs of the server for hosts that do not use `url`.
    ways: BTreeMap<HostName, String>,
    listeners: BTreeMap<HostName, Process>,
}

impl Fleet {
    /// Creates a fleet without hosts. `program` is homelab-deploy, `url` the server's, `folder` for its files.
    pub fn new(program: &Path, folder: &Path, url: &str, flake: &str) -> Result<Self> {
        Ok(Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            url: url.to_owned(),
            flake: flake.to_owned(),
            rebuild: Rebuild::install(&folder.join("bin"))?,
            ways: BTreeMap::new(),
            listeners: BTreeMap::new(),
        })
    }

    /// Returns the `nixos-rebuild` that all listeners run.
    pub fn rebuild(&self) -> &Rebuild {
        &self.rebuild
    }

    /// Sets the URL of the server for a host from its next start on. Several URLs are separated by commas.
    pub fn reach(&mut self, host: &HostName, url: &str) {
        self.ways.insert(host.clone(), url.to_owned());
    }

    /// Starts the listener of a host with further `arguments`. Replaces a running one and keeps its state.
    pub fn start(&mut self, name: &ListenerName, key: &Key, arguments: &[&str]) -> Result<()> {
        self.kill(&name.hostname);
        let folder = self.folder.join(name.hostname.as_str());
        fs::create_dir_all(folder.join("run")).into_diagnostic()?;
        let mut command = command(&self.program, &folder, &[self.rebuild.folder().to_owned()])?;
        command.arg("listener");
        command.args(["--hostname", name.hostname.as_str(), "--tier", name.tier.as_str()]);
        command.args(name.role.iter().flat_map(|role| ["--role", role.as_str()]));
        let url = self.ways.get(&name.hostname).unwrap_or(&self.url);
        command.args(["--nats-url", url, "--flake-url", &self.flake]);
        command.arg("--nkey-file").arg(key.seed_file()).arg("--state-dir").arg(folder.join("state"));
        // Survives restarts of the listener, as that of its unit does. A test that reboots the host empties it.
        command.arg("--runtime-directory").arg(folder.join("run"));
        // The host does not run the system of this machine.
        command.arg("--root").arg(folder.join("root"));
        command.args(arguments);
        let listener = Process::start(&mut command, &folder.join("log"))?;
        self.listeners.insert(name.hostname.clone(), listener);
        Ok(())
    }

    pub fn listener(&mut self, host: &HostName) -> Result<&mut Process> {
        self.listeners.get_mut(host).ok_or_else(|| miette!("{host} has no listener"))
    }

    /// Kills the listener of a host, as a power cut would.
    pub fn kill(&mut self, host: &HostName) {
        self.listeners.remove(host);
    }

    /// Fails with the log of a listener that has exited.
    pub fn check_alive(&mut self) -> Result<()> {
        self.listeners.iter_mut().try_for_each(|(host, listener)| match listener.status()? {
            None => Ok(()),
            Some(status) => Err(miette!("the listener of {host} ended with {status}:\n{}", listener.output())),
        })
    }
}

/// Creates a command without the user's environment, except `PATH` after the `first` folders.
pub fn command(program: &Path, home: &Path, first: &[PathBuf]) -> Result<Command> {
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    let path = first.iter().cloned().chain(std::env::split_paths(&path));
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::join_paths(path).into_diagnostic()?);
    command.env("HOME", home).env("XDG_STATE_HOME", home.join("state")).current_dir(home);
    Ok(command)
}
