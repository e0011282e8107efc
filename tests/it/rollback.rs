//! Tests that `rollback` and `deploy --to` roll hosts back to what they ran before, and to nothing else.

use std::io::Write;

use serde_json::{Value, json};

use crate::apply::confirm::at_a_terminal;
use crate::apply::fake::{self, Fake};
use crate::apply::stage::{self, calls, order, ran};
use crate::host;
use crate::operator::{self, Ended};
use crate::support::lab::Lab;
use crate::support::rebuild::FAIL;

const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets = "test.test1"
    [[wave]]
    name    = "dns"
    targets = ["prod.ns1", "prod.ns2"]
"#;

async fn run(lab: &Lab, arguments: &[&str]) -> Ended {
    operator::run(lab, arguments).await.unwrap()
}

async fn roll_back(lab: &Lab, what: &[&str]) -> Ended {
    run(lab, &[&["rollback", "--yes", "--discover-window", "500ms"], what].concat()).await
}

/// Returns the commits that a host was switched to, in order.
fn commits(lab: &Lab, name: &str) -> Vec<String> {
    let calls = calls(lab).into_iter().filter(|call| call.ends_with(&format!("#{name}")));
    calls.map(|call| call.split_once("?rev=").unwrap().1.split_once('#').unwrap().0.to_owned()).collect()
}

/// Returns a lab to which two commits were rolled out one after the other, and both commits.
async fn two_commits() -> (Lab, String, String) {
    let lab = stage::lab(&["test.test1", "prod.ns1.dns", "prod.ns2.dns"]).await;
    let first = lab.flake.head().unwrap();
    stage::apply(&lab, PLAN).ended().await.unwrap().expect(0);
    let second = lab.flake.commit("dns: a new zone").unwrap();
    stage::apply(&lab, PLAN).ended().await.unwrap().expect(0);
    (lab, first, second)
}

/// Returns the recorded rollouts, the latest last.
async fn rollouts(lab: &Lab) -> Vec<Value> {
    let ended = run(lab, &["rollouts", "--json"]).await.expect(0);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test]
async fn a_host_returns_when_it_was_shown_to_what_and_somebody_said_yes() {
    let (lab, first, second) = two_commits().await;
    let before = ran(&lab).len();
    for (answer, code) in [("no", 4), ("yes", 0)] {
        let mut command = lab.operator(&lab.admin).unwrap();
        command.args(["rollback", "ns1"]);
        let (mut operator, mut keyboard) = at_a_terminal(command);
        operator.tells(&format!("from {} back to {}: ns1", &second[..7], &first[..7])).await.unwrap();
        operator.tells("Start this rollout? Only 'yes' is accepted:").await.unwrap();
        assert_eq!(ran(&lab).len(), before);
        writeln!(keyboard, "{answer}").unwrap();
        operator.ended().await.unwrap().expect(code);
    }
    assert_eq!(ran(&lab)[before..], ["ns1"]);
    assert_eq!(commits(&lab, "ns1"), [first.as_str(), &second, &first]);
    let recorded = rollouts(&lab).await.pop().unwrap();
    assert_eq!((&recorded["name"], &recorded["revision"]), (&json!("prod.ns1"), &json!(first)), "{recorded:#}");

    run(&lab, &["rollback", "ns1"]).await.expect(2).told("nobody can be asked");
    run(&lab, &["rollback", "ns1", "--json"]).await.expect(2).told("nobody can be asked");
}

#[tokio::test]
async fn the_hosts_of_a_rollout_return_newest_first_and_the_same_again_is_no_error() {
    let (lab, first, _) = two_commits().await;
    let id = rollouts(&lab).await.pop().unwrap()["id"].as_str().unwrap()[..8].to_owned();
    let before = ran(&lab).len();
    order(&lab, &["ns1"], FAIL);
    roll_back(&lab, &[&id]).await.expect(1).told("1/2 dns").told("--allow-downgrade");
    // The wave of test1 comes later, and was not started.
    let mut returned = ran(&lab)[before..].to_vec();
    returned.sort();
    assert_eq!(returned, ["ns1", "ns2"]);
    order(&lab, &["ns1"], "true");
    // The failed rollback left ns1 as it was, so it can still be undone.
    roll_back(&lab, &[&id]).await.expect(0);
    for name in ["test1", "ns1", "ns2"] {
        assert_eq!(commits(&lab, name).last(), Some(&first), "{name}");
    }
    assert_eq!(ran(&lab).last().unwrap(), "test1");
}

#[tokio::test]
async fn a_rollback_that_failed_is_resumed_as_it_says() {
    let (lab, first, _) = two_commits().await;
    order(&lab, &["ns1"], FAIL);
    let failed = roll_back(&lab, &["ns1", "test1"]).await.expect(1);
    order(&lab, &["ns1"], "true");
    let resume = failed.stderr.split_once("resume:   homelab-deploy ").unwrap().1.trim();
    run(&lab, &resume.split(' ').collect::<Vec<_>>()).await.expect(0);
    assert_eq!(commits(&lab, "ns1").last(), Some(&first));
    assert_eq!(commits(&lab, "test1").len(), 3);
}

