//! Tests rollbacks with fake hosts: what the operator sends them, and how it takes their responses.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::fake::{self, Fake, Said};
use super::stage::{self, apply, expect_recap};
use super::wiretap::Wiretap;
use crate::operator::{self, Ended};
use crate::support::lab::Lab;

/// Every request in order, with the name of its host.
type Record = Arc<Mutex<Vec<(&'static str, Value)>>>;

/// Starts a fake listener that supports rollback. `answer` gets a request and the number of earlier ones.
async fn host(lab: &Lab, name: &'static str, record: &Record, answer: fn(&Value, usize) -> Vec<Value>) -> Fake {
    let mut report = fake::modern("test", name, lab);
    report["features"] = json!(["id", "expires", "heartbeat", "rollback"]);
    let record = Arc::clone(record);
    Fake::start(lab, report, move |request| {
        let mut record = record.lock().unwrap();
        let before = record.iter().filter(|(host, _)| *host == name).count();
        record.push((name, request.clone()));
        answer(request, before).into_iter().map(|fields| said(request, name, &fields)).collect()
    })
    .await
}

fn said(request: &Value, host: &str, fields: &Value) -> Said {
    let (subject, mut answer) = fake::says(request, host, "");
    answer["id"] = request["id"].clone();
    answer["revision"] = json!("8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b");
    for (key, value) in fields.as_object().unwrap() {
        answer[key] = value.clone();
    }
    (subject, answer)
}

fn waits() -> Value {
    json!({ "status": "started", "phase": "confirm" })
}

/// Waits for confirmation, and accepts the first one.
fn confirmed(request: &Value, _: usize) -> Vec<Value> {
    if request["confirmed"] == true {
        vec![json!({ "status": "completed" })]
    } else {
        vec![json!({ "status": "accepted" }), waits()]
    }
}

/// Ignores confirmations, and rolls back after asking three times.
fn cut_off(request: &Value, before: usize) -> Vec<Value> {
    match (before, request["confirmed"] == true) {
        (0, false) => vec![json!({ "status": "accepted" }), waits()],
        (1 | 2, true) => vec![waits()],
        _ => vec![json!({
            "status": "failed", "error": "not_confirmed", "rolled_back": true, "message": "nobody confirmed it",
        })],
    }
}

/// Completes at once, and rolls back when it is asked to.
fn returns(request: &Value, _: usize) -> Vec<Value> {
    if request["returns"].is_string() {
        vec![json!({ "status": "started", "phase": "return" }), json!({ "status": "completed", "rolled_back": true })]
    } else {
        vec![json!({ "status": "completed" })]
    }
}

/// Does the same, but cannot roll back.
fn stays(request: &Value, _: usize) -> Vec<Value> {
    if request["returns"].is_string() {
        vec![json!({ "status": "failed", "rolled_back": false, "message": "the old system is gone" })]
    } else {
        vec![json!({ "status": "completed" })]
    }
}

fn requests_of(record: &Record, name: &str) -> Vec<Value> {
    let record = record.lock().unwrap();
    record.iter().filter(|(host, _)| *host == name).map(|(_, request)| request.clone()).collect()
}

/// Returns a request without the fields that differ each time it is sent.
fn but_for(request: &Value, fields: &[&str]) -> Value {
    let mut request = request.clone();
    for field in fields {
        request.as_object_mut().unwrap().remove(*field);
    }
    request
}

#[tokio::test]
async fn a_host_that_is_heard_from_again_is_confirmed_with_the_same_request() {
    let lab = stage::empty(&["test.test1"]).await;
    let record = Record::default();
    let _host = host(&lab, "test1", &record, confirmed).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\nrollback = 'auto'\nconfirm_timeout = '90s'\n";
    apply(&lab, plan).ended().await.unwrap().expect(0);
    let requests = requests_of(&record, "test1");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0]["confirm_timeout_s"], 90);
    assert_eq!(requests[0]["confirmed"], Value::Null);
    assert_eq!(requests[1]["confirmed"], true);
    assert_eq!(but_for(&requests[1], &["confirmed", "expires_at"]), but_for(&requests[0], &["expires_at"]));
}

#[tokio::test]
async fn a_host_that_hears_no_confirmation_is_told_again_and_counts_as_failed_when_it_returns() {
    let lab = stage::empty(&["test.test1", "test.test2"]).await;
    let record = Record::default();
    let _hosts = [host(&lab, "test1", &record, cut_off).await, host(&lab, "test2", &record, confirmed).await];
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'test.test2'\n";
    let mut command = stage::command(&lab, "apply", plan);
    command.args(["--yes", "--auto-rollback"]);
    let ended = stage::start(command).ended().await.unwrap().expect(1);
    expect_recap(&ended, "test1 failed not confirmed: nobody confirmed it; returned to what ran before");
    assert_eq!(requests_of(&record, "test1").len(), 4, "the request, and three confirmations");
    assert!(requests_of(&record, "test2").is_empty());
}

/// Applies a plan of three hosts, one at a time, whose check fails.
async fn unwell(lab: &Lab) -> Ended {
    let plan = r#"
        revision = "main"
        [[wave]]
        targets      = ["test.test2", "test.test1", "test.test3"]
        max_parallel = 1
        check        = ["false"]
        rollback     = "wave"
    "#;
    apply(lab, plan).ended().await.unwrap().expect(1)
}

const THREE: [&str; 3] = ["test.test1", "test.test2", "test.test3"];

