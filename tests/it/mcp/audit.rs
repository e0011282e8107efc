//! Tests that the audit file has every call, with any outcome.

use std::path::Path;

use homelab_deploy::mcp::Settings;
use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, command, params, settings};
use crate::apply::stage::{self, open, order, ran, until};
use crate::support::rebuild::GATE;

/// Returns the lines of an audit file.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_call_that_changes_nothing_has_one_line_refused_ones_too() {
    let lab = stage::lab(&["test.test1"]).await;
    for era in ERAS {
        let file = lab.folder().join(format!("{era:?}.jsonl"));
        let settings = Settings { audit_file: Some(file.clone()), ..settings(&lab) };
        let assistant = Assistant::beside(settings, era).await;
        assistant.ask("list_hosts", json!({ "tier": "test" })).await;
        assistant.refused("list_hosts", json!({ "tier": "staging" })).await;
        assistant.refused("list_hosts", json!({ "token": "x", "branch": "https://u:p@h" })).await;
        assistant.client.call_tool(params("no_such_tool", json!({}))).await.unwrap_err();
        let told: Vec<_> = lines(&file)
            .iter()
            .map(|line| (line["tool"].clone(), line["outcome"].clone(), line["code"].clone()))
            .collect();
        let line = |tool: &str, outcome: &str, code: Value| (json!(tool), json!(outcome), code);
        assert_eq!(
            told,
            [
                line("list_hosts", "ok", Value::Null),
                line("list_hosts", "error", json!("invalid_arguments")),
                line("list_hosts", "error", json!("invalid_arguments")),
                line("no_such_tool", "error", json!("protocol -32602")),
            ]
        );
        assert_eq!(lines(&file)[0]["tier"], "test");
        assert_eq!(lines(&file)[2]["arguments"]["branch"], "https://h");
        assert!(lines(&file).iter().all(|line| line["client"] == "test 1"));
    }
}

#[tokio::test]
async fn a_call_that_writes_is_on_record_before_it_begins() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    let file = lab.folder().join("audit.jsonl");
    let mut dying = command(&lab, &["--audit-file", file.to_str().unwrap()]);
    let assistant = Assistant::spawn(&mut dying, Era::Handshake).await;
    let call = params("deploy", json!({ "hostname": "test1", "branch": "main" }));
    let (calling, pid) = (assistant.client.call_tool(call), assistant.pid());
    let killing = async {
        until(&lab, "test1 start").await;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (broken, ()) = tokio::join!(calling, killing);
    broken.unwrap_err();
    let left = lines(&file);
    assert_eq!(left.len(), 1, "a server that was killed leaves the beginning: {left:?}");
    assert_eq!((&left[0]["event"], &left[0]["tool"]), (&json!("begun"), &json!("deploy")));
    open(&lab, "test1");

    let next = Assistant::beside(Settings { audit_file: Some(file.clone()), ..settings(&lab) }, Era::Stateless).await;
    assert_eq!(next.ask("rollout_status", json!({ "wait_seconds": 45 })).await["state"], "succeeded");
    let done = next.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
    let ended = lines(&file).pop().unwrap();
    assert_eq!(
        (&ended["event"], &ended["state"], &ended["id"]),
        (&json!("ended"), &json!("succeeded"), &done["rollout_id"])
    );
    assert_eq!((&ended["tier"], &ended["commit"]), (&json!("test"), &done["commit"]));
}

#[tokio::test]
async fn nothing_is_done_that_cannot_be_put_on_record() {
    let lab = stage::lab(&["test.test1"]).await;
    std::fs::create_dir(lab.folder().join("logs")).unwrap();
    let file = lab.folder().join("logs/audit.jsonl");
    let assistant = Assistant::beside(Settings { audit_file: Some(file), ..settings(&lab) }, Era::Stateless).await;
    std::fs::rename(lab.folder().join("logs"), lab.folder().join("old")).unwrap();
    let told = assistant.refused("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
    assert!(told.starts_with("audit_unwritable: "), "{told}");
    assert_eq!(ran(&lab), [""; 0]);
    std::fs::create_dir(lab.folder().join("logs")).unwrap();
    assert_eq!(assistant.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await["state"], "succeeded");
}

#[tokio::test]
async fn a_record_that_cannot_be_kept_is_no_start() {
    let lab = stage::empty(&[]).await;
    let file = lab.folder().join("missing/audit.jsonl");
    let mut command = command(&lab, &["--audit-file", file.to_str().unwrap()]);
    let output = command.stderr(std::process::Stdio::piped()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("the audit file"), "{told}");
}
