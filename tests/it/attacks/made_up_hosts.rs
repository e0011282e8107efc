//! Tests a host that answers the roll call for hosts that do not exist, or that are other machines.

use serde_json::{Value, json};

use super::attacker::Serving;
use super::{Attacker, lab, lab_with, plan, token};
use crate::apply::fake::{self, Said, says};
use crate::apply::stage::{self, calls, ran, ran_sorted};
use crate::apply::wiretap::Wiretap;
use crate::host;
use crate::operator;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;

const HOSTS: [&str; 3] = ["test.test1", "test.mole", "prod.db"];
const ROLL_CALLS: [&str; 2] = ["deploy.discover", "deploy.discover.test"];

/// Returns the report on every subject on which an answer to a roll call may be expected.
fn everywhere(question: &Value, report: &Value) -> Vec<Said> {
    let token = token(question);
    let subjects = [
        question["reply_to"].as_str().unwrap_or("deploy.responses.x").to_owned(),
        format!("deploy.responses.test.mole.{token}"),
        format!("deploy.responses.test.ghost.{token}"),
        format!("deploy.responses.test.db.{token}"),
        format!("deploy.responses.prod.db.{token}"),
    ];
    subjects.map(|subject| (subject, report.clone())).into()
}

/// Answers roll calls with these reports and completes all requests, with the key of test.mole.
async fn mole(lab: &Lab, reports: Vec<Value>) -> Serving {
    let attacker = Attacker::connect(lab, lab.key(&host("mole")).unwrap()).await;
    let subjects = [&ROLL_CALLS[..], &["deploy.test.mole", "deploy.test.all"]].concat();
    let answer = move |subject: &str, message: &Value| {
        if message["reply_to"].is_null() {
            return Vec::new();
        }
        if ROLL_CALLS.contains(&subject) {
            return reports.iter().flat_map(|report| everywhere(message, report)).collect();
        }
        vec![says(message, "mole", "completed")]
    };
    attacker.serve(&subjects, answer).await
}

/// Returns a report that redirects deployments to the database of prod.
fn lure(lab: &Lab, tier: &str, name: &str, subjects: &[&str]) -> Value {
    let mut report = fake::modern(tier, name, lab);
    report["deploy_subjects"] = json!(subjects);
    report
}

#[tokio::test]
async fn a_prod_host_runs_nothing_because_a_test_host_lists_its_subject() {
    let lab = lab(&HOSTS, &["test1", "db"]).await;
    lab.flake.branch("feature").unwrap();
    let prod = &["deploy.prod.db"][..];
    let own = lure(&lab, "test", "mole", &["deploy.test.mole", "deploy.test.all", "deploy.prod.db"]);
    let others = [("test", "ghost"), ("test", "db"), ("prod", "db"), ("prod", "ghost")];
    let reports = others.map(|(tier, name)| lure(&lab, tier, name, prod));
    let _mole = mole(&lab, [vec![own], reports.into()].concat()).await;

    let mut tap = Wiretap::begin(&lab).await;
    stage::apply(&lab, &plan(&lab, "feature", "test.all")).ended().await.unwrap();
    operator::run(&lab, &["deploy", "deploy.test.all", "--branch", "feature"]).await.unwrap();
    for subject in tap.requests().await {
        assert!(["deploy.test.test1", "deploy.test.mole", "deploy.test.all"].contains(&subject.as_str()), "{subject}");
    }
    assert_eq!(ran(&lab), ["test1", "test1"]);
}

#[tokio::test]
async fn a_test_host_that_listens_on_a_prod_subject_only_is_not_reached_there() {
    let lab = lab(&HOSTS, &["test1", "db"]).await;
    let _mole = mole(&lab, vec![lure(&lab, "test", "mole", &["deploy.prod.db"])]).await;
    let mut tap = Wiretap::begin(&lab).await;
    for targets in ["test.all", "test.mole"] {
        stage::apply(&lab, &plan(&lab, "main", targets)).ended().await.unwrap();
    }
    for target in ["deploy.test.all", "deploy.test.mole"] {
        operator::run(&lab, &["deploy", target]).await.unwrap();
    }
    for subject in tap.requests().await {
        assert!(subject.starts_with("deploy.test."), "{subject}");
    }
    assert!(!ran(&lab).contains(&"db".to_owned()));
}

