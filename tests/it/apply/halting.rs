//! Tests which failures stop a rollout before its next wave, and which it tolerates.

use serde_json::json;

use super::fake::{self, Fake};
use super::stage::{self, apply, expect_recap, open, order, ran, ran_sorted, recap, until};
use crate::host;
use crate::operator::Ended;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};

/// A wave of a host that may fail, and a wave that must not start then.
const TWO_WAVES: &str = r#"
    revision = "main"
    [[wave]]
    targets = "test.test1"
    [[wave]]
    targets = "prod.ns1"
"#;

/// Returns that plan with further keys for the first wave.
fn first_wave(keys: &str) -> String {
    TWO_WAVES.replacen("[[wave]]", &format!("[[wave]]\n{keys}"), 1)
}

/// Applies a plan that halts, and returns its output.
async fn halted(lab: &Lab, plan: &str) -> Ended {
    apply(lab, plan).ended().await.unwrap().expect(1)
}

/// Keeps a host busy with the request of another operator, until the gate opens.
pub async fn keep_busy(lab: &Lab, host: &str) {
    order(lab, &[host], GATE);
    let request = json!({
        "action": "switch", "revision": "main", "reply_to": format!("deploy.responses.test.{host}.other"), "id": "other", "operator": "eve@desk"
    });
    let admin = lab.server.connect(&lab.admin).await.unwrap();
    admin.publish(format!("deploy.test.{host}"), request.to_string().into()).await.unwrap();
    until(lab, &format!("{host} start")).await;
}

#[tokio::test]
async fn a_host_that_fails_halts_it_and_the_recap_says_why() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    order(&lab, &["test1"], FAIL);
    let ended = halted(&lab, TWO_WAVES).await;
    insta::assert_snapshot!(recap(&ended), @r#"
✖ Rollout plan failed in wave 1/2 "test-test1": 1 failed, 0 may fail. Wave 2 was not started.
test1 failed build: attribute 'unboundd' missing
| error: attribute 'unboundd' missing
2 hosts: 1 failed, 1 skipped
"#);
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn a_busy_host_halts_it_and_the_recap_says_with_what() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    keep_busy(&lab, "test1").await;
    let ended = halted(&lab, TWO_WAVES).await;
    let recap = recap(&ended);
    assert!(recap.contains("test1 rejected already running: busy with other of eve@desk since"), "{recap}");
    assert!(recap.contains("2 hosts: 1 rejected, 1 skipped"), "{recap}");
    assert_eq!(ran(&lab), ["test1"], "only what somebody else asked for");
}

