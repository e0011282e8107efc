//! Tests that programs with only the original messages work with this one, in both directions.

use serde_json::{Value, json};

use crate::deployer::{Deployer, statuses};
use crate::host;
use crate::operator::{self, Running};
use crate::stand_in::StandIn;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;

const NS1: &str = "deploy.prod.ns1";
const DNS: &str = "deploy.prod.role.dns";

/// Returns a lab whose hosts do not listen.
async fn lab() -> Lab {
    Lab::start_with(super::program(), &["prod.ns1.dns", "prod.ns2.dns"], Permissions::Predecessor).await.unwrap()
}

/// Returns a response in the form of the predecessor.
fn response(hostname: &str, status: &str) -> Value {
    json!({ "hostname": hostname, "status": status, "error": null, "message": "" })
}

/// Returns the answer of a predecessor's listener to a roll call.
fn presence(hostname: &str) -> Value {
    let own = format!("deploy.prod.{hostname}");
    json!({ "hostname": hostname, "tier": "prod", "role": "dns", "deploy_subjects": [own, "deploy.prod.all", DNS] })
}

#[tokio::test]
async fn a_deployer_without_ids_is_served_by_the_subject_of_its_request() {
    let mut lab = lab().await;
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.bare_request()).await.unwrap();
    let answers = deployer.hear_out().await.unwrap();
    assert_eq!(statuses(&answers), ["accepted", "started", "completed"]);
    for answer in answers {
        let fields = answer.as_object().unwrap();
        assert!(["hostname", "status", "error", "message"].iter().all(|field| fields.contains_key(*field)), "{answer}");
        assert!(!fields.contains_key("id"), "{answer}");
    }

    // The reply subject distinguishes this request from an identical one.
    deployer.say(NS1, &deployer.bare_request()).await.unwrap();
    assert_eq!(deployer.hear().await.unwrap()["status"], "completed");
    let mut another = Deployer::connect(&lab).await.unwrap();
    another.say(NS1, &another.bare_request()).await.unwrap();
    assert_eq!(another.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 2);
}

/// Does what the predecessor documents for a test deployer, with its permissions and with the compatible ones.
#[tokio::test]
async fn a_test_deployer_of_the_predecessor_works_under_compatible_permissions() {
    for permissions in [Permissions::Predecessor, Permissions::Compatible] {
        let mut lab = Lab::start_with(super::program(), &["test.test1"], permissions).await.unwrap();
        lab.listen_all().await.unwrap();
        let mut deployer = Deployer::connect_as(&lab, &lab.test_deployer).await.unwrap();
        deployer.say("deploy.discover", &json!({ "reply_to": deployer.reply_to() })).await.unwrap();
        let report = deployer.hear().await.unwrap();
        assert_eq!((&report["hostname"], &report["tier"]), (&json!("test1"), &json!("test")));
        deployer.say("deploy.test.test1", &deployer.bare_request()).await.unwrap();
        assert_eq!(
            statuses(&deployer.hear_out().await.unwrap()),
            ["accepted", "started", "completed"],
            "{permissions:?}"
        );
    }
}

/// A predecessor's listener responds on the request's reply subject, with its permissions and with the compatible ones.
#[tokio::test]
async fn a_listener_of_the_predecessor_answers_under_compatible_permissions() {
    for permissions in [Permissions::Predecessor, Permissions::Compatible] {
        let lab = Lab::start_with(super::program(), &["prod.ns1.dns"], permissions).await.unwrap();
        let mut ns1 = StandIn::connect(&lab, "ns1", NS1).await.unwrap();
        let deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
        let call = ns1.roll_call().await.unwrap();
        ns1.answer(&call, &presence("ns1")).await.unwrap();
        let request = ns1.request().await.unwrap();
        for status in ["accepted", "started", "completed"] {
            ns1.answer(&request, &response("ns1", status)).await.unwrap();
        }
        deploy.ended().await.unwrap().expect(0).told("1 host completed");
    }
}

