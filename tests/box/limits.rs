//! Tests deployments that take too long, write too much, or arrive while the host is busy.

use serde_json::json;

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, GATED_ACTIVATION, NEWER_PROGRAM, NUMBERING_PROGRAM, OLDER_PROGRAM, Stage, ask};

/// Succeeds while a process sleeps.
const SLEEPS: &str = "grep --quiet --no-messages --line-regexp sleep /proc/[0-9]*/comm";

/// Succeeds if there is neither the unit of a run nor that of an activation.
const NO_UNITS: &str = r#"[ -z "$(systemctl list-units --plain --no-legend 'homelab-deploy-run*' 'nixos-rebuild*')" ]"#;

#[tokio::test]
async fn a_build_that_takes_too_long_leaves_nothing_behind() {
    takes_too_long(NEWER_PROGRAM, r#"box.build = "sleep 1000";"#, "building").await;
}

#[tokio::test]
async fn an_activation_that_takes_too_long_leaves_nothing_behind() {
    takes_too_long(NEWER_PROGRAM, r#"box.activation = "sleep 1000";"#, "activating").await;
}

#[tokio::test]
async fn an_activation_of_the_numbering_program_that_takes_too_long_leaves_nothing_behind() {
    takes_too_long(NUMBERING_PROGRAM, r#"box.activation = "sleep 1000";"#, "activating").await;
}

#[tokio::test]
async fn an_activation_of_the_older_program_that_takes_too_long_leaves_nothing_behind() {
    takes_too_long(OLDER_PROGRAM, r#"box.activation = "sleep 1000";"#, "activating").await;
}

/// Deploys a configuration that never ends, to a host with a timeout of 8 seconds.
async fn takes_too_long(program: &str, configuration: &str, meanwhile: &str) {
    let patience = &format!("services.homelab-deploy.listener.timeout = 8;{program}");
    let Some(mut stage) = Stage::set(patience).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&format!("{patience}{configuration}"));
    ask(&deployer, "r-1", &commit).await;
    stage.until("it sleeps", SLEEPS).await;
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("timeout")), "{end}");
    assert!(end["message"].as_str().unwrap().contains(meanwhile), "{end}");
    stage.machine.run(&format!("! {SLEEPS}")).unwrap();
    stage.until("no unit is left", NO_UNITS).await;

    // Nothing is left that would disturb the next run.
    let commit = stage.push(patience);
    ask(&deployer, "r-2", &commit).await;
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(stage.commit_of(CURRENT), commit);
    assert_eq!(each(&stage.finals(&mut wire).await, "status"), ["failed", "completed"]);
}

#[tokio::test]
async fn a_host_that_is_busy_says_with_what_be_it_a_request_or_somebody_at_its_keyboard() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(GATED_ACTIVATION);
    ask(&deployer, "r-1", &commit).await;
    stage.until_at_gate().await;
    let mut other = Deployer::connect(&stage.lab).await.unwrap();
    ask(&other, "r-2", &commit).await;
    let refused = other.hear_final().await.unwrap();
    assert_eq!((&refused["error"], &refused["holder"]["id"]), (&json!("already_running"), &json!("r-1")));
    stage.open_gate();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");

    let commit = stage.push(&format!("# by hand\n{GATED_ACTIVATION}"));
    stage.close_gate();
    let installable = format!("{}?rev={commit}#ns1", stage.flake_url());
    let nixos_rebuild = "setsid /packages/nixos-rebuild/bin/nixos-rebuild";
    stage.machine.run(&format!("{nixos_rebuild} switch --flake '{installable}' >/run/by-hand 2>&1 &")).unwrap();
    stage.until_at_gate().await;
    ask(&deployer, "r-3", &commit).await;
    let refused = deployer.hear_final().await.unwrap();
    assert_eq!((&refused["status"], &refused["error"]), (&json!("rejected"), &json!("already_running")), "{refused}");
    assert_eq!(refused["holder"]["id"], "nixos-rebuild");
    stage.open_gate();
    stage.until("it is over", "grep Done /run/by-hand").await;
    stage.until("no unit is left", NO_UNITS).await;

    let commit = stage.push("");
    ask(&deployer, "r-4", &commit).await;
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    assert_eq!((stage.commit_of(CURRENT), stage.activations()), (commit, 3));
    let finals = stage.finals(&mut wire).await;
    assert_eq!(each(&finals, "status"), ["rejected", "completed", "rejected", "completed"]);
}

#[tokio::test]
async fn ten_megabytes_of_output_are_taken_in_and_not_passed_on() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(r#"box.activation = "yes a line of output | head --bytes 10000000 >&2; exit 1";"#);
    ask(&deployer, "r-1", &commit).await;
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("activation_failed")), "{end}");
    let tail: Vec<&str> = end["log_tail"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(tail.contains(&"a line of output") && tail.concat().len() <= 16 * 1024, "{} lines", tail.len());
    let kept: u64 =
        stage.machine.run("du --bytes --summarize /var/lib/homelab-deploy | cut --fields 1").unwrap().parse().unwrap();
    assert!((8_000_000..20_000_000).contains(&kept), "{kept} bytes are kept");
    assert_eq!(stage.finals(&mut wire).await.len(), 1);
}