/// Returns a report by which the database of prod already runs a commit, deployed properly.
fn current(lab: &Lab, commit: &str) -> Value {
    let mut report = fake::modern("prod", "db", lab);
    report["revision"] = json!(commit);
    report["generation"] = json!(42);
    report["system"] = json!("/nix/store/x");
    report["last"] = json!({
        "id": "r", "status": "completed", "at": "2026-11-23T10:00:00Z", "revision": commit, "current": true,
    });
    report
}

#[tokio::test]
async fn nobody_else_says_that_a_prod_host_is_current_while_that_is_silent() {
    let mut lab = lab_with(&HOSTS, &["db"], Permissions::Compatible).await;
    lab.fleet.kill(&host("db"));
    let commit = lab.flake.resolve("main").unwrap();
    let _mole = mole(&lab, vec![current(&lab, &commit)]).await;
    let plan = plan(&lab, "main", "prod.db") + "accept_timeout = '1s'\n";
    let ended = stage::apply(&lab, &plan).ended().await.unwrap().expect(1);
    ended.told("answers in the old form").told("unreachable");

    // Once a host has answered as itself, such an answer does not even count as one.
    lab.listen(&host("db"), &[]).await.unwrap();
    operator::run(&lab, &["hosts"]).await.unwrap().expect(0);
    lab.fleet.kill(&host("db"));
    let ended = stage::apply(&lab, &plan).ended().await.unwrap().expect(1);
    ended.not_told("answers in the old form").told("unreachable");
}

#[tokio::test]
async fn nobody_else_says_that_a_prod_host_is_current_or_somewhere_else() {
    let lab = lab(&HOSTS, &["db"]).await;
    let commit = lab.flake.resolve("main").unwrap();
    let mut elsewhere = current(&lab, &commit);
    elsewhere["deploy_subjects"] = json!(["deploy.test.mole"]);
    let mut another_machine = current(&lab, &commit);
    another_machine["machine"] = json!("another machine");
    another_machine["instance"] = json!("11111111-1111-4111-8111-111111111111");
    let _mole = mole(&lab, vec![current(&lab, &commit), elsewhere, another_machine]).await;
    let mut tap = Wiretap::begin(&lab).await;
    for targets in ["prod.db", "prod.all"] {
        stage::apply(&lab, &plan(&lab, "main", targets)).ended().await.unwrap().expect(0);
        lab.flake.commit("another").unwrap();
    }
    assert!(tap.requests().await.iter().all(|subject| subject == "deploy.prod.db"));
    assert_eq!(ran(&lab), ["db", "db"]);
}

#[tokio::test]
async fn where_old_deployers_are_answered_the_word_of_a_host_itself_comes_first() {
    let lab = lab_with(&HOSTS, &["test1", "db"], Permissions::Compatible).await;
    let commit = lab.flake.resolve("main").unwrap();
    let mut evil = current(&lab, &commit);
    evil["deploy_subjects"] = json!(["deploy.test.mole"]);
    let lure = lure(&lab, "test", "test1", &["deploy.prod.db"]);
    let _mole = mole(&lab, vec![current(&lab, &commit), evil, lure]).await;
    for targets in ["prod.all", "test.test1"] {
        stage::apply(&lab, &plan(&lab, "main", targets)).ended().await.unwrap().expect(0);
    }
    assert_eq!(ran_sorted(&lab), ["db", "test1"]);
    assert!(calls(&lab).iter().all(|call| call.contains(&commit)), "{:?}", calls(&lab));
}
