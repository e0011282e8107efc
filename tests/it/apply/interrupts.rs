//! Tests Ctrl-C and SIGTERM.

use rustix::process::Signal;

use super::stage::{self, apply, expect_recap, open, order, ran, recap, story, until};
use crate::operator::Running;
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;

const HOSTS: [&str; 3] = ["test.test1", "test.test2", "prod.ns1"];

/// Applies a plan of two waves, and returns once the first host runs, which waits at the gate.
async fn under_way(lab: &Lab) -> Running {
    order(lab, &["test1"], GATE);
    let plan = r#"
        revision = "main"
        [[wave]]
        targets      = ["test.test1", "test.test2"]
        max_parallel = 1
        [[wave]]
        targets = "prod.ns1"
    "#;
    let operator = apply(lab, plan);
    until(lab, "test1 start").await;
    operator
}

async fn waits_for_the_host_in_flight(signal: Signal) {
    let lab = stage::lab(&HOSTS).await;
    let mut operator = under_way(&lab).await;
    operator.signal(signal).unwrap();
    operator.tells("interrupted: nothing new is sent; waiting for test1.").await.unwrap();
    open(&lab, "test1");
    let ended = operator.ended().await.unwrap().expect(130);
    let recap = recap(&ended);
    assert!(recap.contains("3 hosts: 1 completed, 2 skipped"), "{recap}");
    assert_eq!(story(&lab), ["test1 start", "test1 end 0"]);
}

#[tokio::test]
async fn one_ctrl_c_waits_for_the_host_in_flight_and_sends_nothing_more() {
    waits_for_the_host_in_flight(Signal::INT).await;
}

#[tokio::test]
async fn sigterm_is_like_one_ctrl_c() {
    waits_for_the_host_in_flight(Signal::TERM).await;
}

#[tokio::test]
async fn two_leave_at_once_and_the_run_on_the_host_goes_on() {
    let lab = stage::lab(&HOSTS).await;
    let mut operator = under_way(&lab).await;
    operator.signal(Signal::INT).unwrap();
    operator.tells("interrupted: nothing new is sent").await.unwrap();
    operator.signal(Signal::INT).unwrap();
    let ended = operator.ended().await.unwrap().expect(130);
    expect_recap(&ended, "left in flight: its deployment continues");
    assert_eq!(story(&lab), ["test1 start"]);
    open(&lab, "test1");
    until(&lab, "test1 end 0").await;
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn an_interrupt_between_two_waves_is_not_forgotten() {
    let lab = stage::lab(&HOSTS).await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets   = "test.test1"
        bake_time = "1h"
        [[wave]]
        targets = "prod.ns1"
    "#;
    let mut operator = apply(&lab, plan);
    operator.tells("baking").await.unwrap();
    operator.signal(Signal::INT).unwrap();
    operator.ended().await.unwrap().expect(130);
    assert_eq!(ran(&lab), ["test1"]);
}
