//! Combines server, keys, repository and fleet.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::select;
use homelab_deploy::nats_config::{ListenerName, Principal};
use homelab_deploy::protocol::subject::DISCOVER;
use homelab_deploy::protocol::{DiscoveryAnswer, HostName, Tier};
use miette::{IntoDiagnostic, Result, miette};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

use super::flake::Flake;
use super::fleet::{self, Fleet};
use super::keys::Key;
use super::permissions::Permissions;
use super::server::Server;
use super::wait;

/// How long one roll call collects answers before the next goes out.
const ROLL_CALL: Duration = Duration::from_millis(50);

/// A homelab whose server knows all of its hosts. Their listeners run once they are started.
// The fields are dropped in this order: listeners, server, and finally their files.
#[derive(Debug)]
pub struct Lab {
    /// The running listeners.
    pub fleet: Fleet,
    pub server: Server,
    /// The repository that the hosts deploy from.
    pub flake: Flake,
    /// A key that may deploy to every host.
    pub admin: Key,
    /// A key that may deploy to hosts of the test tier.
    pub test_deployer: Key,
    hosts: Vec<(ListenerName, Key)>,
    program: PathBuf,
    folder: TempDir,
}

impl Lab {
    /// Creates a homelab with `hosts`, each as `<tier>.<host>[.<role>]`, and starts the server but no listener.
    /// `program` is homelab-deploy.
    pub async fn start(program: &Path, hosts: &[&str]) -> Result<Self> {
        Self::start_with(program, hosts, Permissions::default()).await
    }

    /// Does the same with these permissions.
    pub async fn start_with(program: &Path, hosts: &[&str], permissions: Permissions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("homelab-deploy-").tempdir().into_diagnostic()?;
        let path = folder.path();
        fs::create_dir(path.join("operator")).into_diagnostic()?;
        let admin = Key::generate(path, "admin")?;
        let test_deployer = Key::generate(path, "test-deployer")?;
        let hosts = hosts.iter().map(|text| host(path, text)).collect::<Result<Vec<_>>>()?;

        let mut users: Vec<_> = hosts.iter().map(|(name, key)| key.user(Principal::Listener(name.clone()))).collect();
        users.extend([test_deployer.user(Principal::TestDeployer), admin.user(Principal::Admin)]);
        let server = Server::start_with(&path.join("server"), &permissions.authorization(&users)).await?;
        let flake = Flake::create(&path.join("flake"))?;
        let fleet = Fleet::new(program, &path.join("hosts"), server.url(), &flake.url())?;
        Ok(Self { fleet, server, flake, admin, test_deployer, hosts, program: program.to_owned(), folder })
    }

    /// Returns the folder with all files, which is removed in the end.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn key(&self, host: &HostName) -> Result<&Key> {
        self.host(host).map(|(_, key)| key)
    }

    /// Returns the key of a host whose name both tiers may have.
    pub fn key_in(&self, tier: Tier, host: &HostName) -> Result<&Key> {
        let mut hosts = self.hosts.iter().filter(|(name, _)| (name.tier, &name.hostname) == (tier, host));
        hosts.next().map(|(_, key)| key).ok_or_else(|| miette!("the lab has no host {host} in {tier}"))
    }

    /// Creates another fleet on this server, with its files in a folder of this name. Its hosts may have names that are
    /// taken, in the same tier or the other.
    pub fn another_fleet(&self, name: &str) -> Result<Fleet> {
        Fleet::new(&self.program, &self.folder().join(name), self.server.url(), &self.flake.url())
    }

    fn host(&self, host: &HostName) -> Result<&(ListenerName, Key)> {
        let known = self.hosts.iter().find(|(name, _)| name.hostname == *host);
        known.ok_or_else(|| miette!("the lab has no host {host}"))
    }

    /// Starts the listeners of all hosts and waits until each answers.
    pub async fn listen_all(&mut self) -> Result<()> {
        for (name, key) in &self.hosts {
            self.fleet.start(name, key, &[])?;
        }
        let hosts = self.hosts.iter().map(|(name, _)| name.hostname.clone()).collect();
        self.until_present(hosts).await
    }

    /// Starts the listener of one host with further arguments and waits until it answers.
    pub async fn listen(&mut self, host: &HostName, arguments: &[&str]) -> Result<()> {
        let (name, key) = self.host(host)?.clone();
        self.fleet.start(&name, &key, arguments)?;
        self.until_present(BTreeSet::from([host.clone()])).await
    }

    /// Returns homelab-deploy as an operator with this key runs it, in [`home`](Self::home).
    pub fn operator(&self, key: &Key) -> Result<Command> {
        let mut command = fleet::command(&self.program, &self.home(), &[])?;
        command.env("HOMELAB_DEPLOY_NATS_URL", self.server.url()).env("HOMELAB_DEPLOY_NKEY_FILE", key.seed_file());
        // Hosts must not name a repository on a disk.
        command.env("HOMELAB_DEPLOY_FLAKE", self.flake.url());
        Ok(command)
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("operator")
    }

    /// Calls the roll until all `hosts` have answered.
    async fn until_present(&mut self, mut hosts: BTreeSet<HostName>) -> Result<()> {
        let client = self.server.connect(&self.admin).await?;
        let call = Uuid::new_v4();
        let old_form = client.subscribe(format!("deploy.responses.{call}")).await.into_diagnostic()?;
        let own_subjects = client.subscribe(format!("deploy.responses.*.*.{call}")).await.into_diagnostic()?;
        let mut answers = select(old_form, own_subjects);
        let question = json!({ "reply_to": format!("deploy.responses.{call}"), "per_host": true }).to_string();
        wait::until("every listener answers the roll call", async || {
            self.fleet.check_alive()?;
            client.publish(DISCOVER, question.clone().into()).await.into_diagnostic()?;
            while let Ok(Some(answer)) = timeout(ROLL_CALL, answers.next()).await {
                if let DiscoveryAnswer::Host(report) = DiscoveryAnswer::parse(&answer.payload).into_diagnostic()? {
                    hosts.remove(&report.hostname);
                }
            }
            Ok(hosts.is_empty().then_some(()))
        })
        .await
    }
}

/// Parses a host and generates its key.
fn host(folder: &Path, text: &str) -> Result<(ListenerName, Key)> {
    let name: ListenerName = text.parse().into_diagnostic()?;
    let key = Key::generate(folder, &format!("{}.{}", name.tier, name.hostname))?;
    Ok((name, key))
}
