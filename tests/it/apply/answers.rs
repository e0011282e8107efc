//! Tests responses that no real listener sends: old, forged, repeated and contradictory ones.

use homelab_deploy::protocol::RequestIds;
use serde_json::Value;
use uuid::Uuid;

use super::fake::{self, Fake, Said};
use super::stage::{self, apply, expect_recap, open, order, ran, recap, until};
use crate::host;
use crate::operator::Ended;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::{FAIL, GATE};

/// A wave with a fake host, then a wave with a real one.
const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets = "test.test1"
    [[wave]]
    targets = "prod.ns1"
"#;

/// Returns a lab whose first wave is a fake host with this answer, and whose second one is a real host that is held.
async fn lab_with(answer: impl FnMut(&Value) -> Vec<Said> + Send + 'static) -> (Lab, Fake) {
    let mut lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    order(&lab, &["ns1"], GATE);
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let fake = Fake::start(&lab, fake::modern("test", "test1", &lab), answer).await;
    (lab, fake)
}

/// Returns the responses of test1 to a request, in order.
fn course(statuses: &'static [&'static str]) -> impl FnMut(&Value) -> Vec<Said> + Send + 'static {
    move |request| statuses.iter().map(|status| fake::says(request, "test1", status)).collect()
}

#[tokio::test]
async fn listeners_of_the_predecessor_take_part() {
    let hosts = ["test.test1", "test.test2", "prod.ns1", "prod.ns2"];
    let mut lab = Lab::start_with(crate::program(), &hosts, Permissions::Predecessor).await.unwrap();
    lab.listen(&host("test2"), &[]).await.unwrap();
    lab.listen(&host("ns2"), &[]).await.unwrap();
    let old = |host: &'static str| {
        move |request: &Value| {
            ["accepted", "started", "completed"].map(|status| fake::says_bare(request, host, status)).into()
        }
    };
    let _fakes = [
        Fake::start(&lab, fake::bare("test", "test1"), old("test1")).await,
        Fake::start(&lab, fake::bare("prod", "ns1"), old("ns1")).await,
    ];
    let plan = "revision = 'main'\n[[wave]]\ntargets = ['test.test1', 'test.test2']\n\
                [[wave]]\ntargets = ['prod.ns1', 'prod.ns2']\nmax_parallel = 1\n";
    let ended = apply(&lab, plan).ended().await.unwrap().expect(0);
    expect_recap(&ended, "4 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test2", "ns2"]);
}

#[tokio::test]
async fn a_status_that_is_overtaken_by_the_final_one_is_no_failure() {
    let (lab, _fake) = lab_with(course(&["accepted", "completed", "started", "accepted"])).await;
    open(&lab, "ns1");
    let ended = apply(&lab, PLAN).ended().await.unwrap().expect(0);
    assert_eq!(recap(&ended).lines().count(), 1, "nothing to remark on: {}", ended.stderr);
}

#[tokio::test]
async fn the_first_final_answer_counts_and_another_one_is_told_of() {
    let (lab, _fake) = lab_with(course(&["completed", "completed", "failed"])).await;
    let mut rollout = apply(&lab, PLAN);
    rollout.tells("warning: test1 said 'failed' after its final word").await.unwrap();
    open(&lab, "ns1");
    let ended = rollout.ended().await.unwrap().expect(0);
    expect_recap(&ended, "2 hosts: 2 completed");
}

#[tokio::test]
async fn a_failure_is_not_taken_back() {
    let (lab, _fake) = lab_with(course(&["started", "failed", "completed"])).await;
    apply(&lab, PLAN).ended().await.unwrap().expect(1);
    assert!(ran(&lab).is_empty());
}

#[tokio::test]
async fn answers_that_are_no_answers_are_passed_over() {
    let garbage = |request: &Value| {
        let reply_to = request["reply_to"].as_str().unwrap().to_owned();
        let mut said = vec![
            (reply_to.clone(), Value::Null),
            (reply_to.clone(), serde_json::json!({ "hostname": "test1", "status": "fine" })),
            (reply_to, serde_json::json!(["completed"])),
        ];
        said.push(fake::says(request, "test1", "completed"));
        said
    };
    let (lab, _fake) = lab_with(garbage).await;
    open(&lab, "ns1");
    apply(&lab, PLAN).ended().await.unwrap().expect(0);
}

/// Returns what a host of the rollout can send to make another host look like `status`. It knows its own reply subject,
/// which names the rollout; the rest it has to guess.
fn forgeries(request: &Value, victim: &str, status: &str) -> Vec<Said> {
    let own = request["reply_to"].as_str().unwrap();
    let (rollout, own_id) = own.rsplit_once('.').unwrap();
    let rollout_id: Uuid = rollout.rsplit_once('.').unwrap().1.parse().unwrap();
    let secrets = [rollout_id, Uuid::nil(), own_id.parse().unwrap()];
    let guesses = secrets.map(|secret| RequestIds::new(secret).id(&host(victim), 1).to_string());
    let subjects = guesses.into_iter().chain([victim.to_owned(), rollout_id.to_string()]);
    let mut said: Vec<Said> =
        subjects.map(|guess| fake::says_at(&format!("{rollout}.{guess}"), victim, status)).collect();
    said.push(fake::says_at(own, victim, status));
    said.push(fake::says_at(rollout, victim, status));
    said
}

/// Runs a wave of a mole and its victim. The mole claims a false status of the victim, and then success for itself.
async fn betrayed(victim_does: &str, mole_says: &'static str) -> (Lab, Ended) {
    let mut lab = stage::empty(&["test.mole", "test.victim", "prod.ns1"]).await;
    order(&lab, &["victim"], &format!("{GATE}\n{victim_does}"));
    for name in ["victim", "ns1"] {
        lab.listen(&host(name), &[]).await.unwrap();
    }
    let answer = move |request: &Value| {
        let mut said = forgeries(request, "victim", mole_says);
        said.push(fake::says(request, "mole", "completed"));
        said
    };
    let _mole = Fake::start(&lab, fake::modern("test", "mole", &lab), answer).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = ['test.victim', 'test.mole']\n[[wave]]\ntargets = 'prod.ns1'\n";
    let mut rollout = apply(&lab, plan);
    rollout.tells("mole completed").await.unwrap();
    until(&lab, "victim start").await;
    open(&lab, "victim");
    let ended = rollout.ended().await.unwrap();
    (lab, ended.told("victim answered for mole; that does not count"))
}

#[tokio::test]
async fn a_host_that_failed_is_not_made_to_look_well_by_another() {
    let (lab, ended) = betrayed(FAIL, "completed").await;
    let ended = ended.expect(1);
    expect_recap(&ended, "victim failed build: attribute 'unboundd' missing");
    assert_eq!(ran(&lab), ["victim"]);
}

#[tokio::test]
async fn a_host_that_is_well_is_not_made_to_look_failed_by_another() {
    let (lab, ended) = betrayed("", "failed").await;
    let ended = ended.expect(0);
    expect_recap(&ended, "3 hosts: 3 completed");
    assert_eq!(ran(&lab), ["victim", "ns1"]);
}
