//! Runs a real nats-server.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use async_nats::{Client, ConnectOptions};
use homelab_deploy::nats_config::User;
use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};
use serde::Deserialize;

use super::keys::Key;
use super::permissions::Permissions;
use super::process::Process;
use super::wait;

/// A server on a free port that accepts exactly the given users.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    url: String,
    cluster_url: Option<String>,
    /// `None` while it is stopped.
    process: Option<Process>,
}

/// The file that the server writes once it accepts connections.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
    #[serde(default)]
    cluster: Vec<String>,
}

/// Returns a port that stays free: the system does not assign ports of this range by itself.
pub fn free_port() -> Result<u16> {
    let ports = 20_000..30_000;
    let mut from_here = ports.clone().cycle().skip(std::process::id() as usize % ports.len()).take(ports.len());
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    from_here.find(is_free).ok_or_else(|| miette!("no port is free"))
}

impl Server {
    /// Starts a server with its files in `folder`, and waits until it accepts connections.
    pub async fn start(folder: &Path, users: &[User]) -> Result<Self> {
        Self::start_with(folder, &Permissions::default().authorization(users)).await
    }

    /// Starts a server with this configuration, and waits until it accepts connections.
    pub async fn start_with(folder: &Path, configuration: &str) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        // The default of two seconds to log in is too short on a machine that hangs for a moment.
        let patient = configuration.replacen("authorization {", "authorization {\n  timeout: 30\n", 1);
        fs::write(folder.join("server.conf"), patient).into_diagnostic()?;
        let mut server = Self { folder: folder.to_owned(), url: String::new(), cluster_url: None, process: None };
        // With -1 the server chooses a free port, so that tests do not collide.
        let ports = server.run("-1").await?;
        server.url = ports.nats.into_iter().next().ok_or_else(|| miette!("the server takes no connections"))?;
        server.cluster_url = ports.cluster.into_iter().next();
        Ok(server)
    }

    /// Returns the server's URL, which stays the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL for other servers of the cluster, if the configuration has one.
    pub fn cluster_url(&self) -> Option<&str> {
        self.cluster_url.as_deref()
    }

    /// Returns the process; `None` while the server is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Kills the server, as a power cut would.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Restarts the server on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        let url = self.url.clone();
        let (_, port) = url.rsplit_once(':').unwrap_or_default();
        self.run(port).await.map(drop)
    }

    /// Opens a plain connection, to send what no well-behaved program sends.
    pub async fn connect(&self, key: &Key) -> Result<Client> {
        self.connect_with(key, |options| options).await
    }

    /// Does the same with further options.
    pub async fn connect_with(
        &self,
        key: &Key,
        further: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Client> {
        let seed = fs::read_to_string(key.seed_file()).into_diagnostic()?;
        let options = further(ConnectOptions::with_nkey(seed.trim().to_owned()));
        options.connect(&self.url).await.into_diagnostic().wrap_err("cannot connect to the server")
    }

    /// Starts the program and waits until it has written its ports.
    async fn run(&mut self, port: &str) -> Result<Ports> {
        let ports = self.folder.join("ports");
        // A killed server leaves its file behind.
        fs::remove_dir_all(&ports).ok();
        fs::create_dir_all(&ports).into_diagnostic()?;
        let mut command = Command::new(program()?);
        command.args(["--addr", "127.0.0.1", "--port", port]);
        command.arg("--ports_file_dir").arg(&ports).arg("--config").arg(self.folder.join("server.conf"));
        let process = self.process.insert(Process::start(&mut command, &self.folder.join("server.log"))?);
        wait::until("nats-server takes connections", async || {
            if let Some(status) = process.status()? {
                bail!("nats-server ended with {status}:\n{}", process.output());
            }
            Ok(read_ports(&ports))
        })
        .await
    }
}

/// Reads the ports file in `folder`, once it is complete.
fn read_ports(folder: &Path) -> Option<Ports> {
    let file = fs::read_dir(folder).ok()?.next()?.ok()?;
    serde_json::from_slice(&fs::read(file.path()).ok()?).ok()
}

/// Returns the nats-server in `NATS_SERVER`, else the one that the project's script finds or fetches.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return Ok(path.into());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nats-server");
    let found = Command::new(script).output().into_diagnostic().wrap_err_with(|| format!("cannot run {script}"))?;
    if !found.status.success() {
        bail!("{}", String::from_utf8_lossy(&found.stderr));
    }
    Ok(String::from_utf8_lossy(&found.stdout).trim().into())
}
