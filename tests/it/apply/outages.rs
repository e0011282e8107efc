//! Tests outages in the middle of a rollout that must not change its result.

use super::stage::{self, apply, expect_recap, open, order, ran, story, until};
use crate::host;
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;

const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets = ["test.test1", "test.test2"]
    [[wave]]
    targets = "prod.ns1"
"#;

async fn lab() -> Lab {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    order(&lab, &["test1", "test2"], GATE);
    lab
}

/// Asserts that each of the three hosts ran once, and the host of the second wave last.
fn assert_ran_once(lab: &Lab) {
    let story = story(lab);
    assert_eq!(stage::ran_sorted(lab), ["ns1", "test1", "test2"], "{story:?}");
    assert_eq!(story[4..], ["ns1 start", "ns1 end 0"], "{story:?}");
}

#[tokio::test]
async fn the_server_restarts_while_hosts_are_at_it() {
    let mut lab = lab().await;
    let mut rollout = apply(&lab, PLAN);
    until(&lab, "test1 start").await;
    until(&lab, "test2 start").await;
    lab.server.stop();
    rollout.tells("connection lost").await.unwrap();
    // One host ends during the outage, the other one later.
    open(&lab, "test1");
    until(&lab, "test1 end 0").await;
    lab.server.restart().await.unwrap();
    rollout.tells("reconnected").await.unwrap();
    open(&lab, "test2");
    let ended = rollout.ended().await.unwrap().expect(0);
    expect_recap(&ended, "3 hosts completed in 2 waves");
    assert_ran_once(&lab);
}

#[tokio::test]
async fn a_listener_is_killed_and_starts_again_while_its_host_is_at_it() {
    let mut lab = lab().await;
    let rollout = apply(&lab, PLAN);
    until(&lab, "test1 start").await;
    until(&lab, "test2 start").await;
    open(&lab, "test2");
    lab.fleet.kill(&host("test1"));
    lab.listen(&host("test1"), &[]).await.unwrap();
    assert!(!story(&lab).contains(&"test1 end 0".to_owned()), "the run goes on");
    open(&lab, "test1");
    rollout.ended().await.unwrap().expect(0);
    assert_ran_once(&lab);
}

#[tokio::test]
async fn a_run_ends_while_its_listener_is_dead() {
    let mut lab = lab().await;
    let rollout = apply(&lab, PLAN);
    until(&lab, "test1 start").await;
    until(&lab, "test2 start").await;
    open(&lab, "test2");
    lab.fleet.kill(&host("test1"));
    open(&lab, "test1");
    until(&lab, "test1 end 0").await;
    assert!(!ran(&lab).contains(&"ns1".to_owned()), "nobody has said that test1 is done");
    lab.listen(&host("test1"), &[]).await.unwrap();
    rollout.ended().await.unwrap().expect(0);
    assert_ran_once(&lab);
}
