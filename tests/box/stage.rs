//! Sets up a host, a server, a repository, and an operator.

use std::fs;
use std::path::Path;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::{FutureExt, StreamExt};
use homelab_deploy::protocol::subject::DISCOVER;
use homelab_deploy::protocol::{DiscoveryAnswer, DiscoveryRequest, HostReport, ReplySubject, Tier};
use miette::{IntoDiagnostic, Result};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::deployer::{Deployer, is_final, message, subscribe};
use crate::machine::{self, Machine};
use crate::operator::{self, Running};
use crate::program;
use crate::support::git::Git;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::wait;

/// The hosts of the flake. One is booted, and others if a test needs them.
const HOSTS: [&str; 3] = ["ns1", "ns2", "ns3"];

/// The subject of the host.
pub const NS1: &str = "deploy.prod.ns1";

/// The links to the running and the booted system.
pub const CURRENT: &str = "/run/current-system";
pub const PROFILE: &str = "/nix/var/nix/profiles/system";

/// A configuration whose build waits at the gate.
pub const GATED_BUILD: &str = r#"box.build = "touch /run/at-gate; until [ -e /run/gate-open ]; do sleep 0.05; done";"#;

/// A configuration whose activation waits at the gate, except during boot.
pub const GATED_ACTIVATION: &str = r#"
box.activation = "touch /run/at-gate; until [ $1 = boot ] || [ -e /run/gate-open ]; do sleep 0.05; done";"#;

/// The programs named `nixos-rebuild`: today's, the earlier one in bash, and one of a few months that activates in a
/// unit with a number and without a pipe.
pub const NEWER_PROGRAM: &str = "";
pub const OLDER_PROGRAM: &str =
    r#"system.build.nixos-rebuild = { type = "derivation"; outPath = "/packages/nixos-rebuild-bash"; };"#;
pub const NUMBERING_PROGRAM: &str =
    r#"system.build.nixos-rebuild = { type = "derivation"; outPath = "/packages/nixos-rebuild-numbered"; };"#;

/// How long one roll call collects answers before the next goes out.
const ROLL_CALL: Duration = Duration::from_millis(200);

/// Everything that a deployment needs.
pub struct Stage {
    /// The host `ns1`.
    pub machine: Machine,
    /// The server that it fetches from.
    pub git: Git,
    /// The NATS server, the operator and the repository. The lab's own fleet is empty.
    pub lab: Lab,
}

impl Stage {
    /// Boots a host with the first configuration, and waits until it listens. Returns `None` if it cannot be booted.
    pub async fn set(configuration: &str) -> Option<Self> {
        Some(Self::make(machine::tree()?, configuration).await.unwrap())
    }

    async fn make(tree: &Path, configuration: &str) -> Result<Self> {
        let lab = Lab::start_with(
            program(),
            &HOSTS.map(|host| format!("prod.{host}")).each_ref().map(String::as_str),
            Permissions::Compatible,
        )
        .await?;
        let git = Git::serve(lab.folder())?;
        prepare(&lab, &git)?;
        let commit = push(&lab, configuration)?;
        let machine = boot(tree, &lab, &git, "ns1", &commit)?;
        let mut stage = Self { machine, git, lab };
        stage.until_present().await?;
        Ok(stage)
    }

    /// Boots another host of the flake at this commit.
    pub fn boot(&self, name: &str, commit: &str) -> Machine {
        boot(machine::tree().unwrap(), &self.lab, &self.git, name, commit).unwrap()
    }

    /// Returns the installable of a host's system.
    pub fn installable(&self, name: &str, commit: &str) -> String {
        installable(&self.git, name, commit)
    }

    /// Commits a configuration, which is the text of a NixOS module, and returns the commit.
    pub fn push(&self, configuration: &str) -> String {
        push(&self.lab, configuration).unwrap()
    }

