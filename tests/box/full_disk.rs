//! A host on whose state disk there is no room: neither for a byte nor for another file.

use serde_json::{Value, json};

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, GATED_ACTIVATION, GATED_BUILD, Stage, ask};

impl Stage {
    /// Gives the host a small disk for its state.
    async fn shrink_disk(&mut self) {
        let mount = "systemctl stop homelab-deploy-listener
            mount -t tmpfs -o size=1m,nr_inodes=200,mode=700 tmpfs /var/lib/homelab-deploy
            systemctl start homelab-deploy-listener";
        self.machine.run(mount).unwrap();
        self.until_present().await.unwrap();
    }

    /// Leaves no room on it.
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

    /// How many runs the disk knows the end of.
    fn ends_on_disk(&self) -> String {
        self.machine.run("ls /var/lib/homelab-deploy/runs/*/final.json 2>/dev/null | wc -l").unwrap()
    }
}

fn assert_completed(end: &Value) {
    assert_eq!(end["status"], json!("completed"), "{end}");
}

#[tokio::test]
async fn deployments_are_judged_confirmed_and_taken_back_on_a_full_disk() {
    let Some(mut stage) = Stage::set("").await else { return };
    stage.shrink_disk().await;
    stage.fill_disk();
    let mut wire = stage.overhear().await.unwrap();

    // The listener is restarted by this one, and finds on a full disk what goes on.
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

    // Nothing of it is run again by a listener that is started anew.
    stage.machine.run("systemctl restart homelab-deploy-listener").unwrap();
    stage.until_present().await.unwrap();
    assert_eq!(stage.activations(), 3);
    assert_eq!(stage.ends_on_disk(), "0");

    // Once there is room, the disk has it all, and so it is known after a reboot.
    stage.free_disk();
    stage.machine.run("systemctl restart homelab-deploy-listener").unwrap();
    stage.until_present().await.unwrap();
    assert_eq!(stage.ends_on_disk(), "2");
}

#[tokio::test]
async fn a_disk_that_is_full_from_one_moment_to_the_next_spoils_nothing() {
    let Some(mut stage) = Stage::set("").await else { return };
    stage.shrink_disk().await;
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
    let Some(mut stage) = Stage::set("").await else { return };
    stage.shrink_disk().await;
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
    stage.until("the disk has its end", "ls /var/lib/homelab-deploy/runs/*/final.json").await;
}
