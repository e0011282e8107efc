//! Tests which tools there are, and their descriptions.

use std::collections::BTreeSet;

use homelab_deploy::mcp::{McpStartError, Mode, Server, ToolFilter, tool_names};
use rmcp::model::Tool;
use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, administrator, command, params, settings};
use crate::apply::stage;

fn names(tools: &[Tool]) -> Vec<&str> {
    tools.iter().map(|tool| &*tool.name).collect()
}

#[tokio::test]
async fn this_is_what_clients_are_told() {
    let lab = stage::empty(&[]).await;
    let [first, second] = ERAS;
    let tools = Assistant::beside(administrator(&lab), first).await.tools().await;
    assert_eq!(Assistant::beside(administrator(&lab), second).await.tools().await, tools, "in both eras");
    assert_eq!(names(&tools), tool_names());
    let size = serde_json::to_vec(&tools).unwrap().len();
    insta::assert_snapshot!("tools", serde_json::to_string_pretty(&tools).unwrap());
    assert!(size <= 12_000, "{size}");
}

#[tokio::test]
async fn no_schema_makes_a_client_drop_its_tool() {
    let lab = stage::empty(&[]).await;
    for tool in Assistant::beside(administrator(&lab), Era::Handshake).await.tools().await {
        let name = &tool.name;
        let hints = tool.annotations.unwrap();
        let all = [hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint];
        assert!(all.iter().all(Option::is_some), "{name}");
        let input = json!(tool.input_schema);
        for (property, schema) in input["properties"].as_object().unwrap() {
            assert!(schema["description"].as_str().is_some_and(|told| told.len() > 10), "{name} {property}");
        }
        assert_eq!(input["type"], "object", "{name}");
        is_flat(name, &input);
    }
}

/// Asserts that a schema has nothing, at any depth, that a known client fails on.
fn is_flat(tool: &str, schema: &Value) {
    match schema {
        Value::Object(fields) => {
            for word in ["oneOf", "anyOf", "allOf", "$ref", "$defs", "nullable"] {
                assert!(!fields.contains_key(word), "{tool} {word}");
            }
            assert!(!fields.get("type").is_some_and(Value::is_array), "{tool} {schema}");
            if fields.contains_key("properties") {
                assert_eq!(fields["additionalProperties"], false, "{tool}");
            }
            fields.values().for_each(|value| is_flat(tool, value));
        }
        Value::Array(values) => values.iter().for_each(|value| is_flat(tool, value)),
        _ => {}
    }
}

#[tokio::test]
async fn what_is_not_offered_is_neither_listed_nor_callable() {
    let lab = stage::empty(&[]).await;
    let only = BTreeSet::from(["deploy".to_owned(), "list_plans".to_owned()]);
    let offers = [
        (settings(&lab), "deploy_admin"),
        (with(&lab, ToolFilter { mode: Mode::ReadOnly, only: None }), "deploy"),
        (with(&lab, ToolFilter { mode: Mode::ReadOnly, only: None }), "abort_rollout"),
        (with(&lab, ToolFilter { mode: Mode::ReadWrite, only: Some(only.clone()) }), "list_hosts"),
        (with(&lab, ToolFilter { mode: Mode::ReadOnly, only: Some(only) }), "deploy"),
    ];
    for (settings, hidden) in offers {
        let assistant = Assistant::beside(settings, Era::Stateless).await;
        assert!(!names(&assistant.tools().await).contains(&hidden), "{hidden}");
        let error = assistant.client.call_tool(params(hidden, json!({}))).await.unwrap_err();
        assert!(error.to_string().contains("tool not found"), "{error}");
    }
    let read_only =
        Assistant::beside(with(&lab, ToolFilter { mode: Mode::ReadOnly, only: None }), Era::Handshake).await;
    assert_eq!(
        names(&read_only.tools().await),
        ["host_log", "list_hosts", "list_plans", "preview_plan", "rollout_status"]
    );
    let flags = ["--read-only", "--tools", "list_hosts,deploy"];
    let program = Assistant::spawn(&mut command(&lab, &flags), Era::Handshake).await;
    assert_eq!(names(&program.tools().await), ["list_hosts"]);
}

fn with(lab: &crate::support::lab::Lab, tools: ToolFilter) -> homelab_deploy::mcp::Settings {
    homelab_deploy::mcp::Settings { tools, ..administrator(lab) }
}

#[tokio::test]
async fn a_server_without_tools_or_with_one_key_for_both_tiers_does_not_start() {
    let lab = stage::empty(&[]).await;
    let only = Some(BTreeSet::from(["deploy".to_owned()]));
    let none = Server::new(with(&lab, ToolFilter { mode: Mode::ReadOnly, only })).unwrap_err();
    assert!(matches!(none, McpStartError::NoTools), "{none}");
    let copy = lab.folder().join("copy.seed");
    std::fs::copy(lab.admin.seed_file(), &copy).unwrap();
    let mut settings = administrator(&lab);
    settings.test.nkey_file = copy;
    let same = Server::new(settings).unwrap_err();
    assert!(matches!(same, McpStartError::OneKey), "{same}");
}
