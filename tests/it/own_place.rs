//! Tests below which prefix a listener answers, whom it answers, and what it finds out about its permissions.

use std::fs;
use std::path::PathBuf;

use async_nats::{Client, Subscriber};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::deployer::{is_final, message, next, subscribe};
use crate::host;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::GATE;
use crate::support::wait;

const NS1: &str = "deploy.prod.ns1";

/// Returns a lab with two hosts, of which `ns1` listens, and an admin who receives every message.
async fn lab(permissions: Permissions) -> (Lab, Admin) {
    let hosts = ["prod.ns1.dns", "prod.ns2.dns"];
    let mut lab = Lab::start_with(super::program(), &hosts, permissions).await.unwrap();
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let admin = Admin::connect(&lab).await;
    (lab, admin)
}

/// An admin who publishes anything, and receives everything below `deploy.`.
struct Admin {
    client: Client,
    heard: Subscriber,
}

impl Admin {
    async fn connect(lab: &Lab) -> Self {
        let client = lab.server.connect(&lab.admin).await.unwrap();
        let heard = subscribe(&client, "deploy.>").await.unwrap();
        Self { client, heard }
    }

    async fn say(&self, subject: &str, message: &Value) {
        self.say_bytes(subject, message.to_string().as_bytes()).await;
    }

