//! Tests `deploy` with trouble around it: interrupts, outages, and invalid responses.

mod output;
mod server;
mod words;

use std::time::Duration;

use serde_json::{Value, json};

use crate::deployer::Deployer;
use crate::host;
use crate::operator;
use crate::stand_in::StandIn;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

const NS1: &str = "deploy.prod.ns1";
const DNS: &str = "deploy.prod.role.dns";

/// Returns a lab whose host `ns1` listens, and waits at the gate when it deploys.
async fn lab() -> Lab {
    let mut lab = Lab::start(super::program(), &["prod.ns1.dns", "prod.ns2.dns"]).await.unwrap();
    lab.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    lab.listen(&host("ns1"), &[]).await.unwrap();
    lab
}

/// Returns a final response.
fn end(hostname: &str, status: &str) -> Value {
    json!({ "hostname": hostname, "status": status, "error": null, "message": "" })
}

/// Opens the gate, and waits until the run of `ns1` has ended.
async fn finish(lab: &Lab) {
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let ended = async || Ok(lab.fleet.rebuild().record().contains(&"ns1 end 0".to_owned()).then_some(()));
    wait::until("the run ends", ended).await.unwrap();
}

#[tokio::test]
async fn one_interrupt_waits_for_what_is_in_flight() {
    let lab = lab().await;
    let mut deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    deploy.tells("building").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.tells("waiting for ns1").await.unwrap();
    finish(&lab).await;
    deploy.ended().await.unwrap().expect(0).told("1 host completed");
}

#[tokio::test]
async fn two_interrupts_leave_at_once_and_the_run_goes_on() {
    let lab = lab().await;
    let mut deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    deploy.tells("building").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.tells("A second interrupt leaves at once").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.ended().await.unwrap().expect(130).told("left in flight: its deployment continues");
    finish(&lab).await;
}

#[tokio::test]
async fn a_server_that_restarts_in_the_middle_of_a_run_loses_nothing() {
    let mut lab = lab().await;
    let mut deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    deploy.tells("building").await.unwrap();
    lab.server.stop();
    deploy.tells("connection lost").await.unwrap();
    lab.server.restart().await.unwrap();
    deploy.tells("reconnected").await.unwrap();
    finish(&lab).await;
    deploy.ended().await.unwrap().expect(0).told("1 host completed");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
}

#[tokio::test]
async fn a_run_that_ends_while_the_server_is_away_is_told_of_when_it_is_back() {
    let mut lab = lab().await;
    let mut deploy = operator::start(&lab, &["deploy", DNS]).unwrap();
    deploy.tells("building").await.unwrap();
    lab.server.stop();
    deploy.tells("connection lost").await.unwrap();
    finish(&lab).await;
    lab.server.restart().await.unwrap();
    deploy.ended().await.unwrap().expect(0).told("1 host completed");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
}

#[tokio::test]
async fn a_listener_that_is_killed_and_comes_back_still_tells_the_end() {
    let mut lab = lab().await;
    let mut deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    deploy.tells("building").await.unwrap();
    lab.fleet.kill(&host("ns1"));
    finish(&lab).await;
    lab.listen(&host("ns1"), &[]).await.unwrap();
    deploy.ended().await.unwrap().expect(0).told("1 host completed");
}

#[tokio::test]
async fn a_host_that_does_not_end_in_time_is_no_longer_waited_for() {
    let lab = lab().await;
    let ended = operator::run(&lab, &["deploy", NS1, "--timeout", "1"]).await.unwrap();
    assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
    ended.expect(1).told("timed out").told("it did not end within 1s");
    finish(&lab).await;
}

#[tokio::test]
async fn nobody_answers_in_the_name_of_another_host() {
    let lab = lab().await;
    lab.fleet.rebuild().on(&host("ns1"), &format!("{GATE}; {FAIL}")).unwrap();
    let mut witness = Deployer::connect(&lab).await.unwrap().overhear().await.unwrap();
    let forger = lab.server.connect(lab.key(&host("ns2")).unwrap()).await.unwrap();
    let mut deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    let (_, request) = witness.hear(NS1).await.unwrap();
    // The server lets a key publish below its own prefix only, whatever the subjects in request and response.
    let reply_to = request["reply_to"].as_str().unwrap().replace(".ns1.", ".ns2.");
    let said = end("ns2", "completed").to_string();
    forger.publish(reply_to, said.into()).await.unwrap();
    deploy.tells("ns2 answered for ns1; that does not count").await.unwrap();
    deploy.tells("building").await.unwrap();

    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    deploy.ended().await.unwrap().expect(1).told("1 host: 1 failed");
}

#[tokio::test]
async fn the_first_final_word_stands_and_repeating_it_is_no_harm() {
    let hosts = ["prod.ns1.dns", "prod.ns2.dns"];
    let lab = Lab::start_with(super::program(), &hosts, Permissions::Predecessor).await.unwrap();
    let mut ns1 = StandIn::connect(&lab, "ns1", NS1).await.unwrap();
    let mut ns2 = StandIn::connect(&lab, "ns2", "deploy.prod.ns2").await.unwrap();
    let mut deploy = operator::start(&lab, &["deploy", DNS, "--discover-window", "500ms"]).unwrap();
    for (stand_in, name) in [(&mut ns1, "ns1"), (&mut ns2, "ns2")] {
        let call = stand_in.roll_call().await.unwrap();
        let report = json!({ "hostname": name, "tier": "prod", "role": "dns", "deploy_subjects": [] });
        stand_in.answer(&call, &report).await.unwrap();
    }
    let request = ns2.request().await.unwrap();
    ns2.answer(&request, &end("ns2", "accepted")).await.unwrap();
    let failing = ns1.request().await.unwrap();
    for status in ["failed", "failed", "started", "completed"] {
        ns1.answer(&failing, &end("ns1", status)).await.unwrap();
    }
    deploy.tells("ns1 said 'completed' after its final word; it counts as failed").await.unwrap();
    for _ in 0..3 {
        ns2.answer(&request, &end("ns2", "completed")).await.unwrap();
    }
    let ended = deploy.ended().await.unwrap().expect(1).told("1 completed, 1 failed");
    ended.not_told("ns2 said").not_told("said 'failed'");
}

#[tokio::test]
async fn answers_that_cannot_be_read_change_nothing() {
    let lab = lab().await;
    let mut witness = Deployer::connect(&lab).await.unwrap().overhear().await.unwrap();
    let babbler = Deployer::connect_as(&lab, lab.key(&host("ns1")).unwrap()).await.unwrap();
    let deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    let (_, request) = witness.hear(NS1).await.unwrap();
    let reply_to = request["reply_to"].as_str().unwrap();
    for bytes in [&b""[..], b"{", b"\xff\xfe", br#"{"hostname":"ns1","status":"finished"}"#] {
        babbler.say_bytes(reply_to, bytes.to_vec()).await.unwrap();
    }
    finish(&lab).await;
    deploy.ended().await.unwrap().expect(0).told("1 host completed");
}
