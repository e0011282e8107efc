//! Tests hosts that roll back unless they are confirmed, or when they are asked to. The test plays the operator.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::deployer::Deployer;
use crate::generations::{self, NEW, OLD, SWITCH};
use crate::host;
use crate::operator;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::GATE;
use crate::support::wait;

const NS1: &str = "deploy.prod.ns1";

/// Returns a lab with the host `ns1`, which listens, runs the system `old` as generation 41, and can switch to `new`.
async fn lab() -> Lab {
    let mut lab = Lab::start_with(super::program(), &["prod.ns1"], Permissions::Compatible).await.unwrap();
    generations::install(&lab, "ns1");
    lab.listen(&host("ns1"), &[]).await.unwrap();
    lab
}

/// Returns a request that has to be confirmed within this time.
fn request(deployer: &Deployer, seconds: u64) -> Value {
    let mut request = deployer.request("r-1");
    request["confirm_timeout_s"] = seconds.into();
    request
}

fn confirmation(request: &Value) -> Value {
    let mut request = request.clone();
    request["confirmed"] = true.into();
    request
}

/// Waits until the run waits for confirmation.
async fn waits(deployer: &mut Deployer) -> Value {
    loop {
        let answer = deployer.hear_status("started").await.unwrap();
        if answer["phase"] == "confirm" {
            return answer;
        }
    }
}

fn runs(lab: &Lab) -> String {
    generations::runs(lab, "ns1")
}

#[tokio::test]
async fn a_host_that_is_heard_from_and_confirmed_stays() {
    let mut lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let request = request(&deployer, 60);
    deployer.say(NS1, &request).await.unwrap();
    let waits = waits(&mut deployer).await;
    assert_eq!(waits["revision"], lab.flake.resolve("main").unwrap());
    // It sends that on a connection made after the activation.
    let log = lab.fleet.listener(&host("ns1")).unwrap().output();
    assert!(log.contains("connected again"), "{log}");

    deployer.say(NS1, &confirmation(&request)).await.unwrap();
    let answers = deployer.hear_out().await.unwrap();
    let [.., confirmed, end] = answers.as_slice() else { panic!("{answers:?}") };
    // A host that kept asking would be confirmed again and again.
    assert_eq!(confirmed["phase"], "verify");
    assert_eq!((&end["status"], &end["rolled_back"]), (&json!("completed"), &Value::Null), "{end}");
    assert_eq!((runs(&lab).as_str(), &end["generation"]), (NEW, &json!(42)));
}

#[tokio::test]
async fn a_host_that_nobody_confirms_returns_and_says_so() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &request(&deployer, 3)).await.unwrap();
    // The host asks for confirmation repeatedly.
    for _ in 0..2 {
        waits(&mut deployer).await;
    }
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["error"], &end["rolled_back"]), (&json!("not_confirmed"), &json!(true)), "{end}");
    assert_eq!((&end["system"], &end["generation"]), (&json!(OLD), &json!(43)));
    assert_eq!(runs(&lab), OLD);
}

#[tokio::test]
async fn a_listener_that_takes_over_asks_to_be_confirmed_as_well() {
    let mut lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let request = request(&deployer, 60);
    deployer.say(NS1, &request).await.unwrap();
    waits(&mut deployer).await;
    lab.fleet.kill(&host("ns1"));
    lab.listen(&host("ns1"), &[]).await.unwrap();
    waits(&mut deployer).await;
    deployer.say(NS1, &confirmation(&request)).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(runs(&lab), NEW);
}

#[tokio::test]
async fn a_host_returns_to_what_it_ran_before_its_last_run() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let back = |from: &str, id: &str| {
        let mut request = deployer.request(id);
        request["returns"] = from.into();
        request
    };
    let requests = [back("r-1", "back-0"), back("r-1", "back-1"), back("r-1", "back-2")];
    deployer.say(NS1, &requests[0]).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("rejected"), &json!("invalid_request")));

    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    deployer.say(NS1, &requests[1]).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["rolled_back"]), (&json!("completed"), &json!(true)), "{end}");
    assert_eq!((runs(&lab).as_str(), &end["system"]), (OLD, &json!(OLD)));
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);

    // The rollback was the host's last run.
    deployer.say(NS1, &requests[2]).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["error"], "invalid_request");
}

#[tokio::test]
async fn a_confirmation_of_what_nobody_asked_for_runs_nothing() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &confirmation(&request(&deployer, 60))).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("rejected"), &json!("invalid_request")));
    let quiet = async || Ok(lab.fleet.rebuild().record().is_empty().then_some(()));
    wait::until("nothing was run", quiet).await.unwrap();
}

#[tokio::test]
async fn the_operator_confirms_what_it_hears_from_and_what_it_leaves_alone_returns() {
    let lab = lab().await;
    let arguments = ["deploy", "--auto-rollback", "--confirm-timeout", "10s", NS1];
    operator::run(&lab, &arguments).await.unwrap().expect(0).told("1 host completed");
    assert_eq!(runs(&lab), NEW);

    lab.fleet.rebuild().on(&host("ns1"), &format!("{GATE}\n{SWITCH}")).unwrap();
    let link = lab.folder().join("hosts/ns1/root/run/current-system");
    fs::remove_file(&link).unwrap();
    symlink(OLD, &link).unwrap();
    let mut deploy = operator::start(&lab, &arguments).unwrap();
    deploy.tells("building").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.tells("A second interrupt leaves at once").await.unwrap();
    deploy.interrupt().unwrap();
    deploy.ended().await.unwrap().expect(130);
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let returned = async || {
        Ok(fs::read_to_string(lab.folder().join("hosts/ns1/log")).unwrap().contains("not_confirmed").then_some(()))
    };
    wait::until("the host gives up", returned).await.unwrap();
    assert_eq!(runs(&lab), OLD);
}