    async fn say_bytes(&self, subject: &str, message: &[u8]) {
        self.client.publish(subject.to_owned(), message.to_vec().into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Returns the next message below `deploy.responses.`, and its subject. Skips empty messages, which only probe.
    async fn hear(&mut self) -> (String, Value) {
        loop {
            let heard = next(&mut self.heard).await.unwrap();
            if heard.subject.starts_with("deploy.responses.") && !heard.payload.is_empty() {
                return (heard.subject.to_string(), message(&heard).unwrap());
            }
        }
    }

    /// Returns the next final response, and the subjects of all responses up to it.
    async fn hear_out(&mut self) -> (Vec<String>, Value) {
        let mut subjects = Vec::new();
        loop {
            let (subject, answer) = self.hear().await;
            subjects.push(subject);
            if is_final(&answer) {
                subjects.dedup();
                return (subjects, answer);
            }
        }
    }

    /// Calls the roll on these subjects, and returns the first answer and its subject.
    async fn call(&mut self, subjects: &[&str], question: &Value) -> (String, Value) {
        for subject in subjects {
            self.say(subject, question).await;
        }
        self.hear().await
    }

    /// Returns the report of `ns1`.
    async fn report(&mut self) -> Value {
        let token = Uuid::new_v4().to_string();
        let question = json!({ "reply_to": format!("deploy.responses.{token}"), "per_host": true });
        let (subject, report) = self.call(&["deploy.discover"], &question).await;
        assert_eq!(subject, format!("deploy.responses.prod.ns1.{token}"));
        report
    }
}

fn request(id: &str, reply_to: &str) -> Value {
    json!({ "action": "switch", "revision": "main", "id": id, "reply_to": format!("deploy.responses.{reply_to}") })
}

/// Returns the codes of the problems in a report.
fn problems(report: &Value) -> Vec<&str> {
    let problems = report["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    problems.iter().map(|problem| problem["code"].as_str().unwrap()).collect()
}

fn log(lab: &mut Lab) -> String {
    lab.fleet.listener(&host("ns1")).unwrap().output()
}

async fn logged(lab: &mut Lab, text: &str) {
    wait::until("the listener logs it", async || Ok(log(lab).contains(text).then_some(()))).await.unwrap();
}

#[tokio::test]
async fn a_host_answers_in_its_own_place_and_in_that_of_no_other() {
    for permissions in [Permissions::Strict, Permissions::Compatible, Permissions::Predecessor] {
        let (mut lab, mut admin) = lab(permissions).await;
        for foreign in ["prod.ns2.4f.r", "test.ns1.4f.r", "prod.ns1", "4f.r", "prod.all.4f.r"] {
            admin.say(NS1, &request("foreign", foreign)).await;
            admin
                .say(NS1, &json!({ "action": "reboot", "id": "x", "reply_to": format!("deploy.responses.{foreign}") }))
                .await;
            let reply_to = format!("deploy.responses.{foreign}");
            admin.say("deploy.discover", &json!({ "reply_to": reply_to })).await;
            admin.say("deploy.discover", &json!({ "reply_to": reply_to, "per_host": true })).await;
        }
        admin.say(NS1, &request("r-1", "prod.ns1.4f.r-1")).await;
        let (subjects, end) = admin.hear_out().await;
        assert_eq!(subjects, ["deploy.responses.prod.ns1.4f.r-1"], "{permissions:?}");
        assert_eq!((&end["id"], &end["status"]), (&json!("r-1"), &json!("completed")));
        assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
        // An attempt that the server refuses would be no better.
        let log = log(&mut lab);
        assert!(!log.contains("may not publish"), "{permissions:?}: {log}");
        assert!(log.contains("this host may not answer"), "{log}");
    }
}

#[tokio::test]
async fn a_request_that_could_not_be_answered_is_not_run() {
    let (mut lab, mut admin) = lab(Permissions::Strict).await;
    admin.say(NS1, &request("old", "4f")).await;
    admin.say("deploy.discover", &json!({ "reply_to": "deploy.responses.4f" })).await;
    logged(&mut lab, "permissions are strict, and this deployer is older").await;
    admin.say(NS1, &request("new", "prod.ns1.4f.new")).await;
    assert_eq!(admin.hear_out().await.1["id"], "new");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
    let log = log(&mut lab);
    assert!(!log.contains("may not publish") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn each_host_that_hears_a_request_answers_in_its_own_place() {
    let (mut lab, mut admin) = lab(Permissions::Strict).await;
    lab.listen(&host("ns2"), &[]).await.unwrap();
    let mut shared = request("r-1", "4f");
    shared["per_host"] = true.into();
    admin.say("deploy.prod.role.dns", &shared).await;
    let mut ends = Vec::new();
    while ends.len() < 2 {
        let (subject, answer) = admin.hear().await;
        let name = answer["hostname"].as_str().unwrap_or_default().to_owned();
        // `ns1` also answers the roll call for ns2.
        if answer["status"].is_string() {
            assert_eq!(subject, format!("deploy.responses.prod.{name}.4f.r-1"));
        }
        if is_final(&answer) {
            ends.push(name);
        }
    }
    ends.sort();
    assert_eq!(ends, ["ns1", "ns2"]);
    let mut bad = shared.clone();
    (bad["id"], bad["action"]) = ("r-2".into(), "reboot".into());
    admin.say(NS1, &bad).await;
    let (subjects, end) = admin.hear_out().await;
    assert_eq!((subjects[0].as_str(), &end["error"]), ("deploy.responses.prod.ns1.4f.r-2", &json!("invalid_action")));
}

#[tokio::test]
async fn a_question_is_answered_once_wherever_it_is_heard() {
    let (mut lab, mut admin) = lab(Permissions::Strict).await;
    let both = ["deploy.discover", "deploy.discover.prod"];
    for subjects in [&both[..], &both[1..]] {
        let token = Uuid::new_v4().to_string();
        let question = json!({ "reply_to": format!("deploy.responses.{token}"), "per_host": true });
        let (subject, report) = admin.call(subjects, &question).await;
        assert_eq!(subject, format!("deploy.responses.prod.ns1.{token}"));
        assert_eq!(report["hostname"], "ns1");
    }
    // The next message is not a second answer.
    admin.say(NS1, &request("r-1", "prod.ns1.4f.r-1")).await;
    assert_eq!(admin.hear().await.1["status"], "accepted");
    assert!(!log(&mut lab).contains("may not"));
}

#[tokio::test]
async fn a_listener_tells_what_the_server_lets_it_do() {
    for (permissions, too_wide) in
        [(Permissions::Strict, false), (Permissions::Compatible, false), (Permissions::Predecessor, true)]
    {
        let (mut lab, mut admin) = lab(permissions).await;
        let report = admin.report().await;
        assert_eq!(problems(&report).contains(&"permissions_too_wide"), too_wide, "{permissions:?}: {report}");
        assert!(
            !problems(&report).contains(&"may_not_answer") && !problems(&report).contains(&"cannot_hear"),
            "{report}"
        );
        // The predecessor's permissions refuse the question of one tier, which the log need not mention.
        let log = log(&mut lab);
        assert!(!log.contains("deploy.discover.prod"), "{permissions:?}: {log}");
    }
}

#[tokio::test]
async fn a_subject_that_the_server_does_not_let_a_host_hear_is_a_problem_until_it_does() {
    let mut lab = Lab::start_with(super::program(), &["prod.ns1"], Permissions::Strict).await.unwrap();
    let subjects = ["--deploy-subject", "deploy.prod.<hostname>,deploy.prod.role.media"];
    lab.listen(&host("ns1"), &subjects).await.unwrap();
    let mut admin = Admin::connect(&lab).await;
    let report = admin.report().await;
    assert!(problems(&report).contains(&"cannot_hear"), "{report}");
    assert!(report["problems"].to_string().contains("deploy.prod.role.media"), "{report}");
    lab.listen(&host("ns1"), &[]).await.unwrap();
    assert!(!problems(&Admin::connect(&lab).await.report().await).contains(&"cannot_hear"));
}

#[tokio::test]
async fn a_run_from_before_an_update_of_the_listener_is_told_where_it_was_asked_for() {
    let (mut lab, admin) = lab(Permissions::Predecessor).await;
    lab.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    admin.say(NS1, &request("r-1", "prod.ns1.4f.r-1")).await;
    // By now the supervisor of the run has read its request.
    let begun = async || Ok((lab.fleet.rebuild().calls(&host("ns1")).len() == 1).then_some(()));
    wait::until("the run goes on", begun).await.unwrap();
    lab.fleet.kill(&host("ns1"));
    // An earlier version of the listener would have written this.
    let spec = run_file(&lab, "request.json");
    let written =
        fs::read_to_string(&spec).unwrap().replace("deploy.responses.prod.ns1.4f.r-1", "deploy.responses.4f.r-1");
    fs::write(&spec, written).unwrap();

    lab.listen(&host("ns1"), &[]).await.unwrap();
    let mut admin = Admin::connect(&lab).await;
    admin.say(NS1, &request("r-1", "4f.r-1")).await;
    logged(&mut lab, "asked again on deploy.responses.4f.r-1").await;
    let (subject, answer) = admin.hear().await;
    assert_eq!((subject.as_str(), &answer["status"]), ("deploy.responses.4f.r-1", &json!("started")));
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let (subjects, end) = admin.hear_out().await;
    assert_eq!((subjects[0].as_str(), &end["status"]), ("deploy.responses.4f.r-1", &json!("completed")));
}

#[tokio::test]
async fn a_run_that_was_to_be_answered_for_another_host_is_answered_nowhere() {
    let (mut lab, admin) = lab(Permissions::Predecessor).await;
    lab.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    admin.say(NS1, &request("r-1", "prod.ns1.4f.r-1")).await;
    // By now the supervisor of the run has read its request.
    let begun = async || Ok((lab.fleet.rebuild().calls(&host("ns1")).len() == 1).then_some(()));
    wait::until("the run goes on", begun).await.unwrap();
    lab.fleet.kill(&host("ns1"));
    let spec = run_file(&lab, "request.json");
    let written = fs::read_to_string(&spec).unwrap().replace("responses.prod.ns1.", "responses.prod.ns2.");
    fs::write(&spec, written).unwrap();
    lab.listen(&host("ns1"), &[]).await.unwrap();
    let mut admin = Admin::connect(&lab).await;
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    // A listener limits how often it answers questions.
    wait::until("the run is over", async || Ok(run_file(&lab, "final.json").exists().then_some(()))).await.unwrap();
    // The report is the next message, whatever came before it.
    let over = async || Ok((admin.report().await["last"]["status"] == "completed").then_some(()));
    wait::until("the listener knows it", over).await.unwrap();
}

/// Returns a file of the only run of `ns1`, in memory.
fn run_file(lab: &Lab, name: &str) -> PathBuf {
    let runs = lab.folder().join("hosts/ns1/run/runs");
    fs::read_dir(runs).unwrap().next().unwrap().unwrap().path().join(name)
}

#[tokio::test]
async fn what_is_no_request_and_no_mistake_is_passed_over_without_a_word() {
    let (mut lab, mut admin) = lab(Permissions::Strict).await;
    for subject in [NS1, "deploy.prod.all", "deploy.discover", "deploy.discover.prod"] {
        admin.say_bytes(subject, b"").await;
        admin.say(subject, &json!({ "stream": "DEPLOY", "seq": 7 })).await;
        admin.say(subject, &json!({ "stream": "DEPLOY", "domain": "hub", "seq": 8, "duplicate": true })).await;
    }
    admin.report().await;
    let quiet = log(&mut lab);
    assert!(!quiet.contains("dropped") && !quiet.contains("WARN") && !quiet.contains("ERROR"), "{quiet}");
    admin.say(NS1, &json!({ "stream": "DEPLOY" })).await;
    logged(&mut lab, "dropped a ").await;
}

#[tokio::test]
async fn an_instance_stays_over_restarts_and_is_in_all_that_a_host_says() {
    let (mut lab, mut admin) = lab(Permissions::Strict).await;
    let first = admin.report().await["instance"].clone();
    assert!(first.is_string());
    admin.say(NS1, &request("r-1", "prod.ns1.4f.r-1")).await;
    loop {
        let (_, answer) = admin.hear().await;
        assert_eq!(answer["instance"], first, "{answer}");
        if is_final(&answer) {
            break;
        }
    }
    admin.say(NS1, &request("r 2", "prod.ns1.4f.r-2")).await;
    let (_, rejected) = admin.hear_out().await;
    assert_eq!((&rejected["status"], &rejected["instance"]), (&json!("rejected"), &first));

    lab.listen(&host("ns1"), &[]).await.unwrap();
    assert_eq!(Admin::connect(&lab).await.report().await["instance"], first);
    // A boot empties this directory.
    let runtime = lab.folder().join("hosts/ns1/run");
    fs::remove_dir_all(&runtime).unwrap();
    lab.listen(&host("ns1"), &[]).await.unwrap();
    assert_ne!(Admin::connect(&lab).await.report().await["instance"], first);
}