    /// Waits until the host answers the roll call, and returns its report.
    pub async fn until_present(&mut self) -> Result<HostReport> {
        let client = self.lab.server.connect(&self.lab.admin).await?;
        wait::until("the host answers the roll call", async || {
            self.machine.check_alive()?;
            // A listener answers each roll call once.
            let call = Uuid::new_v4();
            let mut answers =
                client.subscribe(ReplySubject::roll_call_pattern(Tier::Prod, call)).await.into_diagnostic()?;
            let question = DiscoveryRequest { reply_to: ReplySubject::single(call), tier: None, per_host: true };
            client.publish(DISCOVER, question.to_bytes().into()).await.into_diagnostic()?;
            while let Ok(Some(answer)) = timeout(ROLL_CALL, answers.next()).await {
                if let DiscoveryAnswer::Host(report) = DiscoveryAnswer::parse(&answer.payload).into_diagnostic()? {
                    return Ok(Some(*report));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Starts the program with the key of an admin.
    pub fn operator(&self, arguments: &[&str]) -> Running {
        operator::start(&self.lab, arguments).unwrap()
    }

    /// Waits until a script succeeds on the host. `what` names the event for errors.
    pub async fn until(&self, what: &str, script: &str) {
        until(&self.machine, what, script).await;
    }

    /// Waits until a build or an activation waits at the gate.
    pub async fn until_at_gate(&self) {
        self.until("something waits at the gate", "test -e /run/at-gate").await;
    }

    /// Opens the gate for what waits there and for what comes later.
    pub fn open_gate(&self) {
        self.machine.run("touch /run/gate-open").unwrap();
    }

    /// Closes the gate for what comes later.
    pub fn close_gate(&self) {
        self.machine.run("rm /run/at-gate /run/gate-open").unwrap();
    }

    /// Returns how often a switch or test changed the host since boot.
    pub fn activations(&self) -> usize {
        self.machine.run("cat /run/activations 2>/dev/null || true").unwrap().lines().count()
    }

    /// Returns the URL of the flake for Nix.
    pub fn flake_url(&self) -> String {
        nix_url(&self.git)
    }

    /// Reboots the host, and waits until it listens again.
    pub async fn reboot(&mut self) {
        let before = self.machine.init();
        self.machine.run("systemctl reboot").unwrap();
        let gone = async || Ok((self.machine.init() != before).then_some(()));
        wait::until("the host goes down", gone).await.unwrap();
        self.until_present().await.unwrap();
    }

    /// Subscribes to all responses from now on, to any deployer.
    pub async fn overhear(&self) -> Result<Wire> {
        let client = self.lab.server.connect(&self.lab.admin).await?;
        let answers = subscribe(&client, "deploy.responses.>").await?;
        Ok(Wire { client, answers })
    }

    /// Returns the final responses until now.
    pub async fn finals(&mut self, wire: &mut Wire) -> Vec<Value> {
        // The answer to a roll call comes after everything that the host sent before.
        self.until_present().await.unwrap();
        wire.client.flush().await.unwrap();
        let mut finals = Vec::new();
        while let Some(Some(answer)) = wire.answers.next().now_or_never() {
            // An empty message only tries whether publishing is allowed.
            if answer.payload.is_empty() {
                continue;
            }
            let answer = message(&answer).unwrap();
            if is_final(&answer) {
                finals.push(answer);
            }
        }
        finals
    }

    /// Returns the commit of the system behind a link of the host.
    pub fn commit_of(&self, path: &str) -> String {
        self.machine.run(&format!("cat {path}/nixos-version")).unwrap()
    }
}

/// Waits until a script succeeds on a host.
pub async fn until(machine: &Machine, what: &str, script: &str) {
    let holds = async || Ok(machine.try_run(script)?.status.success().then_some(()));
    wait::until(what, holds).await.unwrap();
}

/// Switches to a commit, and returns the final response.
pub async fn deploy(stage: &Stage, id: &str, commit: &str) -> Value {
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    ask(&deployer, id, commit).await;
    deployer.hear_final().await.unwrap()
}

/// Asserts that a run failed with this error, and with each of these words.
pub fn assert_failed(end: &Value, error: &str, words: &[&str]) {
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!(error)), "{end}");
    assert_says(end, words);
}

/// Asserts that a run completed, with each of these words.
pub fn assert_completed(end: &Value, words: &[&str]) {
    assert_eq!((&end["status"], &end["error"]), (&json!("completed"), &Value::Null), "{end}");
    assert_says(end, words);
}

fn assert_says(end: &Value, words: &[&str]) {
    let message = end["message"].as_str().unwrap_or_default();
    assert!(words.iter().all(|words| message.contains(words)), "{words:?}: {end}");
}

/// Returns a request to switch to this revision, with this id.
pub fn request(deployer: &Deployer, id: &str, revision: &str) -> Value {
    let mut request = deployer.request(id);
    request["revision"] = revision.into();
    request
}

pub async fn ask(deployer: &Deployer, id: &str, revision: &str) {
    deployer.say(NS1, &request(deployer, id, revision)).await.unwrap();
}

/// The responses to any deployer.
pub struct Wire {
    client: Client,
    answers: Subscriber,
}

fn boot(tree: &Path, lab: &Lab, git: &Git, name: &str, commit: &str) -> Result<Machine> {
    let seed = lab.key(&name.parse().into_diagnostic()?)?.seed_file();
    let folder = lab.folder().join("machines").join(name);
    fs::create_dir_all(&folder).into_diagnostic()?;
    Machine::boot(tree, &folder, name, &installable(git, name, commit), seed)
}

fn installable(git: &Git, name: &str, commit: &str) -> String {
    format!("{}?rev={commit}#nixosConfigurations.{name}.config.system.build.toplevel", nix_url(git))
}

pub fn nix_url(git: &Git) -> String {
    format!("git+{}", git.url("flake/.git"))
}

/// Adds everything but the configuration to the repository.
pub fn prepare(lab: &Lab, git: &Git) -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let host = json!({
        "hostnames": HOSTS,
        "system": format!("{}-linux", std::env::consts::ARCH),
        "natsUrl": lab.server.url(),
        "flakeUrl": nix_url(git),
    });
    write(lab, "host.json", host.to_string())?;
    copy(lab, &project.join("tests/box/flake"), "")?;
    copy(lab, &project.join("tests/nixpkgs"), "nixpkgs/")?;
    copy(lab, &project.join("nixos"), "nixos/")
}

/// Copies the files of a folder into the repository, each with this prefix.
fn copy(lab: &Lab, folder: &Path, prefix: &str) -> Result<()> {
    for file in fs::read_dir(folder).into_diagnostic()? {
        let file = file.into_diagnostic()?;
        let path = format!("{prefix}{}", file.file_name().to_string_lossy());
        write(lab, &path, fs::read(file.path()).into_diagnostic()?)?;
    }
    Ok(())
}

/// Adds a file to the next commit of the repository.
fn write(lab: &Lab, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
    let path = lab.folder().join("flake").join(path);
    fs::create_dir_all(path.parent().unwrap_or(&path)).into_diagnostic()?;
    fs::write(path, content).into_diagnostic()
}

pub fn push(lab: &Lab, configuration: &str) -> Result<String> {
    write(lab, "configuration.nix", format!("{{ lib, release }}:\n{{\n{configuration}\n}}\n"))?;
    lab.flake.commit("ns1: another configuration")
}
