//! Plans whose branch this machine cannot look up, so that the first host has to.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::fake::{self, Fake, Said};
use super::stage::{self, expect_recap};
use crate::support::lab::Lab;

/// What the branch stands for when it is looked up.
const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

/// Two hosts at once, and one after them.
const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets = ["prod.old", "prod.ns1"]
    [[wave]]
    targets = "prod.ns2"
"#;

/// What each host was asked to deploy, in order.
type Asked = mpsc::UnboundedReceiver<(String, String)>;

/// The hosts of the plan, of which `able` can find a commit. What a host says to a request is `answer`'s to say.
async fn hosts(able: &'static [&str], answer: fn(&Value, &str) -> Vec<Said>) -> (Lab, Vec<Fake>, Asked) {
    let lab = stage::empty(&["prod.old", "prod.ns1", "prod.ns2"]).await;
    let (sender, asked) = mpsc::unbounded_channel();
    let mut fakes = Vec::new();
    for host in ["old", "ns1", "ns2"] {
        let mut report = fake::bare("prod", host);
        report["features"] = if able.contains(&host) { json!(["id", "resolve"]) } else { json!(["id"]) };
        let sender = sender.clone();
        let answer = move |request: &Value| {
            sender.send((host.to_owned(), request["revision"].as_str().unwrap().to_owned())).ok();
            answer(request, host)
        };
        fakes.push(Fake::start(&lab, report, answer).await);
    }
    (lab, fakes, asked)
}

fn apply(lab: &Lab) -> Command {
    let mut command = stage::command(lab, "apply", PLAN);
    command.args(["--yes", "--resolve-on-host"]);
    command
}

fn all(asked: &mut Asked) -> Vec<(String, String)> {
    std::iter::from_fn(|| asked.try_recv().ok()).collect()
}

/// A listener that names the commit as soon as it is found.
fn obliging(request: &Value, host: &str) -> Vec<Said> {
    ["accepted", "started", "completed"]
        .map(|status| {
            let (subject, mut said) = fake::says(request, host, status);
            if status != "accepted" {
                said["revision"] = json!(COMMIT);
            }
            (subject, said)
        })
        .into()
}

#[tokio::test]
async fn the_first_host_finds_the_commit_and_all_others_are_sent_it() {
    let (lab, _fakes, mut asked) = hosts(&["ns1", "ns2"], obliging).await;
    let ended = stage::start(apply(&lab)).ended().await.unwrap().expect(0);
    ended.told("ns1 goes first and finds the commit of main").told("main -> 8c1f0e2, as ns1 found it");
    let sent =
        [("ns1", "main"), ("old", COMMIT), ("ns2", COMMIT)].map(|(host, sent)| (host.to_owned(), sent.to_owned()));
    assert_eq!(all(&mut asked), sent);

    let journals = fs::read_dir(lab.home().join("state/homelab-deploy/rollouts")).unwrap();
    let journal = fs::read_to_string(journals.map(|entry| entry.unwrap().path()).next().unwrap()).unwrap();
    let found = journal.find("\"event\":\"resolved\",\"host\":\"ns1\"").unwrap();
    assert!(found < journal.find("\"event\":\"dispatched\",\"host\":\"old\"").unwrap(), "{journal}");
}

#[tokio::test]
async fn nobody_else_is_asked_when_the_first_host_finds_nothing() {
    let failing = |request: &Value, host: &str| vec![fake::says(request, host, "failed")];
    let (lab, _fakes, mut asked) = hosts(&["ns1"], failing).await;
    let ended = stage::start(apply(&lab)).ended().await.unwrap().expect(1);
    expect_recap(&ended, "2 skipped");
    assert_eq!(all(&mut asked), [("ns1".to_owned(), "main".to_owned())]);
}

#[tokio::test]
async fn without_a_host_that_can_nothing_is_sent() {
    let (lab, _fakes, mut asked) = hosts(&["ns2"], obliging).await;
    let ended = stage::start(apply(&lab)).ended().await.unwrap().expect(3);
    ended.told("no host of the first wave can find the commit of \"main\"").told("it is not known in which repository");
    let mut unasked = stage::command(&lab, "apply", PLAN);
    unasked.arg("--yes");
    stage::start(unasked).ended().await.unwrap().expect(3).told("--resolve-on-host");
    assert!(all(&mut asked).is_empty());
}
