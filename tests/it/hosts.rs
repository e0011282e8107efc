//! Tests `hosts`, `keygen`, and the errors for wrong command lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use homelab_deploy::nats_config::{Principal, User};
use rustix::process::Signal;
use serde_json::Value;

use crate::operator::{self, Running};
use crate::support::fleet;
use crate::support::git::{Git, Mood};
use crate::support::lab::Lab;
use crate::support::server::Server;

const SHORT: [&str; 2] = ["--discover-window", "500ms"];

/// Returns a lab of three hosts, which listen.
async fn lab() -> Lab {
    let mut lab = Lab::start(super::program(), &["prod.ns1.dns", "prod.nas", "test.test1"]).await.unwrap();
    lab.listen_all().await.unwrap();
    lab
}

/// Returns the arguments of `hosts` with a short window, since every host is on this machine.
fn hosts<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["hosts"], arguments, &SHORT].concat()
}

/// Returns the first words of each line.
fn words(text: &str, count: usize) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().take(count).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn hosts_are_listed_by_tier_and_name() {
    let lab = lab().await;
    let table = operator::run(&lab, &hosts(&[])).await.unwrap().expect(0).stdout;
    assert_eq!(words(&table, 3), ["host tier role", "test1 test -", "nas prod -", "ns1 prod dns"]);
    let table = operator::run(&lab, &hosts(&["--tier", "prod"])).await.unwrap().expect(0).stdout;
    assert_eq!(words(&table, 2), ["host tier", "nas prod", "ns1 prod"]);

    let json = operator::run(&lab, &hosts(&["--tier", "prod", "--json"])).await.unwrap().expect(0).stdout;
    let listed: Vec<Value> = serde_json::from_str(&json).unwrap();
    let names: Vec<&str> = listed.iter().map(|host| host["hostname"].as_str().unwrap()).collect();
    assert_eq!((names, json.lines().count()), (vec!["nas", "ns1"], 1));
    assert_eq!(listed[1]["deploy_subjects"][2], "deploy.prod.role.dns");
}

#[tokio::test]
async fn the_table_tells_how_the_last_run_of_each_host_ended() {
    let lab = lab().await;
    operator::run(&lab, &["deploy", "deploy.test.test1"]).await.unwrap().expect(0);
    let table = operator::run(&lab, &hosts(&[])).await.unwrap().expect(0).stdout;
    let states: Vec<bool> =
        table.lines().skip(1).map(|line| line.contains("completed ") && line.contains("s ago")).collect();
    assert_eq!(states, [true, false, false], "{table}");
    assert_eq!(table.matches("idle").count(), 2, "{table}");
}

#[tokio::test]
async fn a_list_that_is_watched_shows_what_changes() {
    let lab = lab().await;
    let mut watching = operator::start(&lab, &hosts(&["--watch", "--tier", "test"])).unwrap();
    watching.shows("idle").await.unwrap();
    operator::run(&lab, &["deploy", "deploy.test.test1"]).await.unwrap().expect(0);
    watching.shows("completed ").await.unwrap();
    // SIGTERM, because a shell without job control starts background processes with SIGINT ignored.
    watching.signal(Signal::TERM).unwrap();
    assert_eq!(watching.ended().await.unwrap().code, None, "it does not end by itself");
}

#[tokio::test]
async fn the_git_server_tells_how_far_behind_hosts_are_that_no_clone_here_knows() {
    let lab = lab().await;
    operator::run(&lab, &["deploy", "prod.ns1", "--branch", "main"]).await.unwrap().expect(0);
    for subject in ["one", "two"] {
        lab.flake.commit(subject).unwrap();
    }
    let mut git = Git::serve(lab.folder()).unwrap();
    let table = async |flake: Option<&str>| {
        let mut command = lab.operator(&lab.admin).unwrap();
        command.args(hosts(&["--tier", "prod"])).env_remove("HOMELAB_DEPLOY_FLAKE");
        command.args(flake.map(|flake| ["--flake", flake]).into_iter().flatten());
        Running::start(&mut command).unwrap().ended().await.unwrap().expect(0).stdout
    };
    let flake = format!("git+{}", git.url("flake"));
    assert!(!table(None).await.contains("behind"));
    let told = table(Some(&flake)).await;
    assert!(told.lines().any(|line| line.starts_with("ns1") && line.contains(" behind 2 ")), "{told}");
    git.set(Mood::Gone);
    let told = table(Some(&flake)).await;
    assert!(told.contains("ns1") && !told.contains("behind"), "it is a courtesy: {told}");
}