#[tokio::test]
async fn what_was_deployed_since_stays() {
    let (lab, first, _) = two_commits().await;
    let third = lab.flake.commit("by somebody else").unwrap();
    let elsewhere = lab.folder().join("elsewhere");
    run(&lab, &["deploy", "prod.ns1", "--branch", "main", "--state-dir", elsewhere.to_str().unwrap()]).await.expect(0);
    let before = ran(&lab).len();
    let id = rollouts(&lab).await.pop().unwrap()["id"].as_str().unwrap().to_owned();
    roll_back(&lab, &["ns1"]).await.expect(3).told("ns1 ran something else since");
    roll_back(&lab, &[&id]).await.expect(3).told("ns1 ran something else since");
    assert_eq!(ran(&lab).len(), before, "nothing was sent");
    roll_back(&lab, &["test1", "prod.ns2"]).await.expect(0);
    assert_eq!(commits(&lab, "ns1").last(), Some(&third));
    assert_eq!((commits(&lab, "ns2").last(), commits(&lab, "test1").last()), (Some(&first), Some(&first)));
}

#[tokio::test]
async fn what_cannot_be_told_is_refused_before_anything_is_sent() {
    let (mut lab, _, _) = two_commits().await;
    let second = lab.flake.commit("only for ns2").unwrap();
    run(&lab, &["deploy", "prod.ns2", "--branch", "main"]).await.expect(0);
    let before = ran(&lab).len();
    roll_back(&lab, &["ns3"]).await.expect(3).told("no rollout on record here changed ns3");
    roll_back(&lab, &["0000"]).await.expect(3).told("there is no rollout \"0000\" here");
    roll_back(&lab, &["ns1", "ns2"]).await.expect(3).told("the hosts ran different commits before");
    roll_back(&lab, &["prod.all", "ns1"]).await.expect(2).told("prod.all is not one host");
    run(&lab, &["deploy", "--yes", "prod.all", "--to", "previous"]).await.expect(2).told("prod.all is not one host");
    assert_ne!(second, commits(&lab, "ns1")[1]);
    for name in ["ns1", "ns2"] {
        lab.fleet.kill(&host(name));
    }
    roll_back(&lab, &["ns1"]).await.expect(3).told("no answer from ns1");
    let _old = Fake::start(&lab, fake::modern("prod", "ns2", &lab), |_| panic!("it is sent nothing")).await;
    roll_back(&lab, &["ns2"]).await.expect(3).told("the listener of ns2 does not tell which run was its last");
    lab.listen(&host("ns1"), &[]).await.unwrap();
    assert_eq!(ran(&lab).len(), before);
    roll_back(&lab, &["ns1"]).await.expect(0);
}

#[tokio::test]
async fn a_way_back_that_is_only_tried_changes_nothing() {
    let (lab, first, second) = two_commits().await;
    let back = ["deploy", "prod.ns1", "--to", "previous", "--yes"];
    let tried = run(&lab, &[&back[..], &["--action", "dry-activate", "--timeout", "77"]].concat()).await.expect(0);
    tried.told("ns1  would change no unit");
    let calls = lab.fleet.rebuild().calls(&host("ns1"));
    assert!(calls.last().unwrap().contains("dry-activate"), "{calls:?}");
    let rollouts = run(&lab, &["status", "--json"]).await.expect(0).stdout;
    let begun: Value = serde_json::from_str(rollouts.lines().next().unwrap()).unwrap();
    assert_eq!(begun["plan"]["waves"][0]["timeout"], "1m 17s", "{begun}");
    run(&lab, &back).await.expect(0);
    assert_eq!(commits(&lab, "ns1"), [&first, &second, &first, &first].map(String::as_str));
    assert!(!lab.fleet.rebuild().calls(&host("ns1")).last().unwrap().contains("dry-activate"));
}

#[tokio::test]
async fn deploy_goes_back_to_what_it_is_told_without_a_flag_for_that() {
    let (lab, first, second) = two_commits().await;
    run(&lab, &["deploy", "prod.ns1", "--branch", &first]).await.expect(3).told("would go back in history");
    run(&lab, &["deploy", "prod.ns1", "--to", &first]).await.expect(2).told("nobody can be asked");
    run(&lab, &["deploy", "prod.ns1", "--to", &first, "--yes"]).await.expect(0);
    run(&lab, &["deploy", "prod.ns1", "--to", "previous", "--yes"]).await.expect(0);
    assert_eq!(commits(&lab, "ns1"), [&first, &second, &first, &second].map(String::as_str));

    let mut asked = lab.operator(&lab.admin).unwrap();
    asked.args(["deploy", "prod.ns1", "--to", &first]);
    let (mut operator, mut keyboard) = at_a_terminal(asked);
    operator.tells(&format!("from {} back to {}: ns1", &second[..7], &first[..7])).await.unwrap();
    writeln!(keyboard, "no").unwrap();
    operator.ended().await.unwrap().expect(4);
    assert_eq!(commits(&lab, "ns1").len(), 4);
}
