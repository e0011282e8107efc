//! Tests which hosts `deploy` reaches, and how it takes their responses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use miette::IntoDiagnostic;
use serde_json::{Value, json};

use crate::apply::fake::{self, Fake};
use crate::host;
use crate::operator::{self, Running};
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

const DNS: &str = "deploy.prod.role.dns";
const SHORT: [&str; 2] = ["--discover-window", "500ms"];

/// Returns a lab of two name servers and another host, which listen.
async fn lab() -> Lab {
    let mut lab = Lab::start(super::program(), &["prod.ns1.dns", "prod.ns2.dns", "prod.nas"]).await.unwrap();
    lab.listen_all().await.unwrap();
    lab
}

/// Returns the arguments of `deploy` with a short window, since every host is on this machine.
fn deploy<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["deploy"], arguments, &SHORT].concat()
}

#[tokio::test]
async fn a_group_is_done_when_all_of_it_completed() {
    let lab = lab().await;
    lab.flake.commit("no other branch is meant").unwrap();
    let ended = operator::run(&lab, &deploy(&[DNS])).await.unwrap();
    let ended = ended.expect(0).told("2 hosts completed").not_told("warning");
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);

    let rebuild = lab.fleet.rebuild();
    // The defaults are those of the predecessor.
    let flake = format!("{}?rev={}", lab.flake.url(), lab.flake.resolve("master").unwrap());
    for name in ["ns1", "ns2"] {
        assert_eq!(rebuild.calls(&host(name)), [format!("switch --flake {flake}#{name}")]);
    }
    assert!(rebuild.calls(&host("nas")).is_empty());
}

#[tokio::test]
async fn one_host_that_fails_is_named_with_its_reason_and_its_log() {
    let lab = lab().await;
    lab.fleet.rebuild().on(&host("ns2"), FAIL).unwrap();
    let ended = operator::run(&lab, &deploy(&[DNS, "--branch", "main"])).await.unwrap();
    ended
        .expect(1)
        .told("deploy.prod.role.dns failed: 1 of 2 hosts did not complete")
        .told("build: attribute 'unboundd' missing")
        .told("| error: attribute 'unboundd' missing")
        .told("1 completed, 1 failed");
}

#[tokio::test]
async fn a_host_that_is_there_and_never_answers_the_request_is_named() {
    let mut lab = Lab::start(super::program(), &["prod.ns1.dns", "prod.ns2.dns"]).await.unwrap();
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let mut report = fake::modern("prod", "ns2", &lab);
    report["role"] = json!("dns");
    let _silent = Fake::start(&lab, report, |_| Vec::new()).await;
    let ended = operator::run(&lab, &deploy(&[DNS, "--timeout", "3"])).await.unwrap();
    ended.expect(1).told("ns2 unreachable").told("it never answered").told("1 completed, 1 unreachable");
    let alone = operator::run(&lab, &["deploy", "deploy.prod.ns2", "--timeout", "1"]).await.unwrap();
    alone.expect(1).told("ns2 unreachable").told("it never answered").not_told("no host answers");
}

#[tokio::test]
async fn a_busy_host_counts_as_rejected_and_says_who_is_at_it() {
    let lab = lab().await;
    lab.fleet.rebuild().on(&host("nas"), GATE).unwrap();
    let mut first = operator::start(&lab, &["deploy", "deploy.prod.nas", "--operator", "ops@desk"]).unwrap();
    first.tells("building").await.unwrap();
    let second = operator::run(&lab, &["deploy", "deploy.prod.nas"]).await.unwrap();
    second.expect(1).told("already running: busy with").told("of ops@desk");
    lab.fleet.rebuild().open(&host("nas")).unwrap();
    first.ended().await.unwrap().expect(0);
}

#[tokio::test]
async fn aliases_and_settings_come_from_the_environment() {
    let lab = lab().await;
    let stable = lab.flake.branch("stable").unwrap();
    let mut command = lab.operator(&lab.admin).unwrap();
    command.env("HOMELAB_DEPLOY_ALIAS_PROD_DNS", DNS).env("HOMELAB_DEPLOY_BRANCH", "stable");
    command.env("HOMELAB_DEPLOY_ACTION", "dry-activate").args(deploy(&["prod-dns"]));
    let ended = Running::start(&mut command).unwrap().ended().await.unwrap();
    ended.expect(0).told("2 hosts completed");
    let call = format!("dry-activate --flake {}?rev={stable}#ns1", lab.flake.url());
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")), [call]);

    let unknown = operator::run(&lab, &["deploy", "prod-web"]).await.unwrap();
    unknown.expect(2).told("HOMELAB_DEPLOY_ALIAS_PROD_WEB");
}

