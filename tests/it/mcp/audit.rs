//! Every call is on record, whatever came of it.

use std::path::Path;

use homelab_deploy::mcp::Settings;
use serde_json::{Value, json};

use super::client::{Assistant, ERAS, command, params, settings};
use crate::apply::stage;

/// The lines of a record.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn there_is_one_line_for_each_call_refused_ones_too() {
    let lab = stage::lab(&["test.test1"]).await;
    for era in ERAS {
        let file = lab.folder().join(format!("{era:?}.jsonl"));
        let settings = Settings { audit_file: Some(file.clone()), ..settings(&lab) };
        let assistant = Assistant::beside(settings, era).await;
        assistant.ask("list_hosts", json!({ "tier": "test" })).await;
        assistant.refused("list_hosts", json!({ "tier": "staging" })).await;
        assistant.refused("list_hosts", json!({ "token": "x", "cursor": "https://u:p@h" })).await;
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
        assert_eq!(lines(&file)[2]["arguments"]["cursor"], "https://h");
        assert!(lines(&file).iter().all(|line| line["client"] == "test 1"));
    }
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
