//! Hosts that run what comes after the commit that is asked for.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::crowd::{Course, Crowd};
use super::{fake, stage};
use crate::support::lab::Lab;

/// A homelab of two hosts, of which one runs a commit that comes after another; and the command to deploy that other one.
async fn ahead() -> (Lab, Crowd, Command) {
    let lab = stage::empty(&[]).await;
    let old = lab.flake.commit("services: one").unwrap();
    let new = lab.flake.commit("services: one more").unwrap();
    let reports = [("ns1", &new), ("ns2", &old)].map(|(host, commit)| {
        let mut report = fake::modern("prod", host, &lab);
        report["revision"] = json!(commit);
        report
    });
    let course = |_: &str| Course { takes: Duration::ZERO, status: "completed" };
    let crowd = Crowd::start(&lab, reports.to_vec(), course).await;
    let plan = format!("revision = '{old}'\n[[wave]]\ntargets = ['prod.ns1', 'prod.ns2']\n");
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
async fn a_host_may_be_sent_back_in_history() {
    let (_lab, mut crowd, mut command) = ahead().await;
    command.arg("--allow-downgrade");
    stage::start(command).ended().await.unwrap().expect(0);
    assert_eq!(crowd.ids().len(), 2);
}
