//! Tests in which flake a branch is looked up if hosts name it: never in one that nobody accepted, nor in a local file.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use super::confirm::at_a_terminal_that_shows;
use super::fake::{self, Fake};
use super::stage;
use super::wiretap::Wiretap;
use crate::operator::Ended;
use crate::support::git::Git;
use crate::support::lab::Lab;

/// A foreign server that notices when anybody connects.
struct Stranger(TcpListener);

impl Stranger {
    fn listening() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn flake(&self) -> String {
        format!("git+http://{}/nixos", self.0.local_addr().unwrap())
    }

    #[track_caller]
    fn was_left_alone(&self) {
        assert_eq!(self.0.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody talked to it");
    }
}

/// Starts a host that names this flake, and completes every request.
async fn host(lab: &Lab, tier: &str, name: &'static str, flake: &str) -> Fake {
    let mut report = fake::modern(tier, name, lab);
    report["flake"] = flake.into();
    Fake::start(lab, report, move |request: &Value| {
        ["accepted", "started", "completed"].map(|status| fake::says(request, name, status)).into()
    })
    .await
}

fn command(lab: &Lab, revision: &str, targets: &str) -> Command {
    let plan = format!("revision = '{revision}'\n[[wave]]\ntargets = {targets}\n");
    let mut command = stage::command(lab, "apply", &plan);
    command.arg("--yes").env_remove("HOMELAB_DEPLOY_FLAKE").current_dir(lab.home());
    command
}

async fn run(command: Command) -> Ended {
    stage::start(command).ended().await.unwrap()
}

const NS1: &str = "'prod.ns1'";

#[tokio::test]
async fn a_flake_that_only_hosts_name_is_not_contacted() {
    let lab = stage::empty(&["prod.ns1"]).await;
    let stranger = Stranger::listening();
    let _ns1 = host(&lab, "prod", "ns1", &stranger.flake()).await;
    let mut tap = Wiretap::begin(&lab).await;
    for arguments in [&[][..], &["--json"], &["--accept-flake", "git+https://git.example/nixos"]] {
        let mut apply = command(&lab, "main", NS1);
        let ended = run(apply_with(&mut apply, arguments)).await.expect(3);
        ended.told(&stranger.flake()).told("--accept-flake").told("a full commit id of 40 digits needs no lookup");
    }
    assert!(tap.requests().await.is_empty());
    let commit = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
    run(command(&lab, commit, NS1)).await.expect(0);
    // A commit that was deployed before needs no question either, if the given prefix is long enough.
    run(command(&lab, "8c1f0e2b8c", NS1)).await.expect(0).told(commit.get(..7).unwrap());
    assert_eq!(tap.requests().await, ["deploy.prod.ns1"; 2]);
    stranger.was_left_alone();
}

fn apply_with(command: &mut Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    std::mem::replace(command, Command::new("true"))
}

#[tokio::test]
async fn what_was_accepted_is_remembered_and_a_change_is_refused() {
    let lab = stage::empty(&["prod.ns1"]).await;
    let git = Git::serve(lab.folder()).unwrap();
    let flake = format!("git+{}", git.url("flake"));
    let ns1 = host(&lab, "prod", "ns1", &flake).await;
    let mut accepting = command(&lab, "main", NS1);
    accepting.args(["--accept-flake", &flake]);
    run(accepting).await.expect(0).told(lab.flake.head().unwrap().get(..7).unwrap());
    run(command(&lab, "main", NS1)).await.expect(0);
    drop(ns1);

    let stranger = Stranger::listening();
    let _ns1 = host(&lab, "prod", "ns1", &stranger.flake()).await;
    run(command(&lab, "main", NS1)).await.expect(3).told(&stranger.flake()).told(&format!("it was {flake} before"));
    let mut given = command(&lab, "main", NS1);
    given.args(["--flake", &flake]);
    run(given).await.expect(0);
    stranger.was_left_alone();
}

#[tokio::test]
async fn a_test_host_neither_chooses_nor_blocks_the_flake_of_prod_hosts() {
    let lab = stage::empty(&["prod.ns1", "test.test1"]).await;
    let git = Git::serve(lab.folder()).unwrap();
    let flake = format!("git+{}", git.url("flake"));
    let stranger = Stranger::listening();
    let _test1 = host(&lab, "test", "test1", &stranger.flake()).await;
    let _ns1 = host(&lab, "prod", "ns1", &flake).await;
    let mut apply = command(&lab, "main", "['test.all', 'prod.all']");
    apply.args(["--accept-flake", &flake]);
    run(apply).await.expect(0).told("2 hosts completed");
    stranger.was_left_alone();
}

#[tokio::test]
async fn a_local_flake_is_not_for_hosts_to_name() {
    let lab = stage::empty(&["prod.ns1"]).await;
    let _ns1 = host(&lab, "prod", "ns1", &lab.flake.url()).await;
    let mut apply = command(&lab, "main", NS1);
    apply.args(["--accept-flake", &lab.flake.url()]);
    run(apply).await.expect(3).told("which is on their own disks");
    let ended = run(command(&lab, &lab.flake.head().unwrap(), NS1)).await.expect(0);
    ended.not_told("warning: git");
}

#[tokio::test]
async fn at_a_terminal_only_a_typed_yes_accepts() {
    let lab = stage::empty(&["prod.ns1"]).await;
    let git = Git::serve(lab.folder()).unwrap();
    let flake = format!("git+{}", git.url("flake"));
    let _ns1 = host(&lab, "prod", "ns1", &flake).await;
    let question = format!("The hosts name the flake {flake}.");
    for (answer, code) in [("y", 3), ("yes", 0)] {
        let (mut operator, mut keyboard) = at_a_terminal_that_shows(command(&lab, "main", NS1));
        operator.tells(&question).await.unwrap();
        writeln!(keyboard, "{answer}").unwrap();
        operator.ended().await.unwrap().expect(code);
    }
    run(command(&lab, "main", NS1)).await.expect(0);
    let remembered = fs::read_to_string(lab.home().join("state/homelab-deploy/flakes.json")).unwrap();
    assert!(remembered.contains(&flake), "{remembered}");
}
