//! Tests hosts that roll back, because they can no longer be reached or because they are asked to.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deployer::Deployer;
use crate::operator::Running;
use crate::stage::{CURRENT, GATED_ACTIVATION, NS1, PROFILE, Stage, Wire, ask, request};

/// A configuration with which the listener connects to an address without a server.
const CUT_OFF: &str = r#"services.homelab-deploy.listener.natsUrl = "nats://127.0.0.1:1";"#;

/// The systems that a host runs and boots.
pub type Runs = (String, String);

impl Stage {
    pub fn runs(&self) -> Runs {
        (self.commit_of(CURRENT), self.commit_of(PROFILE))
    }

    /// Applies a plan by which the host must be reached again within 5 seconds.
    pub fn apply(&self, commit: &str) -> Running {
        let wave = "targets = \"prod.ns1\"\nrollback = \"auto\"\nconfirm_timeout = \"5s\"\n";
        let plan = self.lab.home().join("plan.toml");
        fs::write(&plan, format!("revision = \"{commit}\"\n[[wave]]\n{wave}")).unwrap();
        self.operator(&["apply", "--yes", plan.to_str().unwrap()])
    }

    /// Returns the final response to the last request, which was sent once. Earlier ones may be repeated, as after each
    /// reconnect.
    async fn only_final(&mut self, wire: &mut Wire) -> Value {
        let mut finals = self.finals(wire).await;
        let last = finals.pop().unwrap();
        assert!(finals.iter().all(|other| other["id"] != last["id"]), "{finals:?}");
        last
    }
}

#[tokio::test]
async fn a_configuration_that_cuts_the_host_off_is_taken_back() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let before = stage.runs();
    let commit = stage.push(CUT_OFF);
    stage.apply(&commit).ended().await.unwrap().expect(1).told("1 failed");
    assert_eq!(stage.runs(), before);
    let end = stage.only_final(&mut wire).await;
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("not_confirmed"), &json!(true)), "{end}");
    assert_eq!(end["system"], stage.machine.run(&format!("readlink {CURRENT}")).unwrap());
}

#[tokio::test]
async fn a_configuration_with_which_the_host_is_heard_from_again_stays() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let commit = stage.push("services.homelab-deploy.listener.package = release 2;");
    stage.apply(&commit).ended().await.unwrap().expect(0).told("1 completed");
    assert_eq!(stage.runs(), (commit.clone(), commit));
    let end = stage.only_final(&mut wire).await;
    assert_eq!((&end["status"], &end["rolled_back"]), (&json!("completed"), &Value::Null), "{end}");
}

#[tokio::test]
async fn a_host_whose_operator_is_no_more_returns() {
    let Some(mut stage) = Stage::set("").await else { return };
    // The running and the booted system differ, and each has to be restored.
    let commit = stage.push("box.activation = \"true\";");
    let boot = stage.operator(&["deploy", NS1, "--branch", &commit, "--action", "boot"]);
    boot.ended().await.unwrap().expect(0);
    let mut wire = stage.overhear().await.unwrap();
    let before = stage.runs();
    let commit = stage.push(GATED_ACTIVATION);
    let apply = stage.apply(&commit);
    stage.until_at_gate().await;
    apply.signal(Signal::KILL).unwrap();
    stage.open_gate();
    stage.until("both runs are over", "[ $(ls /var/lib/homelab-deploy/runs/*/final.json | wc -l) = 2 ]").await;
    assert_eq!(stage.runs(), before);
    let end = stage.only_final(&mut wire).await;
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("not_confirmed"), &json!(true)), "{end}");
}

#[tokio::test]
async fn an_activation_that_fails_is_taken_back_and_is_still_what_failed() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let before = stage.runs();
    let commit = stage.push("box.activation = \"exit 1\";");
    stage.apply(&commit).ended().await.unwrap().expect(1).told("1 failed");
    assert_eq!(stage.runs(), before);
    let end = stage.only_final(&mut wire).await;
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("activation_failed"), &json!(true)), "{end}");
}

#[tokio::test]
async fn a_host_that_is_asked_to_return_runs_what_it_ran_before_the_last_run() {
    let Some(stage) = Stage::set("").await else { return };
    let before = stage.runs();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push("services.homelab-deploy.listener.package = release 2;");
    ask(&deployer, "r-1", &commit).await;
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(stage.runs(), (commit.clone(), commit.clone()));

    let mut request = request(&deployer, "r-2", &commit);
    request["returns"] = "r-1".into();
    deployer.say(NS1, &request).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["rolled_back"]), (&json!("completed"), &json!(true)), "{end}");
    assert_eq!(stage.runs(), before);
}
