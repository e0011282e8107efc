//! Tests false claims that a rollout runs, and texts with control sequences for terminals.

use serde_json::{Value, json};

use super::attacker::Serving;
use super::{Attacker, assert_harmless, lab, plan, token};
use crate::apply::fake::{self, Said};
use crate::apply::stage::{self, ran};
use crate::host;
use crate::operator;
use crate::support::keys::Key;
use crate::support::lab::Lab;

const HOSTS: [&str; 3] = ["test.test1", "test.mole", "prod.db"];

/// A text that moves the cursor, sets the window title, hides text and reverses it.
const NASTY: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\u{200b}nasty\r\n\u{8}";

/// Returns the claim that a rollout runs, on every subject on which an answer to a roll call may be expected.
fn rolling_out(question: &Value) -> Vec<Said> {
    let token = token(question);
    let report = json!({ "rollout": {
        "id": "11111111-1111-4111-8111-111111111111", "name": NASTY, "operator": NASTY, "tiers": ["test", "prod"],
        "wave": 1, "waves": 2, "since": "2026-11-23T10:00:00Z",
    } });
    let subjects = [
        format!("deploy.operators.prod.{token}"),
        format!("deploy.operators.test.{token}"),
        format!("deploy.responses.test.mole.{token}"),
        format!("deploy.responses.{token}"),
    ];
    subjects.map(|subject| (subject, report.clone())).into()
}

/// Claims with this key that a rollout runs, whenever a roll call arrives.
async fn claims(lab: &Lab, key: &Key) -> Serving {
    let attacker = Attacker::connect(lab, key).await;
    let answer = |_: &str, question: &Value| match question["reply_to"] {
        Value::String(_) => rolling_out(question),
        _ => Vec::new(),
    };
    attacker.serve(&["deploy.discover", "deploy.discover.test", "deploy.discover.prod"], answer).await
}

#[tokio::test]
async fn a_test_key_blocks_no_rollout_on_prod() {
    let lab = lab(&HOSTS, &["test1", "db"]).await;
    let _deployer = claims(&lab, &lab.test_deployer).await;
    let _mole = claims(&lab, lab.key(&host("mole")).unwrap()).await;
    stage::apply(&lab, &plan(&lab, "main", "prod.all")).ended().await.unwrap().expect(0);
    operator::run(&lab, &["deploy", "deploy.prod.db"]).await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["db", "db"]);
}

#[tokio::test]
async fn a_claim_on_the_test_tier_is_believed_shown_harmless_and_got_past() {
    let lab = lab(&HOSTS, &["test1", "db"]).await;
    let _deployer = claims(&lab, &lab.test_deployer).await;
    let refused = stage::apply(&lab, &plan(&lab, "main", "test.test1")).ended().await.unwrap().expect(3);
    assert_harmless(&refused);
    refused.told("nasty is rolling out").told("--force");
    let mut command = stage::command(&lab, "apply", &plan(&lab, "main", "test.test1"));
    command.args(["--yes", "--force"]);
    let forced = stage::start(command).ended().await.unwrap().expect(0);
    assert_harmless(&forced);
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn a_test_host_blocks_nobody() {
    let lab = lab(&HOSTS, &["test1", "db"]).await;
    let _mole = claims(&lab, lab.key(&host("mole")).unwrap()).await;
    for targets in ["test.test1", "prod.db"] {
        stage::apply(&lab, &plan(&lab, "main", targets)).ended().await.unwrap().expect(0);
    }
    assert_eq!(ran(&lab), ["test1", "db"]);
}

#[tokio::test]
async fn what_a_host_says_of_itself_reaches_no_terminal_unclean() {
    let lab = lab(&HOSTS, &["db"]).await;
    let mut report = fake::modern("test", "mole", &lab);
    report["version"] = json!(NASTY);
    report["features"] = json!(["id", NASTY]);
    report["machine"] = json!(NASTY);
    report["system"] = json!(NASTY);
    report["busy"] = json!({ "id": "r", "operator": NASTY, "since": "2026-11-23T10:00:00Z" });
    report["last"] = json!({ "id": "r", "status": "failed", "error": NASTY, "at": "2026-11-23T10:00:00Z" });
    report["problems"] = json!([{ "code": NASTY, "message": NASTY }]);
    let attacker = Attacker::connect(&lab, lab.key(&host("mole")).unwrap()).await;
    let answer = move |subject: &str, message: &Value| {
        let Value::String(reply_to) = &message["reply_to"] else { return Vec::new() };
        if subject.starts_with("deploy.discover") {
            return vec![(format!("deploy.responses.test.mole.{}", token(message)), report.clone())];
        }
        let said = json!({
            "hostname": "mole", "status": "failed", "error": NASTY, "message": NASTY, "id": message["id"],
            "log_tail": [NASTY, NASTY], "failed_units": [NASTY], "system": NASTY,
            "holder": { "id": "r", "operator": NASTY, "since": "2026-11-23T10:00:00Z" },
        });
        let mut as_somebody_else = said.clone();
        as_somebody_else["hostname"] = json!("db");
        vec![(reply_to.clone(), as_somebody_else), (reply_to.clone(), said)]
    };
    let subjects = ["deploy.discover", "deploy.discover.test", "deploy.test.mole", "deploy.test.all"];
    let _mole = attacker.serve(&subjects, answer).await;

    assert_harmless(&operator::run(&lab, &["hosts"]).await.unwrap().expect(0));
    let plan = plan(&lab, "main", "test.mole");
    assert_harmless(&stage::start(stage::command(&lab, "plan", &plan)).ended().await.unwrap());
    assert_harmless(&stage::apply(&lab, &plan).ended().await.unwrap().expect(1).told("nasty"));
    assert_harmless(&operator::run(&lab, &["deploy", "deploy.test.mole"]).await.unwrap().expect(1).told("nasty"));
    assert_harmless(&operator::run(&lab, &["status"]).await.unwrap());
    assert_harmless(&operator::run(&lab, &["rollouts"]).await.unwrap());
}
