//! Tests which commit is deployed, and what happens if there is none.

use std::process::Command;

use super::stage::{self, calls, ran};
use super::wiretap::Wiretap;
use crate::operator::Ended;
use crate::support::lab::Lab;

/// Returns a command that applies a plan of one host at this revision.
fn apply(lab: &Lab, revision: &str) -> Command {
    let plan = format!("revision = '{revision}'\n[[wave]]\ntargets = 'prod.ns1'\n");
    let mut command = stage::command(lab, "apply", &plan);
    command.arg("--yes");
    command
}

async fn refused(lab: &Lab, command: Command) -> Ended {
    let mut tap = Wiretap::begin(lab).await;
    let ended = stage::start(command).ended().await.unwrap().expect(3);
    assert!(tap.requests().await.is_empty());
    assert!(ran(lab).is_empty());
    ended
}

/// Removes the repository, so that every lookup in it fails.
fn lose_repository(lab: &Lab) {
    let url = lab.flake.url();
    std::fs::remove_dir_all(url.strip_prefix("git+file://").unwrap()).unwrap();
}

#[tokio::test]
async fn a_branch_that_does_not_exist_is_told_before_anything_is_sent() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let ended = refused(&lab, apply(&lab, "mian")).await;
    ended.told("has no branch or tag \"mian\"").told("[plans/plan.toml:1:12]").told("did you mean \"main\"?");
}

#[tokio::test]
async fn a_repository_that_is_gone_is_told_with_the_words_of_git() {
    let lab = stage::lab(&["prod.ns1"]).await;
    lose_repository(&lab);
    let ended = refused(&lab, apply(&lab, "main")).await;
    ended.told("cannot look up \"main\"").told("does not appear to be a git repository");
}

#[tokio::test]
async fn a_host_is_never_asked_to_choose_the_commit_of_others() {
    let lab = stage::lab(&["prod.ns1"]).await;
    for verb in ["plan", "apply"] {
        let plan = "revision = 'main'\n[[wave]]\ntargets = 'prod.ns1'\n";
        let mut by_flag = stage::command(&lab, verb, plan);
        by_flag.arg("--resolve-on-host");
        let mut by_variable = stage::command(&lab, verb, plan);
        by_variable.env("HOMELAB_DEPLOY_RESOLVE_ON_HOST", "1");
        for command in [by_flag, by_variable] {
            let ended = stage::start(command).ended().await.unwrap().expect(2);
            ended.told("a host never chooses the commit of others").told("set `flake` in the plan");
        }
        let mut unset = stage::command(&lab, verb, plan);
        unset.env("HOMELAB_DEPLOY_RESOLVE_ON_HOST", "0").env("HOMELAB_DEPLOY_YES", "true");
        stage::start(unset).ended().await.unwrap().expect(0);
    }
}

#[tokio::test]
async fn a_full_commit_id_needs_no_repository() {
    let lab = stage::lab(&["prod.ns1"]).await;
    lose_repository(&lab);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    stage::start(apply(&lab, commit)).ended().await.unwrap().expect(0);
    assert_eq!(calls(&lab), [format!("switch --flake {}?rev={commit}#ns1", lab.flake.url())]);
}

#[tokio::test]
async fn the_revision_of_the_command_line_goes_before_that_of_the_plan() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let commit = lab.flake.commit("services: one").unwrap();
    let mut command = apply(&lab, "no-such-branch");
    command.args(["--revision", "main"]);
    stage::start(command).ended().await.unwrap().expect(0);
    assert_eq!(calls(&lab), [format!("switch --flake {}?rev={commit}#ns1", lab.flake.url())]);
}
