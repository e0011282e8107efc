//! Tests how a failed activation is judged, with each program named `nixos-rebuild`.

use serde_json::{Value, json};

use crate::deployer::{Deployer, each};
use crate::stage::{
    CURRENT, GATED_BUILD, NEWER_PROGRAM, NS1, NUMBERING_PROGRAM, OLDER_PROGRAM, PROFILE, Stage, assert_completed,
    assert_failed, deploy, request,
};

/// Units that fail at each start.
const OLD_TROUBLE: &str = r#"systemd.services.old-trouble = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/usr/bin/false"; serviceConfig.Type = "oneshot"; startLimitIntervalSec = 0; };"#;
const NEW_TROUBLE: &str = r#"systemd.services.new-trouble = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/usr/bin/false"; serviceConfig.Type = "oneshot"; startLimitIntervalSec = 0; };"#;

#[tokio::test]
async fn the_newer_program_is_blamed_only_for_units_that_did_not_fail_before() {
    blamed_only_for_new_trouble(NEWER_PROGRAM).await;
}

#[tokio::test]
async fn the_numbering_program_is_blamed_only_for_units_that_did_not_fail_before() {
    blamed_only_for_new_trouble(NUMBERING_PROGRAM).await;
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
async fn the_numbering_program_says_that_it_is_the_activation_that_did_not_go_well() {
    activation_failed(NUMBERING_PROGRAM).await;
}

#[tokio::test]
async fn the_older_program_says_that_it_is_the_activation_that_did_not_go_well() {
    activation_failed(OLDER_PROGRAM).await;
}

/// Deploys with a check that forbids the switch, and with one by which it takes effect at the next boot only.
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

/// A failing unit of each user.
const USERS_TROUBLE: &str = r#"box.userUnit = "[Service]\nType=oneshot\nExecStart=/usr/bin/false\n";"#;

/// Logs a user in, whose own systemd runs units.
const LOG_IN: &str = "systemctl start user@$(id --user alice) && loginctl list-users | grep --quiet alice";

#[tokio::test]
async fn units_of_a_user_fail_a_deployment() {
    let Some(stage) = Stage::set("").await else { return };
    stage.machine.run(LOG_IN).unwrap();
    let commit = stage.push(USERS_TROUBLE);
    let end = deploy(&stage, "r-1", &commit).await;
    assert_failed(
        &end,
        "activation_failed",
        &["user units failed: own.service of alice", "next boot starts generation 2"],
    );
    assert_eq!((stage.commit_of(CURRENT), &end["failed_units"]), (commit, &Value::Null), "{end}");
}

#[tokio::test]
async fn units_of_a_user_are_a_note_where_the_host_says_so() {
    let warn = r#"services.homelab-deploy.listener.userUnits = "warn";"#;
    let Some(stage) = Stage::set(warn).await else { return };
    stage.machine.run(LOG_IN).unwrap();
    let commit = stage.push(&format!("{warn}{USERS_TROUBLE}"));
    assert_completed(&deploy(&stage, "r-1", &commit).await, &["user units failed: own.service of alice"]);
    assert_eq!(stage.commit_of(CURRENT), commit);
}

#[tokio::test]
async fn a_unit_of_a_user_that_goes_well_is_nothing_to_tell() {
    let Some(stage) = Stage::set("").await else { return };
    stage.machine.run(LOG_IN).unwrap();
    let commit = stage.push(&USERS_TROUBLE.replace("false", "true"));
    let end = deploy(&stage, "r-1", &commit).await;
    assert_completed(&end, &[]);
    assert!(!end["message"].as_str().unwrap().contains("user units"), "{end}");
}

#[tokio::test]
async fn a_failure_that_nothing_explains_is_one() {
    let Some(stage) = Stage::set("").await else { return };
    let commit = stage.push(r#"box.late = "exit 4";"#);
    assert_failed(&deploy(&stage, "r-1", &commit).await, "activation_failed", &["code 4", "named no unit"]);
}

/// A unit for an hourly job, which the test starts again and again. The unit reports its start, so that a failing start
/// has failed before the activation looks at the units.
const HOURLY: &str = r#"systemd.services.hourly = { wantedBy = [ "multi-user.target" ]; startLimitIntervalSec = 0; serviceConfig = { Type = "notify"; ExecStart = "/usr/bin/systemd-notify --ready"; Restart = "always"; RestartSec = "1h"; }; };"#;

#[tokio::test]
async fn a_unit_that_waits_for_its_next_start_has_not_failed() {
    let Some(stage) = Stage::set("").await else { return };
    let commit = stage.push(HOURLY);
    let end = deploy(&stage, "r-1", &commit).await;
    assert_completed(&end, &[]);
    assert_eq!(end["failed_units"], Value::Null, "{end}");
    stage.until("it waits", "[ $(systemctl show --value --property SubState hourly) = auto-restart ]").await;

    let commit = stage.push(&HOURLY.replace("systemd-notify --ready", "false"));
    let end = deploy(&stage, "r-2", &commit).await;
    assert_failed(&end, "activation_failed", &["hourly.service"]);
    assert_eq!(end["failed_units"], json!(["hourly.service"]), "{end}");
}

#[tokio::test]
async fn a_death_is_told_with_all_its_causes() {
    let Some(stage) = Stage::set("").await else { return };
    let died = r#"box.late = "printf 'Error: Failed to reset failed units\\n\\nCaused by:\\n    0: Failed to call\\n    1: Connection timed out\\n' >&2; exit 1";"#;
    let commit = stage.push(died);
    let end = deploy(&stage, "r-1", &commit).await;
    assert_failed(&end, "activation_failed", &["Failed to reset failed units: Failed to call: Connection timed out"]);
}

/// Takes the activation lock, like a direct call of `switch-to-configuration`.
const TAKE_LOCK: &str = "mkdir -p /run/nixos && systemd-run --unit=other flock /run/nixos/switch-to-configuration.lock sh -c 'touch /run/locked; exec sleep 1000'";

#[tokio::test]
async fn a_lock_that_somebody_else_has_is_named() {
    let Some(stage) = Stage::set("").await else { return };
    let before = stage.commit_of(CURRENT);
    for (action, error, word) in
        [("test", "already_running", "lock"), ("switch", "activation_failed", "a reboot starts what runs now")]
    {
        let commit = stage.push(&format!("# {action}\n{GATED_BUILD}"));
        let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
        let mut request = request(&deployer, action, &commit);
        request["action"] = action.into();
        deployer.say(NS1, &request).await.unwrap();
        stage.until_at_gate().await;
        stage.machine.run(TAKE_LOCK).unwrap();
        stage.until("the lock is taken", "test -e /run/locked").await;
        stage.open_gate();
        assert_failed(&deployer.hear_final().await.unwrap(), error, &["another activation is in progress", word]);
        stage.machine.run("systemctl stop other; rm /run/locked").unwrap();
        stage.close_gate();
    }
    assert_eq!((stage.commit_of(CURRENT), stage.activations()), (before, 0));
}

#[tokio::test]
async fn a_boot_loader_without_room_is_known_not_to_start_what_was_deployed() {
    let Some(stage) = Stage::set("").await else { return };
    let before = stage.commit_of(CURRENT);
    let full = r#"box.bootLoader = "echo 'cp: error writing /boot/kernel: No space left on device' >&2; exit 1";"#;
    let commit = stage.push(full);
    let end = deploy(&stage, "r-1", &commit).await;
    let words =
        ["No space left", "profile points at generation 2, the boot loader does not: a reboot starts what runs now"];
    assert_failed(&end, "activation_failed", &words);
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (before, commit));
}

#[tokio::test]
async fn a_switch_tells_which_specialisation_it_has_left() {
    let Some(stage) = Stage::set("").await else { return };
    let current = stage.machine.run(&format!("readlink {CURRENT}")).unwrap();
    let link = format!(r#"box.build = "mkdir -p $out/specialisation; ln -s {current} $out/specialisation/gaming";"#);
    let commit = stage.push(&link);
    stage.machine.run(&format!("nix-env --profile {PROFILE} --set $(nix build --no-link --print-out-paths '{}?rev={commit}#nixosConfigurations.ns1.config.system.build.toplevel')", stage.flake_url())).unwrap();
    let commit = stage.push("");
    assert_completed(&deploy(&stage, "r-1", &commit).await, &["specialisation gaming"]);
}