#[tokio::test]
async fn nobody_there_is_an_error_within_three_seconds_that_says_who_is() {
    let lab = lab().await;
    let subjects = ["deploy.prod.ns3", "deploy.prod.role.media", "deploy.test.all"];
    for subject in subjects {
        let ended = operator::run(&lab, &["deploy", subject]).await.unwrap().expect(1);
        assert!(ended.took < Duration::from_secs(3), "{:?}", ended.took);
        ended.told(&format!("no host answers on {subject}")).told("deploy.prod.nas").told("deploy.prod.ns1");
    }
    assert!(lab.fleet.rebuild().record().is_empty());
}

#[tokio::test]
async fn who_is_not_waited_for_is_not_said_to_be_missing() {
    let lab = lab().await;
    lab.fleet.rebuild().on(&host("nas"), GATE).unwrap();
    let mut deploy = operator::start(&lab, &["deploy", "deploy.prod.nas"]).unwrap();
    deploy.tells("building").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.tells("interrupted").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.ended().await.unwrap().expect(130).not_told("no host answers");
}

#[tokio::test]
async fn what_a_credential_may_not_do_ends_the_command_at_once() {
    let mut lab = Lab::start(super::program(), &["prod.ns1", "test.test1"]).await.unwrap();
    lab.listen_all().await.unwrap();
    for subject in ["deploy.prod.all", "deploy.prod.ns1"] {
        let mut command = lab.operator(&lab.test_deployer).unwrap();
        let ended = Running::start(command.args(["deploy", subject])).unwrap().ended().await.unwrap().expect(3);
        assert!(ended.took < Duration::from_secs(2), "{:?}", ended.took);
        ended.told("this credential may not deploy to prod").told("nothing was sent").not_told("never answered");
    }
    let mut command = lab.operator(&lab.test_deployer).unwrap();
    let allowed = Running::start(command.args(["deploy", "deploy.test.test1"])).unwrap();
    allowed.ended().await.unwrap().expect(0);
    assert!(lab.fleet.rebuild().calls(&host("ns1")).is_empty());
}

#[tokio::test]
async fn json_is_all_that_stdout_gets() {
    let lab = lab().await;
    lab.fleet.rebuild().on(&host("ns2"), FAIL).unwrap();
    let ended = operator::run(&lab, &deploy(&[DNS, "--json"])).await.unwrap().expect(1);
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finals: Vec<(&Value, &Value)> = events
        .iter()
        .filter(|event| event["event"] == "final")
        .map(|event| (&event["host"], &event["outcome"]))
        .collect();
    assert!(finals.contains(&(&json!("ns1"), &json!("completed"))), "{finals:?}");
    assert!(finals.contains(&(&json!("ns2"), &json!("failed"))), "{finals:?}");
    let (first, last) = (events.first().unwrap(), events.last().unwrap());
    assert_eq!(
        (&first["event"], &last["event"], &last["outcome"]),
        (&json!("begun"), &json!("ended"), &json!("failed"))
    );
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let lab = lab().await;
    let mut command = lab.operator(&lab.admin).unwrap();
    let mut deploy = command.args(["deploy", "deploy.prod.nas", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(deploy.stdout.take());
    let status = wait::until("the command ends", async || deploy.try_wait().into_diagnostic()).await.unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(lab.fleet.rebuild().calls(&host("nas")).len(), 1);
}

#[tokio::test]
async fn a_key_that_others_can_read_is_a_warning_and_one_that_is_not_known_an_error() {
    let lab = lab().await;
    fs::set_permissions(lab.admin.seed_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let ended = operator::run(&lab, &["deploy", "deploy.prod.nas"]).await.unwrap();
    ended.expect(0).told("warning: everyone on this machine can read the key").told("chmod 600");

    let stranger = Key::generate(lab.folder(), "stranger").unwrap();
    let mut command = lab.operator(&stranger).unwrap();
    let ended = Running::start(command.args(["deploy", "deploy.prod.nas"])).unwrap().ended().await.unwrap();
    ended.expect(3).told("refuses this key").told("add its public key to a user in the server's configuration");
}
