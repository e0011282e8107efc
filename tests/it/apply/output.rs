//! What programs read.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::stage::{self, open, order, ran, until};
use crate::support::rebuild::GATE;
use crate::support::wait;

const PLAN: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'prod.ns1'\n";

#[tokio::test]
async fn each_line_of_json_is_an_object_from_begun_to_ended() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let mut command = stage::command(&lab, "apply", PLAN);
    command.args(["--yes", "--json"]);
    let ended = stage::start(command).ended().await.unwrap().expect(0);
    assert_eq!(ended.stderr, "", "no preview, question or recap");
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"begun"));
    assert_eq!(kinds.last(), Some(&"ended"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "final").count(), 2);
    assert_eq!(events.last().unwrap()["outcome"], "succeeded");
    assert!(!ended.stdout.contains("secret"), "{}", ended.stdout);
}

#[tokio::test]
async fn json_never_asks() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let mut command = stage::command(&lab, "apply", PLAN);
    command.arg("--json");
    let ended = stage::start(command).ended().await.unwrap().expect(2);
    assert_eq!(ended.stdout, "");
    let mut command = stage::command(&lab, "apply", &format!("{PLAN}confirm = true\n"));
    command.args(["--yes", "--json"]);
    let ended = stage::start(command).ended().await.unwrap().expect(4);
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.lines().last().unwrap().contains("paused"), "{}", ended.stdout);
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_does_not_stop_the_rollout() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    order(&lab, &["test1"], GATE);
    let mut command = stage::command(&lab, "apply", PLAN);
    command.args(["--yes", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = wait::event("the first line", lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.contains("\"begun\""), "{first}");
    drop(lines);
    until(&lab, "test1 start").await;
    open(&lab, "test1");
    let output = wait::event("the command ends", child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert_eq!(ran(&lab), ["test1", "ns1"]);
}
