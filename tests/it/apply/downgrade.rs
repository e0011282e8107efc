//! Tests hosts that run a later commit than the requested one.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::crowd::{Course, Crowd};
use super::{fake, stage};
use crate::support::git::{Git, Mood};
use crate::support::lab::Lab;

/// Returns a lab of two hosts, of which one runs a later commit, and the command to deploy the earlier one. The
/// operator has the repository on this machine.
async fn ahead() -> (Lab, Crowd, Command) {
    let lab = stage::empty(&[]).await;
    let flake = lab.flake.url();
    ahead_of(lab, &flake).await
}

/// Returns the same with the repository on a server.
async fn ahead_of_server() -> (Lab, Git, Crowd, Command) {
    let lab = stage::empty(&[]).await;
    let git = Git::serve(lab.folder()).unwrap();
    let (lab, crowd, command) = ahead_of(lab, &format!("git+{}", git.url("flake"))).await;
    (lab, git, crowd, command)
}

async fn ahead_of(lab: Lab, flake: &str) -> (Lab, Crowd, Command) {
    let old = lab.flake.commit("services: one").unwrap();
    let new = lab.flake.commit("services: one more").unwrap();
    let reports = [("ns1", &new), ("ns2", &old)].map(|(host, commit)| {
        let mut report = fake::modern("prod", host, &lab);
        report["revision"] = json!(commit);
        report
    });
    let course = |_: &str| Course { takes: Duration::ZERO, status: "completed" };
    let crowd = Crowd::start(&lab, reports.to_vec(), course).await;
    let plan = format!("flake = '{flake}'\nrevision = '{old}'\n[[wave]]\ntargets = ['prod.ns1', 'prod.ns2']\n");
    let mut command = stage::command(&lab, "apply", &plan);
    command.arg("--yes");
    (lab, crowd, command)
}

#[tokio::test]
async fn no_host_goes_back_in_history_unasked() {
    let (_lab, mut crowd, command) = ahead().await;
    let ended = stage::start(command).ended().await.unwrap().expect(3);
    ended.told("ns1 would go back in history").told("--allow-downgrade").not_told("ns2 would");
    assert!(crowd.story().is_empty());
}

#[tokio::test]
async fn a_test_host_is_there_to_come_back_from_a_branch() {
    let lab = stage::empty(&[]).await;
    let old = lab.flake.commit("services: one").unwrap();
    let new = lab.flake.commit("services: one more").unwrap();
    let mut report = fake::modern("test", "test1", &lab);
    report["revision"] = json!(new);
    let course = |_: &str| Course { takes: Duration::ZERO, status: "completed" };
    let mut crowd = Crowd::start(&lab, vec![report], course).await;
    let flake = lab.flake.url();
    let plan = format!("flake = '{flake}'\nrevision = '{old}'\n[[wave]]\ntargets = 'test.test1'\n");
    let mut command = stage::command(&lab, "apply", &plan);
    command.arg("--yes");
    stage::start(command).ended().await.unwrap().expect(0).told("test1 would go back in history");
    assert_eq!(crowd.ids().len(), 1);
}

#[tokio::test]
async fn a_host_may_be_sent_back_in_history() {
    let (_lab, mut crowd, mut command) = ahead().await;
    command.arg("--allow-downgrade");
    stage::start(command).ended().await.unwrap().expect(0);
    assert_eq!(crowd.ids().len(), 2);
}

#[tokio::test]
async fn the_server_tells_what_no_clone_does() {
    let (_lab, _git, _crowd, mut command) = ahead_of_server().await;
    command.arg("--allow-downgrade");
    let ended = stage::start(command).ended().await.unwrap().expect(0);
    ended.told("\"services: one\"").told("ns1 would go back in history").not_told("ns2 would");
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_a_rollout_up_for_seconds_at_most() {
    let (_lab, mut git, mut crowd, command) = ahead_of_server().await;
    git.set(Mood::Hanging);
    let ended = stage::start(command).ended().await.unwrap().expect(0);
    assert!(ended.took < Duration::from_secs(10), "it took {:?}", ended.took);
    assert_eq!(crowd.ids().len(), 2);
}
