//! Tests a host whose state disk has no room for another byte or file.

use serde_json::{Value, json};

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, GATED_ACTIVATION, GATED_BUILD, Stage, ask};

/// Mounts a small disk for the state of the listener, unless it is mounted.
const MOUNT: &str = "mkdir -p /var/lib/homelab-deploy; mountpoint -q /var/lib/homelab-deploy || mount --bind /disk /var/lib/homelab-deploy;";

/// Returns a configuration with this disk.
fn small_disk() -> String {
    format!("box.activation = \"{MOUNT}\";")
}

impl Stage {
    /// Fills the disk.
    fn fill_disk(&self) {
        let fill = "cd /var/lib/homelab-deploy
            cat /dev/zero >fill 2>/dev/null
            number=0
            while true 2>/dev/null >fill.$number; do number=$((number + 1)); done
            ! touch another 2>/dev/null";
        self.machine.run(fill).unwrap();
    }

    fn free_disk(&self) {
        self.machine.run("rm -f /var/lib/homelab-deploy/fill*").unwrap();
    }

    /// Returns the number of runs whose result is on the disk.
    fn ends_on_disk(&self) -> String {
        self.machine.run("ls /var/lib/homelab-deploy/runs/*/final.json 2>/dev/null | wc -l").unwrap()
    }
}

fn assert_completed(end: &Value) {
    assert_eq!(end["status"], json!("completed"), "{end}");
}

#[tokio::test]
async fn deployments_are_judged_confirmed_and_taken_back_on_a_full_disk() {
    let Some(mut stage) = Stage::set(&small_disk()).await else { return };
    stage.fill_disk();
    let mut wire = stage.overhear().await.unwrap();

    // This deployment restarts the listener, which finds the running deployment on a full disk.
    let commit = stage.push("services.homelab-deploy.listener.package = release 2;");
    stage.apply(&commit).ended().await.unwrap().expect(0).told("1 completed");
    let runs = stage.runs();
    assert_eq!(runs, (commit.clone(), commit));

    let failing = stage.push("services.homelab-deploy.listener.package = release 2;\nbox.activation = \"exit 1\";");
    stage.apply(&failing).ended().await.unwrap().expect(1).told("1 failed");
    assert_eq!(stage.runs(), runs);
    let finals = stage.finals(&mut wire).await;
    let end = finals.last().unwrap();
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("activation_failed"), &json!(true)), "{end}");

    // A restarted listener does not run the request again.
    stage.machine.run("systemctl restart homelab-deploy-listener").unwrap();
    stage.until_present().await.unwrap();
    assert_eq!(stage.activations(), 3);
}

/// The number of runs of a request, and their results, survive a reboot.
#[tokio::test]
async fn what_was_run_on_a_full_disk_is_known_after_a_reboot() {
    let Some(mut stage) = Stage::set(&small_disk()).await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    stage.fill_disk();
    let commit = stage.push(&small_disk());
    ask(&deployer, "r-1", &commit).await;
    assert_completed(&deployer.hear_final().await.unwrap());
    let confirmed = stage.push(&format!("{}\n# confirmed", small_disk()));
    stage.apply(&confirmed).ended().await.unwrap().expect(0).told("1 completed");
    let interrupted = stage.push(&GATED_ACTIVATION.replace("= \"", &format!("= \"{MOUNT}")));
    ask(&deployer, "r-3", &interrupted).await;
    stage.until_at_gate().await;
    assert_eq!(stage.ends_on_disk(), "2");

    stage.reboot().await;
    stage.machine.run("! touch /var/lib/homelab-deploy/another 2>/dev/null").unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    for (id, commit, status) in [("r-1", &commit, "completed"), ("r-3", &interrupted, "failed")] {
        ask(&deployer, id, commit).await;
        assert_eq!(deployer.hear_final().await.unwrap()["status"], status);
    }
    assert_eq!((stage.ends_on_disk().as_str(), stage.activations()), ("3", 0));

    // The results of more runs than that are written once the disk has room, or when the listener is stopped then.
    ask(&deployer, "r-4", &commit).await;
    assert_completed(&deployer.hear_final().await.unwrap());
    assert_eq!(stage.ends_on_disk(), "3");
    stage.free_disk();
    stage.machine.run("systemctl restart homelab-deploy-listener").unwrap();
    stage.until_present().await.unwrap();
    assert_eq!(stage.ends_on_disk(), "4");
}

#[tokio::test]
async fn a_disk_that_is_full_from_one_moment_to_the_next_spoils_nothing() {
    let Some(stage) = Stage::set(&small_disk()).await else { return };
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    for (id, gated) in [("r-1", GATED_BUILD), ("r-2", GATED_ACTIVATION)] {
        let commit = stage.push(gated);
        ask(&deployer, id, &commit).await;
        stage.until_at_gate().await;
        stage.fill_disk();
        stage.open_gate();
        assert_completed(&deployer.hear_final().await.unwrap());
        assert_eq!(stage.commit_of(CURRENT), commit);
        stage.free_disk();
        stage.close_gate();
    }
}

#[tokio::test]
async fn a_full_disk_is_called_that_and_what_frees_it_can_be_deployed() {
    let Some(mut stage) = Stage::set(&small_disk()).await else { return };
    stage.fill_disk();
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(r#"box.build = "cat /dev/zero >>/var/lib/homelab-deploy/fill";"#);
    ask(&deployer, "r-1", &commit).await;
    let end = deployer.hear_final().await.unwrap();
    assert_eq!(end["error"], "build_failed", "{end}");
    assert!(end["message"].as_str().unwrap().contains("a disk of the host is full (No space left on device)"), "{end}");
    assert!(!end["log_tail"].as_array().unwrap().is_empty());

    let commit = stage.push(r#"box.activation = "rm -f /var/lib/homelab-deploy/fill*";"#);
    ask(&deployer, "r-2", &commit).await;
    assert_completed(&deployer.hear_final().await.unwrap());
    assert_eq!(each(&stage.finals(&mut wire).await, "status"), ["failed", "completed"]);
    assert_eq!(stage.ends_on_disk(), "2");
}
