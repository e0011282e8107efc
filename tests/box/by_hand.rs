//! Tests that a switch by somebody at the keyboard of a host, in the middle of a deployment, is not undone.

use serde_json::{Value, json};

use crate::deployer::Deployer;
use crate::stage::{CURRENT, GATED_ACTIVATION, GATED_BUILD, NS1, PROFILE, Stage, request};

/// A configuration whose build waits at the gate, and then fails.
const GATED_FAILURE: &str =
    r#"box.build = "touch /run/at-gate; until [ -e /run/gate-open ]; do sleep 0.05; done; exit 1";"#;

/// Requests a deployment that rolls back unless it is confirmed within 5 seconds.
async fn ask_and_never_confirm(deployer: &Deployer, commit: &str) {
    let mut request = request(deployer, "r-1", commit);
    request["confirm_timeout_s"] = 5.into();
    deployer.say(NS1, &request).await.unwrap();
}

impl Stage {
    /// Runs `nixos-rebuild switch` by hand. It may fail.
    fn switch_by_hand(&self, commit: &str) {
        let installable = format!("{}?rev={commit}#ns1", self.flake_url());
        let switch = format!("/packages/nixos-rebuild/bin/nixos-rebuild switch --flake '{installable}'");
        self.machine.try_run(&switch).unwrap();
    }
}

fn assert_failed(end: &Value, error: &str) {
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!(error)), "{end}");
    assert!(end["message"].as_str().unwrap().contains("by other means"), "{end}");
}

#[tokio::test]
async fn a_switch_by_hand_during_a_build_that_fails_stays() {
    let Some(stage) = Stage::set("").await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let ours = stage.push(GATED_FAILURE);
    let theirs = stage.push("# by hand");
    ask_and_never_confirm(&deployer, &ours).await;
    stage.until_at_gate().await;
    stage.switch_by_hand(&theirs);
    stage.open_gate();
    let end = deployer.hear_final().await.unwrap();
    assert_failed(&end, "build_failed");
    assert_eq!(end["rolled_back"], Value::Null, "{end}");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (theirs.clone(), theirs));
    assert_eq!(stage.activations(), 1);
}

#[tokio::test]
async fn a_switch_by_hand_during_a_build_is_what_the_host_returns_to() {
    let Some(stage) = Stage::set("").await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let ours = stage.push(GATED_BUILD);
    let theirs = stage.push("# by hand");
    ask_and_never_confirm(&deployer, &ours).await;
    stage.until_at_gate().await;
    stage.switch_by_hand(&theirs);
    stage.open_gate();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("not_confirmed"), &json!(true)), "{end}");
    assert_eq!(end["previous_revision"], json!(theirs), "{end}");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (theirs.clone(), theirs));
}

#[tokio::test]
async fn a_profile_that_is_set_by_hand_during_the_activation_stays() {
    let Some(stage) = Stage::set("").await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let before = stage.commit_of(CURRENT);
    let ours = stage.push(GATED_ACTIVATION);
    let theirs = stage.push("# by hand");
    ask_and_never_confirm(&deployer, &ours).await;
    stage.until_at_gate().await;
    // The switch by hand sets the profile, and then finds that another activation runs.
    stage.switch_by_hand(&theirs);
    assert_eq!(stage.commit_of(PROFILE), theirs);
    stage.open_gate();
    let end = deployer.hear_final().await.unwrap();
    assert_failed(&end, "verify_failed");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (before, theirs), "{end}");
}

#[tokio::test]
async fn a_switch_by_hand_before_the_deployment_is_confirmed_stays() {
    let Some(stage) = Stage::set("").await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let ours = stage.push("# ours");
    let theirs = stage.push("# by hand");
    ask_and_never_confirm(&deployer, &ours).await;
    while deployer.hear_status("started").await.unwrap()["phase"] != "confirm" {}
    stage.switch_by_hand(&theirs);
    let end = deployer.hear_final().await.unwrap();
    assert_failed(&end, "not_confirmed");
    assert_eq!(end["rolled_back"], Value::Null, "{end}");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (theirs.clone(), theirs));
}

#[tokio::test]
async fn a_switch_by_hand_between_the_build_and_the_activation_is_what_the_host_returns_to() {
    let Some(stage) = Stage::set("").await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let ours = stage.push("# ours");
    let theirs = stage.push("# by hand");
    stage.machine.run("touch /run/gated-evaluation").unwrap();
    ask_and_never_confirm(&deployer, &ours).await;
    stage.until_at_gate().await;
    stage.switch_by_hand(&theirs);
    stage.open_gate();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("not_confirmed"), &json!(true)), "{end}");
    assert_eq!(end["previous_revision"], json!(theirs), "{end}");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (theirs.clone(), theirs));
}
