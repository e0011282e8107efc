//! Deployments that take too long, say too much, or come when the host is busy.

use serde_json::json;

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, Stage, ask};

/// The unit of a run, and that of an activation, as far as there are any.
const UNITS: &str = "systemctl list-units --plain --no-legend 'homelab-deploy-run*' 'nixos-rebuild*'";

#[tokio::test]
async fn a_build_that_takes_too_long_leaves_nothing_behind() {
    takes_too_long(r#"box.build = "sleep 4711";"#, "building").await;
}

/// Deploys something that never ends, to a host that waits for 3 seconds.
async fn takes_too_long(configuration: &str, meanwhile: &str) {
    let patience = "services.homelab-deploy.listener.timeout = 3;";
    let Some(mut stage) = Stage::set(patience).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&format!("{patience}{configuration}"));
    ask(&deployer, "r-1", &commit).await;
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("timeout")), "{end}");
    assert!(end["message"].as_str().unwrap().contains(meanwhile), "{end}");
    stage.machine.run("! pgrep --full 'sleep 4711'").unwrap();
    assert_eq!(stage.machine.run(UNITS).unwrap(), "");

    // Nothing of it is in the way of what comes next.
    let commit = stage.push(patience);
    ask(&deployer, "r-2", &commit).await;
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(stage.commit_of(CURRENT), commit);
    assert_eq!(each(&stage.finals(&mut wire).await, "status"), ["failed", "completed"]);
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
