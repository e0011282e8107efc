//! Tests deployments during which the listener, its server or the whole host is lost.

use serde_json::json;

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, GATED_ACTIVATION, GATED_BUILD, NS1, Stage, ask};

/// Kills the listener as the OOM killer would.
pub const KILL: &str = "systemctl kill --kill-whom=main --signal=KILL homelab-deploy-listener";

/// Succeeds once the second release of the listener runs.
const REPLACED: &str = r#"
pid=$(systemctl show --value --property MainPID homelab-deploy-listener)
[ "$(readlink /proc/$pid/exe)" = /program/2/bin/homelab-deploy ]"#;

/// Succeeds once the listener has recorded how a run ended.
const CONCLUDED: &str = "ls /var/lib/homelab-deploy/runs/*/final.json";

#[tokio::test]
async fn a_switch_that_replaces_the_listener_is_told_of_once_and_the_new_one_listens() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let commit = stage.push("services.homelab-deploy.listener.package = release 2;");
    stage.operator(&["deploy", NS1, "--branch", &commit]).ended().await.unwrap().expect(0).told("1 host completed");

    stage.until("the new listener runs", REPLACED).await;
    assert_eq!(each(&stage.finals(&mut wire).await, "status"), ["completed"]);
    assert_eq!((stage.commit_of(CURRENT), stage.activations()), (commit, 1));
}

#[tokio::test]
async fn a_switch_that_takes_the_server_away_is_told_of_when_it_is_back() {
    let Some(mut stage) = Stage::set("").await else { return };
    let commit = stage.push(GATED_ACTIVATION);
    let mut deploy = stage.operator(&["deploy", NS1, "--branch", &commit]);
    stage.until_at_gate().await;
    stage.lab.server.stop();
    let lost = "journalctl --unit homelab-deploy-listener | grep --quiet 'connection lost'";
    stage.until("the listener has noticed", lost).await;
    deploy.tells("lost").await.unwrap();
    stage.open_gate();
    stage.until("the run is over", CONCLUDED).await;
    stage.lab.server.restart().await.unwrap();

    deploy.ended().await.unwrap().expect(0).told("1 host completed");
    assert_eq!((stage.commit_of(CURRENT), stage.activations()), (commit, 1));
}

#[tokio::test]
async fn a_listener_that_is_killed_during_the_build_is_started_again_and_tells_the_end() {
    killed_at_the_gate_of(GATED_BUILD).await;
}

#[tokio::test]
async fn a_listener_that_is_killed_during_the_activation_is_started_again_and_tells_the_end() {
    killed_at_the_gate_of(GATED_ACTIVATION).await;
}

async fn killed_at_the_gate_of(configuration: &str) {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let commit = stage.push(configuration);
    let deploy = stage.operator(&["deploy", NS1, "--branch", &commit]);
    stage.until_at_gate().await;
    stage.machine.run(KILL).unwrap();
    stage.until_present().await.unwrap();
    stage.open_gate();

    deploy.ended().await.unwrap().expect(0).told("1 host completed");
    assert_eq!(each(&stage.finals(&mut wire).await, "status"), ["completed"]);
    assert_eq!((stage.commit_of(CURRENT), stage.activations()), (commit, 1));
}

#[tokio::test]
async fn a_host_that_reboots_during_the_activation_says_that_it_was_interrupted() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(GATED_ACTIVATION);
    ask(&deployer, "r-1", &commit).await;
    stage.until_at_gate().await;
    stage.reboot().await;

    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("interrupted")), "{end}");
    assert_eq!(each(&stage.finals(&mut wire).await, "error"), ["interrupted"]);
}
