//! A real nats-server.

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

/// A server on a port of its own choosing, which lets exactly the given users in.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    url: String,
    cluster_url: Option<String>,
    /// `None` while it is stopped.
    process: Option<Process>,
}

/// What the server writes once it takes connections.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
    #[serde(default)]
    cluster: Vec<String>,
}

/// A port that stays free: the system gives nobody a port of this range who does not ask for it.
pub fn free_port() -> Result<u16> {
    let ports = 20_000..30_000;
    let mut from_here = ports.clone().cycle().skip(std::process::id() as usize % ports.len()).take(ports.len());
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    from_here.find(is_free).ok_or_else(|| miette!("no port is free"))
}

impl Server {
    /// Starts a server that keeps its files in `folder`, and waits until it takes connections.
    pub async fn start(folder: &Path, users: &[User]) -> Result<Self> {
        Self::start_with(folder, &Permissions::default().authorization(users)?).await
    }

    /// Starts a server with this configuration, and waits until it takes connections.
    pub async fn start_with(folder: &Path, configuration: &str) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        // Two seconds to log in, the default, are too few on a machine that stands still for a moment.
        let patient = configuration.replacen("authorization {", "authorization {\n  timeout: 30\n", 1);
        fs::write(folder.join("server.conf"), patient).into_diagnostic()?;
        let mut server = Self { folder: folder.to_owned(), url: String::new(), cluster_url: None, process: None };
        // -1 lets the server choose a free port, so that no two tests meet.
        let ports = server.run("-1").await?;
        server.url = ports.nats.into_iter().next().ok_or_else(|| miette!("the server takes no connections"))?;
        server.cluster_url = ports.cluster.into_iter().next();
        Ok(server)
    }

    /// Where it takes connections; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where other servers of its cluster reach it, when its configuration has one.
    pub fn cluster_url(&self) -> Option<&str> {
        self.cluster_url.as_deref()
    }

    /// Its process; none while it is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Ends it at once, as a power cut would.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again on its port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        let url = self.url.clone();
        let (_, port) = url.rsplit_once(':').unwrap_or_default();
        self.run(port).await.map(drop)
    }

    /// A bare connection, for what no well-behaved program says.
    pub async fn connect(&self, key: &Key) -> Result<Client> {
        self.connect_with(key, |options| options).await
    }

    /// The same with further options.
    pub async fn connect_with(
        &self,
        key: &Key,
        further: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Client> {
        let seed = fs::read_to_string(key.seed_file()).into_diagnostic()?;
        let options = further(ConnectOptions::with_nkey(seed.trim().to_owned()));
        options.connect(&self.url).await.into_diagnostic().wrap_err("cannot connect to the server")
    }

    /// Runs the program until it has said where it takes connections.
    async fn run(&mut self, port: &str) -> Result<Ports> {
        let ports = self.folder.join("ports");
        // A server that was killed has left its file behind.
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

/// The addresses in the file below `folder`, once it is there and whole.
fn read_ports(folder: &Path) -> Option<Ports> {
    let file = fs::read_dir(folder).ok()?.next()?.ok()?;
    serde_json::from_slice(&fs::read(file.path()).ok()?).ok()
}

/// The nats-server to run: the one that `NATS_SERVER` names, else the one that the project's script finds or fetches.
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
