//! Tests two operators at once.

use std::time::Duration;

use super::resume::{cut_off, only_id, resume};
use super::stage::{self, open, order, ran_sorted, until};
use crate::operator::Running;
use crate::support::lab::Lab;
use crate::support::proxy::{Passes, Proxy};
use crate::support::rebuild::GATE;

const HOSTS: [&str; 4] = ["test.test1", "prod.ns1", "prod.ns2.dns", "prod.jelly.media"];

/// Starts to apply a plan as an operator with this name.
fn apply_as(lab: &Lab, operator: &str, target: &str, flags: &[&str]) -> Running {
    apply_over(lab, lab.server.url(), operator, target, flags)
}

/// Does the same over this address of the server.
fn apply_over(lab: &Lab, url: &str, operator: &str, target: &str, flags: &[&str]) -> Running {
    let plan = format!("name = '{operator}s-plan'\nrevision = 'main'\n[[wave]]\ntargets = '{target}'\n");
    let mut command = stage::command(lab, "apply", &plan);
    command.args(["--yes", "--operator", operator]).args(flags).env("HOMELAB_DEPLOY_NATS_URL", url);
    stage::start(command)
}

/// Returns a lab in which one operator's rollout runs on the prod tier.
async fn taken() -> (Lab, Running) {
    let lab = stage::lab(&HOSTS).await;
    order(&lab, &["ns1"], GATE);
    let first = apply_as(&lab, "anna", "prod.ns1", &[]);
    until(&lab, "ns1 start").await;
    (lab, first)
}

async fn leave(lab: &Lab, first: Running) {
    open(lab, "ns1");
    first.ended().await.unwrap().expect(0);
}

#[tokio::test]
async fn the_second_on_a_tier_is_refused_and_told_who_what_and_since_when() {
    let (lab, first) = taken().await;
    for target in ["prod.role.dns", "prod.jelly"] {
        let ended = apply_as(&lab, "bert", target, &[]).ended().await.unwrap().expect(3);
        ended.told("anna is rolling out \"annas-plan\" since 20").told("is in wave 1 of 1").told("--force");
    }
    leave(&lab, first).await;
    assert_eq!(ran_sorted(&lab), ["ns1"]);
}

#[tokio::test]
async fn since_when_is_told_in_the_time_of_who_asks() {
    let (lab, first) = taken().await;
    for (zone, tells) in [("XYZ-5:30", " XYZ, and is in wave"), ("", " UTC, and is in wave")] {
        let mut second = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'prod.jelly'\n");
        second.arg("--yes").env("TZ", zone);
        stage::start(second).ended().await.unwrap().expect(3).told(tells);
    }
    leave(&lab, first).await;
}

#[tokio::test]
async fn a_rollout_that_was_left_does_not_go_on_beside_another() {
    let lab = cut_off().await;
    let left = only_id(&lab);
    order(&lab, &["ns1"], GATE);
    let first = apply_as(&lab, "anna", "prod.ns1", &[]);
    until(&lab, "ns1 start").await;
    let ended = resume(&lab, &[&left]).await.expect(3);
    ended.told("anna is rolling out \"annas-plan\" since 20").told("--force");
    assert_eq!(ran_sorted(&lab), ["ns1", "test1"]);
    leave(&lab, first).await;
    resume(&lab, &[&left]).await.expect(0);
}

#[tokio::test]
async fn the_second_goes_on_when_it_is_told_to() {
    let (lab, first) = taken().await;
    apply_as(&lab, "bert", "prod.jelly", &["--force"]).ended().await.unwrap().expect(0);
    leave(&lab, first).await;
    assert_eq!(ran_sorted(&lab), ["jelly", "ns1"]);
}

#[tokio::test]
async fn another_tier_is_nobodys_business() {
    let (lab, first) = taken().await;
    apply_as(&lab, "bert", "test.all", &[]).ended().await.unwrap().expect(0);
    leave(&lab, first).await;
    assert_eq!(ran_sorted(&lab), ["ns1", "test1"]);
}

#[tokio::test]
async fn who_was_killed_holds_nobody_up() {
    let (lab, first) = taken().await;
    drop(first);
    apply_as(&lab, "bert", "prod.role.dns", &[]).ended().await.unwrap().expect(0);
    open(&lab, "ns1");
    assert_eq!(ran_sorted(&lab), ["ns1", "ns2"]);
}

#[tokio::test]
async fn an_operator_who_is_far_away_is_seen_by_one_who_is_near_and_by_one_who_is_far() {
    let lab = stage::lab(&HOSTS).await;
    let far = Proxy::start(lab.server.url(), Duration::from_millis(500)).await.unwrap();
    order(&lab, &["ns1"], GATE);
    let first = apply_over(&lab, &far.url(), "anna", "prod.ns1", &[]);
    until(&lab, "ns1 start").await;
    for url in [lab.server.url(), &far.url()] {
        let ended = apply_over(&lab, url, "bert", "prod.jelly", &[]).ended().await.unwrap().expect(3);
        ended.told("anna is rolling out \"annas-plan\" since 20");
    }
    leave(&lab, first).await;
    assert_eq!(ran_sorted(&lab), ["ns1"]);
}

#[tokio::test]
async fn a_wave_that_began_during_an_outage_is_known_to_others_after_it() {
    let lab = stage::lab(&HOSTS).await;
    let way = Proxy::start(lab.server.url(), Duration::ZERO).await.unwrap();
    order(&lab, &["jelly"], GATE);
    let plan =
        "revision = 'main'\n[[wave]]\ntargets = 'prod.ns1'\nbake_time = '3s'\n[[wave]]\ntargets = 'prod.jelly'\n";
    let mut first = stage::command(&lab, "apply", plan);
    first.arg("--yes").env("HOMELAB_DEPLOY_NATS_URL", way.url());
    let mut first = stage::start(first);
    first.tells("completed").await.unwrap();
    way.let_pass(Passes::Nothing);
    way.cut();
    first.tells("connection lost").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    way.let_pass(Passes::Both);
    first.tells("reconnected").await.unwrap();
    until(&lab, "jelly start").await;
    apply_as(&lab, "bert", "prod.role.dns", &[]).ended().await.unwrap().expect(3).told("is in wave 2 of 2");
    open(&lab, "jelly");
    first.ended().await.unwrap().expect(0);
}
