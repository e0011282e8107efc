//! Tests each form of the unit in which `nixos-rebuild` has run activations.

use serde_json::json;

use crate::deployer::Deployer;
use crate::stage::{
    CURRENT, GATED_ACTIVATION, NEWER_PROGRAM, NUMBERING_PROGRAM, OLDER_PROGRAM, Stage, ask, assert_completed,
    assert_failed, deploy,
};

/// Succeeds if there is no unit of an activation.
const NO_UNITS: &str = r#"[ -z "$(systemctl list-units --plain --no-legend 'nixos-rebuild*')" ]"#;

/// Stops the unit of an activation, whatever its name.
const STOP: &str = "systemctl stop 'nixos-rebuild-switch-to-configuration*'";

#[tokio::test]
async fn the_newer_program_takes_an_activation_that_somebody_stops_for_a_success_and_the_host_does_not() {
    somebody_stops(NEWER_PROGRAM).await;
}

#[tokio::test]
async fn the_numbering_program_takes_an_activation_that_somebody_stops_for_a_success_and_the_host_does_not() {
    somebody_stops(NUMBERING_PROGRAM).await;
}

#[tokio::test]
async fn the_older_program_takes_an_activation_that_somebody_stops_for_a_success_and_the_host_does_not() {
    somebody_stops(OLDER_PROGRAM).await;
}

async fn somebody_stops(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&format!("{program}{GATED_ACTIVATION}"));
    ask(&deployer, "r-1", &commit).await;
    stage.until_at_gate().await;
    stage.machine.run(STOP).unwrap();
    assert_failed(&deployer.hear_final().await.unwrap(), "interrupted", &[]);
}

/// Stops the unit of a run, whatever its name.
const STOP_RUN: &str = "systemctl stop 'homelab-deploy-run-*'";

#[tokio::test]
async fn a_run_that_somebody_stops_takes_the_activation_of_the_numbering_program_along() {
    let Some(stage) = Stage::set(NUMBERING_PROGRAM).await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&format!("{NUMBERING_PROGRAM}{GATED_ACTIVATION}"));
    ask(&deployer, "r-1", &commit).await;
    stage.until_at_gate().await;
    stage.machine.run(STOP_RUN).unwrap();
    assert_failed(&deployer.hear_final().await.unwrap(), "interrupted", &["activating", "points at generation 2"]);
    stage.until("no unit is left", NO_UNITS).await;
}

#[tokio::test]
async fn an_activation_of_the_numbering_program_is_seen_though_nothing_is_heard_of_it() {
    let Some(stage) = Stage::set(NUMBERING_PROGRAM).await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&format!("{NUMBERING_PROGRAM}{GATED_ACTIVATION}"));
    ask(&deployer, "r-1", &commit).await;
    while deployer.hear_status("started").await.unwrap()["phase"] != "activate" {}
    stage.open_gate();
    assert_completed(&deployer.hear_final().await.unwrap(), &[]);
}

#[tokio::test]
async fn a_host_on_which_somebody_calls_the_numbering_program_is_busy() {
    let Some(stage) = Stage::set(NUMBERING_PROGRAM).await else { return };
    let commit = stage.push(&format!("{NUMBERING_PROGRAM}{GATED_ACTIVATION}"));
    let installable = format!("{}?rev={commit}#ns1", stage.flake_url());
    let nixos_rebuild = "setsid /packages/nixos-rebuild-numbered/bin/nixos-rebuild";
    stage.machine.run(&format!("{nixos_rebuild} switch --flake '{installable}' >/run/by-hand 2>&1 &")).unwrap();
    stage.until_at_gate().await;
    // Without the lock, only the unit shows the activation.
    stage.machine.run("rm /run/nixos/switch-to-configuration.lock").unwrap();
    let refused = deploy(&stage, "r-1", &commit).await;
    assert_eq!((&refused["status"], &refused["error"]), (&json!("rejected"), &json!("already_running")), "{refused}");
    assert_eq!(refused["holder"]["id"], "nixos-rebuild");
    stage.open_gate();
}

#[tokio::test]
async fn a_unit_that_an_activation_has_left_behind_is_in_nobodys_way() {
    let Some(stage) = Stage::set("").await else { return };
    for (id, left) in [("r-1", "false"), ("r-2", "--remain-after-exit true")] {
        let unit = "--unit=nixos-rebuild-switch-to-configuration";
        stage.machine.run(&format!("systemd-run {unit} {left}")).unwrap();
        let over = "systemctl show --property SubState nixos-rebuild-switch-to-configuration | grep -E 'failed|exited'";
        stage.until("the unit is over", over).await;
        let commit = stage.push(&format!("# {id}"));
        assert_completed(&deploy(&stage, id, &commit).await, &[]);
        assert_eq!(stage.commit_of(CURRENT), commit);
    }
}
