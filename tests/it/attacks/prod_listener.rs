//! Tests what an attacker can do with the key of a prod host.

use serde_json::{Value, json};

use super::{Attacker, lab, token};
use crate::apply::fake::{self, says, says_at};
use crate::apply::stage::{self, expect_recap, open, order, ran_sorted, until};
use crate::apply::wiretap::Wiretap;
use crate::host;
use crate::operator;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};

const HOSTS: [&str; 3] = ["prod.mole.dns", "prod.ns1.dns", "prod.ns2.dns"];

/// Starts a mole that looks like the other hosts of the group.
async fn honest_looking_mole(lab: &Lab) -> super::attacker::Serving {
    let mut report = fake::modern("prod", "mole", lab);
    report["role"] = json!("dns");
    report["deploy_subjects"] = json!(["deploy.prod.mole", "deploy.prod.all", "deploy.prod.role.dns"]);
    let attacker = Attacker::connect(lab, lab.key(&host("mole")).unwrap()).await;
    let answer = move |subject: &str, message: &Value| {
        if message["reply_to"].is_null() {
            return Vec::new();
        }
        if subject.starts_with("deploy.discover") {
            return vec![(format!("deploy.responses.prod.mole.{}", token(message)), report.clone())];
        }
        let mut said = vec![says(message, "mole", "completed")];
        // On its own subject, in the name of the others.
        said.extend(["ns1", "ns2"].map(|name| says(message, name, "completed")));
        said
    };
    let subjects =
        ["deploy.discover", "deploy.discover.prod", "deploy.prod.mole", "deploy.prod.all", "deploy.prod.role.dns"];
    attacker.serve(&subjects, answer).await
}

/// Claims that each of the others completed, on every subject that their requests hint at.
async fn forge(lab: &Lab, requests: &[(String, Value)]) {
    let mut attacker = Attacker::connect(lab, lab.key(&host("mole")).unwrap()).await;
    for (_, request) in requests {
        let reply_to = request["reply_to"].as_str().unwrap();
        let parts: Vec<&str> = reply_to.split('.').collect();
        let [.., rollout, last] = parts.as_slice() else { panic!("{reply_to}") };
        for name in ["ns1", "ns2", "mole"] {
            for place in [
                reply_to.to_owned(),
                format!("deploy.responses.prod.{name}.{rollout}.{last}"),
                format!("deploy.responses.prod.mole.{rollout}.{last}"),
                format!("deploy.responses.{rollout}.{last}"),
                format!("deploy.responses.{last}"),
            ] {
                let (subject, mut said) = says_at(&place, name, "completed");
                attacker.say(&subject, &said).await;
                said["id"] = request["id"].clone();
                attacker.say(&subject, &said).await;
            }
        }
    }
    attacker.refusals().await;
}

/// Deploys to a group in which ns2 fails, while the mole says that it completed.
async fn deploy_to(target: &str) {
    let lab = lab(&HOSTS, &["ns1", "ns2"]).await;
    order(&lab, &["ns1"], GATE);
    order(&lab, &["ns2"], &format!("{GATE}; {FAIL}"));
    let _mole = honest_looking_mole(&lab).await;
    let mut tap = Wiretap::begin(&lab).await;
    let deploy = operator::start(&lab, &["deploy", target]).unwrap();
    until(&lab, "ns1 start").await;
    until(&lab, "ns2 start").await;
    forge(&lab, &tap.requests_in_full().await).await;
    for name in ["ns1", "ns2"] {
        open(&lab, name);
    }
    deploy.ended().await.unwrap().expect(1).told("ns2 failed").told("2 completed, 1 failed");
}

#[tokio::test]
async fn it_does_not_answer_for_another_host_of_its_role() {
    deploy_to("deploy.prod.role.dns").await;
}

#[tokio::test]
async fn it_does_not_answer_for_another_host_of_its_tier() {
    deploy_to("deploy.prod.all").await;
}

#[tokio::test]
async fn it_does_not_make_a_wave_pass_in_which_another_host_fails() {
    let lab = lab(&HOSTS, &["ns1", "ns2"]).await;
    order(&lab, &["ns2"], &format!("{GATE}; {FAIL}"));
    let _mole = honest_looking_mole(&lab).await;
    let plan = format!(
        "revision = 'main'\nflake = '{}'\n[[wave]]\ntargets = ['prod.mole', 'prod.ns2']\n[[wave]]\ntargets = 'prod.ns1'\n",
        lab.flake.url()
    );
    let mut tap = Wiretap::begin(&lab).await;
    let rollout = stage::apply(&lab, &plan);
    until(&lab, "ns2 start").await;
    forge(&lab, &tap.requests_in_full().await).await;
    open(&lab, "ns2");
    let ended = rollout.ended().await.unwrap().expect(1);
    expect_recap(&ended, "ns2 failed build: attribute 'unboundd' missing");
    assert_eq!(ran_sorted(&lab), ["ns2"]);
}
