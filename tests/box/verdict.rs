//! What is made of an activation that does not go well, with both programs of the name `nixos-rebuild`.

use serde_json::{Value, json};

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, PROFILE, Stage, ask};

/// The older program has one exit code for all that may go wrong.
const OLDER_PROGRAM: &str =
    r#"system.build.nixos-rebuild = { type = "derivation"; outPath = "/packages/nixos-rebuild-bash"; };"#;
const NEWER_PROGRAM: &str = "";

/// Units that fail whenever they are started.
const OLD_TROUBLE: &str = r#"systemd.services.old-trouble = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/usr/bin/false"; serviceConfig.Type = "oneshot"; startLimitIntervalSec = 0; };"#;
const NEW_TROUBLE: &str = r#"systemd.services.new-trouble = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/usr/bin/false"; serviceConfig.Type = "oneshot"; startLimitIntervalSec = 0; };"#;

#[tokio::test]
async fn the_newer_program_is_blamed_only_for_units_that_did_not_fail_before() {
    blamed_only_for_new_trouble(NEWER_PROGRAM).await;
}

#[tokio::test]
async fn the_older_program_is_blamed_only_for_units_that_did_not_fail_before() {
    blamed_only_for_new_trouble(OLDER_PROGRAM).await;
}

async fn blamed_only_for_new_trouble(program: &str) {
    let before = format!("{program}{OLD_TROUBLE}");
    let Some(mut stage) = Stage::set(&before).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let commit = stage.push(&format!("{before}box.activation = \"true\";"));
    let end = deploy(&stage, "r-1", &commit).await;
    assert_eq!((&end["status"], &end["failed_units"]), (&json!("completed"), &Value::Null), "{end}");
    assert!(end["message"].as_str().unwrap().contains("old-trouble.service"), "{end}");
    assert_eq!(stage.commit_of(CURRENT), commit);

    let commit = stage.push(&format!("{before}{NEW_TROUBLE}"));
    let end = deploy(&stage, "r-2", &commit).await;
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("activation_failed")), "{end}");
    assert_eq!(end["failed_units"], json!(["new-trouble.service"]), "{end}");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (commit.clone(), commit));
    assert_eq!(each(&stage.finals(&mut wire).await, "status"), ["completed", "failed"]);
}

#[tokio::test]
async fn the_newer_program_says_that_it_is_the_activation_that_did_not_go_well() {
    activation_failed(NEWER_PROGRAM).await;
}

#[tokio::test]
async fn the_older_program_says_that_it_is_the_activation_that_did_not_go_well() {
    activation_failed(OLDER_PROGRAM).await;
}

/// A check that forbids the switch, and a switch that takes effect at the next boot only.
async fn activation_failed(program: &str) {
    let Some(mut stage) = Stage::set(program).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let before = stage.commit_of(CURRENT);
    for (id, code) in [("r-1", 1), ("r-2", 100)] {
        let check = format!(r#"box.check = "echo this system cannot be switched to >&2; exit {code}";"#);
        let commit = stage.push(&format!("{program}{check}"));
        let end = deploy(&stage, id, &commit).await;
        assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("activation_failed")), "{end}");
        assert!(end["log_tail"].to_string().contains("this system cannot be switched to"), "{end}");
        assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (before.clone(), commit));
    }
    assert_eq!(stage.finals(&mut wire).await.len(), 2);
    assert_eq!(stage.activations(), 0);
}

/// Switches to a commit, and returns how that ended.
async fn deploy(stage: &Stage, id: &str, commit: &str) -> Value {
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    ask(&deployer, id, commit).await;
    deployer.hear_final().await.unwrap()
}