#[tokio::test]
async fn nobody_there_is_said_and_is_no_data() {
    let lab = Lab::start(super::program(), &[]).await.unwrap();
    let ended = operator::run(&lab, &["hosts"]).await.unwrap().expect(0).told("No host answers");
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    let json = operator::run(&lab, &["hosts", "--json"]).await.unwrap().expect(0).stdout;
    assert_eq!(json, "[]\n");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let mut lab = Lab::start(super::program(), &[]).await.unwrap();
    lab.server.stop();
    for command in [&["hosts"][..], &["deploy", "deploy.test.all"]] {
        let ended = operator::run(&lab, command).await.unwrap();
        ended.expect(3).told("no NATS server can be reached").told(lab.server.url());
    }
}

#[tokio::test]
async fn a_key_of_keygen_opens_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("ops.seed");
    let keygen = || {
        let mut command = fleet::command(super::program(), folder.path(), &[]).unwrap();
        Running::start(command.arg("keygen").arg(&seed)).unwrap().ended()
    };
    let made = keygen().await.unwrap().expect(0);
    assert_eq!(fs::metadata(&seed).unwrap().permissions().mode() & 0o777, 0o600);

    let ops = User { holder: Principal::Admin, key: made.stdout.trim_end().parse().unwrap() };
    let server = Server::start(&folder.path().join("server"), &[ops]).await.unwrap();
    let mut command = fleet::command(super::program(), folder.path(), &[]).unwrap();
    command.args(["hosts", "--nats-url", server.url(), "--nkey-file"]).arg(&seed);
    Running::start(&mut command).unwrap().ended().await.unwrap().expect(0);

    let before = fs::read(&seed).unwrap();
    keygen().await.unwrap().expect(3).told("exists already");
    assert_eq!(fs::read(&seed).unwrap(), before);
}

#[tokio::test]
async fn mistakes_on_the_command_line_are_told_before_anything_is_done() {
    // None of these commands gets far enough to need a server.
    let folder = tempfile::tempdir().unwrap();
    let connection = ["--nats-url", "127.0.0.1:1", "--nkey-file", "/nowhere/seed"];
    let mistakes = [
        (&["deploy"][..], "<SUBJECT|ALIAS>"),
        (&["deploy", "deploy.prod.*"], "without wildcards"),
        (&["deploy", "deploy..all"], "an empty part"),
        (&["deploy", "prod-dns"], "HOMELAB_DEPLOY_ALIAS_PROD_DNS"),
        (&["deploy", "deploy.prod.role.all"], "reserved"),
        (&["deploy", "deploy.prod.all", "--branch=--upload-pack=x"], "--upload-pack=x"),
        (&["deploy", "deploy.prod.all", "--branch=main#y"], "'#'"),
        (&["deploy", "deploy.prod.all", "--action", "reboot"], "dry-activate"),
        (&["deploy", "deploy.prod.all", "--timeout", "0"], "--timeout"),
        (&["hosts", "--tier", "staging"], "staging"),
        (&["listener", "--hostname", "a.b", "--tier", "prod", "--flake-url", "github:o/r"], "a.b"),
        (&["listener", "--hostname", "ns1", "--tier", "prod", "--flake-url", "/etc/nixos"], "/etc/nixos"),
    ];
    for (arguments, told) in mistakes {
        let mut command = fleet::command(super::program(), folder.path(), &[]).unwrap();
        let ended = Running::start(command.args(arguments).args(connection)).unwrap().ended().await.unwrap();
        assert!(ended.stdout.is_empty(), "{}", ended.stdout);
        ended.expect(2).told(told);
    }
}

#[tokio::test]
async fn an_error_says_its_cause_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = fleet::command(super::program(), folder.path(), &[]).unwrap();
    command.args(["hosts", "--nats-url", "127.0.0.1:1", "--nkey-file", "/nowhere/seed"]);
    let ended = Running::start(&mut command).unwrap().ended().await.unwrap();
    let ended = ended.expect(3).told("cannot read the seed file /nowhere/seed").told("homelab-deploy keygen FILE");
    assert_eq!(ended.stderr.matches("No such file").count(), 1, "{}", ended.stderr);
}
