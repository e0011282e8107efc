//! Tests what an attacker can do with the key of a test deployer, such as an assistant's.

use futures_util::{FutureExt, StreamExt};
use homelab_deploy::protocol::Tier;
use serde_json::{Value, json};
use tokio::task::unconstrained;

use super::{Attacker, lab, until_answering};
use crate::apply::stage::{open, order, ran};
use crate::apply::wiretap::Wiretap;
use crate::deployer::Deployer;
use crate::host;
use crate::operator;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

#[tokio::test]
async fn it_hears_nothing_that_prod_hosts_say() {
    let lab = lab(&["prod.db", "test.test1"], &["db"]).await;
    let mut attacker = Attacker::connect(&lab, &lab.test_deployer).await;
    let mut subscriptions = Vec::new();
    for subject in [
        ">",
        "deploy.>",
        "deploy.prod.>",
        "deploy.responses.>",
        "deploy.responses.*",
        "deploy.responses.*.*.*.*",
        "deploy.responses.prod.>",
        "deploy.responses.*.db.>",
        "deploy.responses.test.>",
        "deploy.operators.>",
        "deploy.discover.>",
        "_INBOX.>",
    ] {
        subscriptions.push(attacker.hear(subject).await);
    }
    let mut questions = attacker.hear("deploy.discover").await;
    attacker.refusals().await;
    for command in [&["deploy", "deploy.prod.db"][..], &["deploy", "deploy.prod.all"], &["hosts"]] {
        operator::run(&lab, command).await.unwrap().expect(0);
    }
    // The key receives what it may. By the end of this, everything else that it could receive has arrived.
    let admin = Deployer::connect(&lab).await.unwrap();
    admin.say_bytes("deploy.discover", b"end".to_vec()).await.unwrap();
    let end = async { while questions.next().await.unwrap().payload != "end" {} };
    wait::event("the end is heard", end).await.unwrap();
    for subscription in &mut subscriptions {
        while let Some(message) = unconstrained(subscription.next()).now_or_never().flatten() {
            let subject = message.subject.as_str();
            assert!(subject == "deploy.discover" || subject == "deploy.discover.test", "{subject}");
        }
    }
}

/// A test host responds on any subject that it is asked to. That changes nothing for a prod host of the same name.
#[tokio::test]
async fn it_makes_no_test_host_answer_for_a_prod_host() {
    let lab = lab(&["prod.ns1", "test.ns1"], &["ns1"]).await;
    order(&lab, &["ns1"], &format!("{GATE}; {FAIL}"));
    let name = "test.ns1".parse().unwrap();
    let mut twins = lab.another_fleet("test-hosts").unwrap();
    twins.start(&name, lab.key_in(Tier::Test, &host("ns1")).unwrap(), &[]).unwrap();
    until_answering(&lab, 2).await;

    let mut witness = Deployer::connect(&lab).await.unwrap().overhear().await.unwrap();
    let mut deploy = operator::start(&lab, &["deploy", "deploy.prod.ns1"]).unwrap();
    let (_, request) = witness.hear("deploy.prod.ns1").await.unwrap();
    deploy.tells("building").await.unwrap();
    let mut attacker = Attacker::connect(&lab, &lab.test_deployer).await;
    let reply_to = request["reply_to"].as_str().unwrap();
    let parts: Vec<&str> = reply_to.split('.').collect();
    let [.., rollout, last] = parts.as_slice() else { panic!("{reply_to}") };
    let places = [
        reply_to.to_owned(),
        format!("deploy.responses.{last}"),
        format!("deploy.responses.{rollout}.{last}"),
        format!("deploy.responses.prod.ns1.{rollout}"),
        "deploy.prod.ns1".to_owned(),
        "deploy.discover".to_owned(),
    ];
    for (index, place) in places.iter().enumerate() {
        let mut copy = request.clone();
        copy["reply_to"] = json!(place);
        attacker.say("deploy.test.ns1", &copy).await;
        copy["id"] = json!(format!("r-{index}"));
        attacker.say("deploy.test.ns1", &copy).await;
    }
    attacker.refusals().await;
    // Once the test host has answered one more request, it has processed the others.
    let honest = Deployer::connect(&lab).await.unwrap();
    let own = format!("deploy.responses.test.ns1.{}.end", uuid::Uuid::new_v4());
    let mut answers = crate::deployer::subscribe(&lab.server.connect(&lab.admin).await.unwrap(), &own).await.unwrap();
    let mut last_request = honest.request("r-end");
    last_request["reply_to"] = json!(own);
    honest.say("deploy.test.ns1", &last_request).await.unwrap();
    wait::event("the test host answers", answers.next()).await.unwrap().unwrap();

    open(&lab, "ns1");
    deploy.ended().await.unwrap().expect(1).told("attribute 'unboundd' missing");
    assert_eq!(ran(&lab), ["ns1"]);
}

#[tokio::test]
async fn it_says_nothing_to_prod_hosts() {
    let lab = lab(&["prod.db", "test.test1"], &["db", "test1"]).await;
    let mut attacker = Attacker::connect(&lab, &lab.test_deployer).await;
    let mut tap = Wiretap::begin(&lab).await;
    let forbidden = [
        "deploy.prod.db",
        "deploy.prod.all",
        "deploy.discover.prod",
        "deploy.operators.prod.x",
        "deploy.responses.x",
        "deploy.responses.prod.db.r.q",
        "deploy.responses.test.test1.r.q",
    ];
    let request = json!({ "action": "switch", "revision": "main", "reply_to": "deploy.responses.test.test1.r.q" });
    for subject in forbidden {
        attacker.say(subject, &request).await;
    }
    assert_eq!(attacker.refusals().await, forbidden.len());
    // A test host does not pass it on either.
    let passed_on =
        |reply_to: &str| -> Value { json!({ "action": "switch", "revision": "main", "reply_to": reply_to }) };
    for reply_to in
        ["deploy.prod.db", "deploy.discover.prod", "deploy.operators.prod.x", "deploy.responses.prod.db.r.q"]
    {
        attacker.say("deploy.test.test1", &passed_on(reply_to)).await;
    }
    attacker.refusals().await;
    operator::run(&lab, &["deploy", "deploy.test.test1"]).await.unwrap().expect(0);
    let heard = tap.heard().await;
    let prod: Vec<_> = heard.iter().filter(|subject| subject.contains("prod")).collect();
    // The operator's own roll call reaches prod and is answered. Nothing else does.
    let is_roll_call = |subject: &str| {
        let answer = subject.strip_prefix("deploy.responses.prod.db.");
        subject == "deploy.discover.prod" || answer.is_some_and(|rest| !rest.contains('.'))
    };
    assert!(prod.iter().all(|subject| is_roll_call(subject)), "{prod:?}");
    assert!(!ran(&lab).contains(&"db".to_owned()));
}