#[tokio::test]
async fn the_hosts_of_a_wave_that_failed_return_newest_first() {
    let lab = stage::empty(&THREE).await;
    let record = Record::default();
    let mut hosts = Vec::new();
    for name in ["test1", "test2", "test3"] {
        hosts.push(host(&lab, name, &record, returns).await);
    }
    let ended = unwell(&lab).await;
    expect_recap(&ended, "3 hosts that had completed returned to what ran before.");
    expect_recap(&ended, "3 hosts: 3 returned to what ran before");

    let order: Vec<_> = record.lock().unwrap().iter().map(|(host, _)| *host).collect();
    assert_eq!(order, ["test2", "test1", "test3", "test3", "test1", "test2"]);
    for name in ["test1", "test2", "test3"] {
        let requests = requests_of(&record, name);
        assert_eq!(requests[1]["returns"], requests[0]["id"]);
        assert_ne!(requests[1]["id"], requests[0]["id"]);
        assert_eq!(requests[1]["confirm_timeout_s"], Value::Null);
    }

    let resumed = operator::run(&lab, &["apply", "--resume"]).await.unwrap().expect(1);
    expect_recap(&resumed, "3 hosts that had completed returned to what ran before.");
    let ids: Vec<_> = requests_of(&record, "test1").iter().map(|request| request["id"].clone()).collect();
    assert_eq!(ids.len(), 4, "it is done anew, and returns anew");
    assert!((1..4).all(|place| !ids[..place].contains(&ids[place])), "each under an id of its own");
}

#[tokio::test]
async fn a_host_that_cannot_return_does_not_keep_the_others_from_it() {
    let lab = stage::empty(&THREE).await;
    let record = Record::default();
    let _hosts = [
        host(&lab, "test1", &record, stays).await,
        host(&lab, "test2", &record, returns).await,
        host(&lab, "test3", &record, returns).await,
    ];
    let ended = unwell(&lab).await;
    expect_recap(&ended, "1 of 3 hosts that had completed did NOT return to what ran before.");
    expect_recap(&ended, "test1 completed could NOT return: the old system is gone");
    expect_recap(&ended, "test2 returned returned to what ran before");
    let status = operator::run(&lab, &["status"]).await.unwrap().expect(1);
    status.told("could NOT return: the old system is gone");
}

#[tokio::test]
async fn a_listener_that_cannot_return_is_told_of_before_anything_is_sent() {
    let lab = stage::empty(&["test.test1", "test.test2"]).await;
    let record = Record::default();
    let old = fake::modern("test", "test1", &lab);
    let _hosts = [Fake::start(&lab, old, |_| Vec::new()).await, host(&lab, "test2", &record, confirmed).await];
    let mut tap = Wiretap::begin(&lab).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = ['test.test1', 'test.test2']\nrollback = 'wave'\n";
    for verb in ["plan", "apply"] {
        let mut command = stage::command(&lab, verb, plan);
        command.args((verb == "apply").then_some("--yes"));
        let ended = stage::start(command).ended().await.unwrap().expect(2);
        ended.told("wave `test-test1` rolls back, which the listeners of test1 cannot").told("asked for here");
    }
    for target in ["deploy.test.test1", "deploy.test.all"] {
        let ended = operator::run(&lab, &["deploy", target, "--auto-rollback", "--discover-window", "500ms"]).await;
        ended.unwrap().expect(2).told("rolls back, which the listeners of test1 cannot");
    }
    assert!(tap.requests().await.is_empty());
}

#[tokio::test]
async fn nothing_is_sent_to_a_host_of_which_it_is_not_known_whether_it_can_return() {
    let lab = stage::empty(&["test.test1", "test.laptop"]).await;
    let record = Record::default();
    let _host = host(&lab, "test1", &record, confirmed).await;
    let mut tap = Wiretap::begin(&lab).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = ['test.laptop', 'test.test1']\nrollback = 'auto'\n\
                ignore_unreachable = true\n";
    let ended = apply(&lab, plan).ended().await.unwrap().expect(0);
    let ended = ended.told("laptop? did not answer");
    expect_recap(&ended, "laptop unreachable it was not asked: it did not answer the roll call");
    assert!(tap.requests().await.iter().all(|subject| subject == "deploy.test.test1"));
}

#[tokio::test]
async fn a_deployment_calls_the_roll_first_and_reaches_each_host_by_its_own_subject() {
    let lab = stage::empty(&["test.test1", "test.test2"]).await;
    let record = Record::default();
    let _hosts = [host(&lab, "test1", &record, confirmed).await, host(&lab, "test2", &record, cut_off).await];
    let mut tap = Wiretap::begin(&lab).await;
    let mut arguments = vec!["deploy", "deploy.test.all", "--branch", "main", "--auto-rollback"];
    arguments.extend(["--confirm-timeout", "30s", "--discover-window", "500ms"]);
    let ended = operator::run(&lab, &arguments).await.unwrap().expect(1);
    ended.told("returned to what ran before");
    assert_eq!(requests_of(&record, "test1")[0]["confirm_timeout_s"], 30);
    assert!(tap.requests().await.iter().all(|subject| subject != "deploy.test.all"));
}

#[tokio::test]
async fn a_deployment_that_nobody_listens_for_is_told_as_ever() {
    let lab = stage::empty(&["test.test1"]).await;
    let arguments = ["deploy", "deploy.test.test1", "--auto-rollback", "--discover-window", "300ms"];
    let ended = operator::run(&lab, &arguments).await.unwrap().expect(1);
    ended.told("no host answers on deploy.test.test1");
}
