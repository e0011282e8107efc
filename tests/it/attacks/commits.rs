//! Tests who chooses the commit, and in which repository it is looked up.

use std::io::ErrorKind;
use std::net::TcpListener;

use serde_json::{Value, json};

use super::attacker::Serving;
use super::{Attacker, lab, token};
use crate::apply::fake::{self, says};
use crate::apply::stage::{self, calls, ran_sorted};
use crate::host;
use crate::operator;
use crate::support::lab::Lab;

const HOSTS: [&str; 3] = ["test.mole", "prod.db", "prod.ns1"];

/// Answers roll calls with this report and each request with `completed` at this commit, with the key of test.mole.
async fn mole(lab: &Lab, report: Value, commit: &str) -> Serving {
    let attacker = Attacker::connect(lab, lab.key(&host("mole")).unwrap()).await;
    let commit = json!(commit);
    let answer = move |subject: &str, message: &Value| {
        if message["reply_to"].is_null() {
            return Vec::new();
        }
        if subject.starts_with("deploy.discover") {
            let own = format!("deploy.responses.test.mole.{}", token(message));
            let old = message["reply_to"].as_str().unwrap().to_owned();
            return vec![(own, report.clone()), (old, report.clone())];
        }
        let (reply_to, mut said) = says(message, "mole", "completed");
        said["revision"] = commit.clone();
        vec![(reply_to, said)]
    };
    attacker.serve(&["deploy.discover", "deploy.discover.test", "deploy.test.mole", "deploy.test.all"], answer).await
}

/// Returns a commit that nobody requested, and the requested one.
fn commits(lab: &Lab) -> (String, String) {
    (lab.flake.branch("evil").unwrap(), lab.flake.commit("what is wanted").unwrap())
}

#[tokio::test]
async fn a_made_up_first_host_names_the_commit_of_nobody() {
    let lab = lab(&HOSTS, &["db", "ns1"]).await;
    let (evil, wanted) = commits(&lab);
    let mut first = fake::modern("prod", "aaa", &lab);
    first["features"] = json!(["id", "expires", "heartbeat", "resolve", "rollback"]);
    first["revision"] = json!(evil);
    let _mole = mole(&lab, first, &evil).await;

    for flags in [&["--auto-rollback"][..], &[]] {
        let deploy = [&["deploy", "deploy.prod.all", "--branch", "main"], flags].concat();
        operator::run(&lab, &deploy).await.unwrap().expect(0);
    }
    assert_eq!(ran_sorted(&lab), ["db", "db", "ns1", "ns1"]);
    assert!(calls(&lab).iter().all(|call| call.contains(&wanted)), "{:?}", calls(&lab));
}

#[tokio::test]
async fn no_host_finds_the_commit_for_others() {
    let lab = lab(&HOSTS, &["db"]).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'prod.all'\n";
    let mut command = stage::command(&lab, "apply", plan);
    command.args(["--yes", "--resolve-on-host"]);
    let ended = stage::start(command).ended().await.unwrap();
    assert!(matches!(ended.code, Some(2 | 3)), "{ended:?}");
    ended.told("--resolve-on-host");
    assert!(calls(&lab).is_empty());
}

/// Returns a git server on which the test notices any connection.
fn git_server() -> (TcpListener, String) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let url = format!("git+http://{}/nixos", server.local_addr().unwrap());
    (server, url)
}

#[track_caller]
fn assert_not_contacted(server: &TcpListener) {
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_repository_that_only_an_answer_names_is_not_contacted() {
    let lab = lab(&HOSTS, &[]).await;
    let (evil, _) = commits(&lab);
    let (server, url) = git_server();
    let mut report = fake::modern("test", "mole", &lab);
    report["flake"] = json!(url);
    let _mole = mole(&lab, report, &evil).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n";
    for verb in ["plan", "apply"] {
        let mut command = stage::command(&lab, verb, plan);
        command.env_remove("HOMELAB_DEPLOY_FLAKE");
        command.args(if verb == "apply" { &["--yes"][..] } else { &[] });
        stage::start(command).ended().await.unwrap().expect(3).told("--accept-flake").told(&url);
    }
    assert_not_contacted(&server);
}

#[tokio::test]
async fn a_test_host_does_not_say_where_prods_commit_is_looked_up() {
    let lab = lab(&HOSTS, &["db", "ns1"]).await;
    let (evil, wanted) = commits(&lab);
    let (server, url) = git_server();
    let mut report = fake::modern("test", "mole", &lab);
    report["flake"] = json!(url);
    report["deploy_subjects"] = json!(["deploy.test.mole", "deploy.test.all", "deploy.prod.all"]);
    let _mole = mole(&lab, report, &evil).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n";
    let mut command = stage::command(&lab, "apply", plan);
    command.env_remove("HOMELAB_DEPLOY_FLAKE");
    // Hosts name a repository on their own disks, so the operator must say where it is.
    command.args(["--yes", "--flake", &lab.flake.url()]);
    stage::start(command).ended().await.unwrap().expect(0);
    assert_not_contacted(&server);
    assert_eq!(ran_sorted(&lab), ["db", "ns1"]);
    assert!(calls(&lab).iter().all(|call| call.contains(&wanted)), "{:?}", calls(&lab));
}