#[tokio::test]
async fn a_listener_without_ids_understands_the_request_and_is_judged_by_its_final_word() {
    let lab = lab().await;
    let mut ns1 = StandIn::connect(&lab, "ns1", NS1).await.unwrap();
    for (last, error, code) in [("completed", Value::Null, 0), ("failed", json!("build_failed"), 1)] {
        // Without a flake, as the predecessor's operators deploy: the host resolves the branch.
        let mut command = lab.operator(&lab.admin).unwrap();
        command.env_remove("HOMELAB_DEPLOY_FLAKE").args(["deploy", NS1, "--branch", "main", "--action", "boot"]);
        let deploy = Running::start(&mut command).unwrap();
        let request = ns1.request().await.unwrap();
        assert_eq!((&request["action"], &request["revision"]), (&json!("boot"), &json!("main")));
        for status in ["accepted", "started"] {
            ns1.answer(&request, &response("ns1", status)).await.unwrap();
        }
        let end = json!({ "hostname": "ns1", "status": last, "error": error, "message": "and that is why" });
        ns1.answer(&request, &end).await.unwrap();
        deploy.ended().await.unwrap().expect(code).told("and that is why");
    }
}

#[tokio::test]
async fn a_started_beside_a_completed_is_no_failure() {
    let lab = lab().await;
    let mut stand_ins = [
        ("ns1", StandIn::connect(&lab, "ns1", NS1).await.unwrap(), ["accepted", "completed", "started"]),
        ("ns2", StandIn::connect(&lab, "ns2", "deploy.prod.ns2").await.unwrap(), ["started", "accepted", "completed"]),
    ];
    let deploy = operator::start(&lab, &["deploy", DNS, "--discover-window", "500ms"]).unwrap();
    for (name, stand_in, _) in &mut stand_ins {
        let call = stand_in.roll_call().await.unwrap();
        stand_in.answer(&call, &presence(name)).await.unwrap();
    }
    for (name, stand_in, statuses) in &mut stand_ins {
        let request = stand_in.request().await.unwrap();
        for status in statuses {
            stand_in.answer(&request, &response(name, status)).await.unwrap();
        }
    }
    deploy.ended().await.unwrap().expect(0).told("2 hosts completed");
}

#[tokio::test]
async fn listeners_that_share_one_subject_are_sent_one_request() {
    let lab = lab().await;
    let shared = "deploy.prod.web.all";
    let mut ns1 = StandIn::connect(&lab, "ns1", DNS).await.unwrap();
    let ns2 = StandIn::connect(&lab, "ns2", DNS).await.unwrap();
    let mut witness = Deployer::connect(&lab).await.unwrap().overhear().await.unwrap();
    let deploy = operator::start(&lab, &["deploy", shared, "--discover-window", "500ms"]).unwrap();
    let call = ns1.roll_call().await.unwrap();
    for (stand_in, name) in [(&ns1, "ns1"), (&ns2, "ns2")] {
        let report = json!({ "hostname": name, "tier": "prod", "role": "", "deploy_subjects": [shared] });
        stand_in.answer(&call, &report).await.unwrap();
    }
    let (_, request) = witness.hear(shared).await.unwrap();
    assert_eq!(request["per_host"], true);
    for (stand_in, name) in [(&ns1, "ns1"), (&ns2, "ns2")] {
        for status in ["accepted", "started", "completed"] {
            stand_in.answer(&request, &response(name, status)).await.unwrap();
        }
    }
    deploy.ended().await.unwrap().expect(0).told("2 hosts completed");
}

#[tokio::test]
async fn codes_that_nobody_knows_are_shown_as_they_are() {
    let lab = lab().await;
    let mut ns1 = StandIn::connect(&lab, "ns1", NS1).await.unwrap();
    let deploy = operator::start(&lab, &["deploy", NS1]).unwrap();
    let request = ns1.request().await.unwrap();
    let end =
        json!({ "hostname": "ns1", "status": "rejected", "error": "moon_phase", "message": "not today", "new": 7 });
    ns1.answer(&request, &end).await.unwrap();
    deploy.ended().await.unwrap().expect(1).told("moon_phase: not today");
}

#[tokio::test]
async fn a_host_that_says_only_where_it_listens_is_listed() {
    let lab = lab().await;
    let mut ns1 = StandIn::connect(&lab, "ns1", NS1).await.unwrap();
    let hosts = operator::start(&lab, &["hosts", "--discover-window", "500ms"]).unwrap();
    let call = ns1.roll_call().await.unwrap();
    ns1.answer(&call, &presence("ns1")).await.unwrap();
    let listed = hosts.ended().await.unwrap().expect(0).stdout;
    assert!(listed.lines().nth(1).unwrap().starts_with("ns1   prod  dns"), "{listed}");
}