#[tokio::test]
async fn a_host_that_answers_the_roll_call_and_then_nothing_halts_it() {
    let mut lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let _silent = Fake::start(&lab, fake::modern("test", "test1", &lab), |_| Vec::new()).await;
    let ended = halted(&lab, &first_wave("accept_timeout = '1s'")).await;
    insta::assert_snapshot!(recap(&ended), @r#"
✖ Rollout plan failed in wave 1/2 "test-test1": 1 failed, 0 may fail. Wave 2 was not started.
test1 unreachable it never answered
2 hosts: 1 unreachable, 1 skipped
"#);
    assert!(ran(&lab).is_empty());
}

#[tokio::test]
async fn a_host_that_begins_and_falls_silent_halts_it() {
    let mut lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let answer = |request: &serde_json::Value| vec![fake::says(request, "test1", "started")];
    let _fake = Fake::start(&lab, fake::modern("test", "test1", &lab), answer).await;
    let plan = first_wave("accept_timeout = '2s'\ntimeout = '3s'\nignore_unreachable = true");
    let ended = halted(&lab, &plan).await;
    insta::assert_snapshot!(recap(&ended), @r#"
✖ Rollout plan failed in wave 1/2 "test-test1": 1 failed, 0 may fail. Wave 2 was not started.
test1 timed out it did not end within
2 hosts: 1 timed out, 1 skipped
"#);
    assert!(ran(&lab).is_empty());
}

#[tokio::test]
async fn an_absent_host_halts_it_as_soon_as_the_server_says_that_nobody_is_there() {
    let mut lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let ended = halted(&lab, TWO_WAVES).await;
    insta::assert_snapshot!(recap(&ended), @r#"
✖ Rollout plan failed in wave 1/2 "test-test1": 1 failed, 0 may fail. Wave 2 was not started.
test1 unreachable it never answered
2 hosts: 1 unreachable, 1 skipped
"#);
    assert!(ran(&lab).is_empty());
    assert!(ended.took.as_secs() < 10, "it was waited for in vain: {:?}", ended.took);
}

/// Returns a plan of three hosts in one wave, of which some fail, and a last host.
fn budget_plan(limits: &str) -> String {
    format!(
        "revision = 'main'\n[[wave]]\ntargets = ['test.test1', 'test.test2', 'test.test3']\nmax_parallel = 1\n{limits}\n\
         [[wave]]\ntargets = 'prod.ns1'\n"
    )
}

const BUDGET_HOSTS: [&str; 4] = ["test.test1", "test.test2", "test.test3", "prod.ns1"];

#[tokio::test]
async fn as_many_may_fail_as_the_plan_says() {
    let lab = stage::lab(&BUDGET_HOSTS).await;
    order(&lab, &["test1"], FAIL);
    let ended = apply(&lab, &budget_plan("max_failures = 1")).ended().await.unwrap().expect(0);
    expect_recap(&ended, "3 of 4 hosts completed in 2 waves");
    expect_recap(&ended, "test1 failed build: attribute 'unboundd' missing");
    assert_eq!(ran(&lab), ["test1", "test2", "test3", "ns1"]);
}

#[tokio::test]
async fn one_more_is_too_many_and_nothing_more_is_sent() {
    let lab = stage::lab(&BUDGET_HOSTS).await;
    order(&lab, &["test1", "test2"], FAIL);
    let ended = halted(&lab, &budget_plan("max_failures = 1")).await;
    expect_recap(&ended, "2 failed, 1 may fail. Wave 2 was not started.");
    expect_recap(&ended, "test3 skipped wave halted");
    assert_eq!(ran(&lab), ["test1", "test2"]);
}

#[tokio::test]
async fn a_host_in_flight_is_awaited_when_its_wave_halts() {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    order(&lab, &["test1"], FAIL);
    order(&lab, &["test2"], GATE);
    let plan = "revision = 'main'\n[[wave]]\ntargets = ['test.test2', 'test.test1']\n[[wave]]\ntargets = 'prod.ns1'\n";
    let mut rollout = apply(&lab, plan);
    rollout.tells("waiting for test2").await.unwrap();
    open(&lab, "test2");
    let ended = rollout.ended().await.unwrap().expect(1);
    expect_recap(&ended, "3 hosts: 1 completed, 1 failed, 1 skipped");
    assert_eq!(ran_sorted(&lab), ["test1", "test2"]);
}

#[tokio::test]
async fn enough_hosts_must_complete_whoever_may_fail() {
    let lab = stage::lab(&BUDGET_HOSTS).await;
    order(&lab, &["test1"], FAIL);
    let ended = halted(&lab, &budget_plan("max_failures = 1\nmin_hosts = 3")).await;
    expect_recap(&ended, "2 completed, at least 3 must. Wave 2 was not started.");
    assert_eq!(ran(&lab), ["test1", "test2", "test3"]);
}

#[tokio::test]
async fn a_host_that_may_be_off_is_reported_and_not_charged() {
    let mut lab = stage::empty(&["test.test1", "test.laptop", "prod.ns1"]).await;
    for name in ["test1", "ns1"] {
        lab.listen(&host(name), &[]).await.unwrap();
    }
    let plan = r#"
        revision = "main"
        [[wave]]
        targets            = ["test.laptop", "test.test1"]
        ignore_unreachable = true
        [[wave]]
        targets = "prod.ns1"
    "#;
    let ended = apply(&lab, plan).ended().await.unwrap().expect(0);
    insta::assert_snapshot!(recap(&ended).lines().skip(1).collect::<Vec<_>>().join("\n"), @r#"
laptop unreachable it never answered
3 hosts: 2 completed, 1 unreachable
"#);
    assert_eq!(ran(&lab), ["test1", "ns1"]);
}

#[tokio::test]
async fn a_busy_host_is_asked_again_until_it_is_free() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    keep_busy(&lab, "test1").await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets     = "test.test1"
        retries     = 50
        retry_delay = "200ms"
        [[wave]]
        targets = "prod.ns1"
    "#;
    let mut rollout = apply(&lab, plan);
    rollout.tells("attempt 2").await.unwrap();
    open(&lab, "test1");
    rollout.ended().await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["test1", "test1", "ns1"], "what somebody else asked for, and then ours");
}
