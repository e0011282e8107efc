//! Rollouts as tasks, for clients that know those.

use homelab_deploy::mcp::{Server, Settings};
use rmcp::model::{
    CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities, ClientConfig, DetailedTask, GetTaskParams,
    Task, TaskPayload, TaskStatus,
};
use serde_json::{Value, json};

use super::client::{Assistant, Era, administrator, config, params, settings, text};
use super::deploy::hasty;
use crate::apply::stage::{self, open, order, ran, until};
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::wait;

/// A client that says that it knows tasks.
async fn knowing(settings: Settings, era: Era) -> Assistant {
    let handler = ClientConfig::new(ClientCapabilities::builder().enable_tasks().build(), config().client_info);
    Assistant::meeting(handler, Server::new(settings).unwrap(), era).await
}

/// Calls a tool that answers with a task.
async fn task(assistant: &Assistant, tool: &str, arguments: Value) -> Task {
    match wait::event(tool, assistant.client.call_tool_once(params(tool, arguments))).await.unwrap().unwrap() {
        CallToolResponse::Task(created) => created.task,
        other => panic!("{other:?}"),
    }
}

async fn look(assistant: &Assistant, task: &Task) -> DetailedTask {
    assistant.client.get_task(GetTaskParams::new(&task.task_id)).await.unwrap().task
}

/// What a task has come to in the end.
async fn end(assistant: &Assistant, task: &Task) -> TaskPayload {
    let ended = async || {
        let now = look(assistant, task).await;
        Ok(now.status().is_terminal().then_some(now.payload))
    };
    wait::until("the task ends", ended).await.unwrap()
}

/// The id of the rollout that a task waits for, which is the first that it says.
fn rollout(task: &Task) -> &str {
    task.status_message.as_deref().unwrap().split(':').next().unwrap()
}

#[track_caller]
fn result(payload: TaskPayload) -> CallToolResult {
    let TaskPayload::Completed { result } = payload else { panic!("{payload:?}") };
    serde_json::from_value(Value::Object(result)).unwrap()
}

/// A homelab with a plan for its one host, which runs until its gate is opened.
async fn gated() -> Lab {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    std::fs::create_dir_all(lab.home().join("plans")).unwrap();
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n";
    std::fs::write(lab.home().join("plans/tests.toml"), plan).unwrap();
    lab
}

#[tokio::test]
async fn a_task_waits_longer_than_a_call_and_ends_as_that_would() {
    let lab = gated().await;
    let audit_file = Some(lab.folder().join("audit.jsonl"));
    let assistant = knowing(Settings { audit_file, ..hasty(settings(&lab)) }, Era::Stateless).await;
    let preview = assistant.ask("preview_plan", json!({ "plan": "tests" })).await;
    for (tool, arguments, teller, key) in [
        ("deploy", json!({ "hostname": "test1", "branch": "main" }), "deploy_status", "deploy_id"),
        ("apply_plan", json!({ "plan": "tests", "plan_hash": preview["plan_hash"] }), "rollout_status", "rollout_id"),
    ] {
        let task = task(&assistant, tool, arguments).await;
        assert_eq!((task.status, task.ttl_ms), (TaskStatus::Working, None));
        let line = std::fs::read_to_string(lab.folder().join("audit.jsonl")).unwrap();
        let line: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&line["tool"], &line["outcome"], &line["id"]),
            (&json!(tool), &json!("ok"), &json!(rollout(&task)))
        );

        // A call that begins now is answered before the end, and the task is older.
        let patient = json!({ key: rollout(&task), "wait_seconds": 45 });
        assert_eq!(assistant.ask(teller, patient.clone()).await["state"], "running");
        let now = look(&assistant, &task).await;
        assert_eq!(now.status(), TaskStatus::Working);
        let said = now.task.status_message.unwrap();
        assert!(said.starts_with(rollout(&task)) && said.ends_with("test1 was asked"), "{said}");

        open(&lab, "test1");
        let ended = result(end(&assistant, &task).await);
        assert_eq!(ended.structured_content.as_ref().unwrap()["state"], "succeeded");
        assert_eq!(ended, assistant.call(teller, patient).await, "as a plain call tells it");
        std::fs::remove_file(lab.fleet.rebuild().folder().join("test1.open")).unwrap();
    }
}

#[tokio::test]
async fn a_task_that_is_cancelled_leaves_its_rollout_alone() {
    let lab = gated().await;
    let assistant = knowing(settings(&lab), Era::Stateless).await;
    let task = task(&assistant, "deploy", json!({ "hostname": "test1", "branch": "main" })).await;
    until(&lab, "test1 start").await;
    assistant.client.cancel_task(CancelTaskParams::new(&task.task_id)).await.unwrap();
    assert_eq!(end(&assistant, &task).await, TaskPayload::Cancelled);
    let arguments = json!({ "deploy_id": rollout(&task) });
    assert_eq!(assistant.ask("deploy_status", arguments).await["state"], "running");
    open(&lab, "test1");
    let arguments = json!({ "deploy_id": rollout(&task), "wait_seconds": 45 });
    assert_eq!(assistant.ask("deploy_status", arguments).await["state"], "succeeded");
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn what_begins_no_rollout_is_no_task() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let assistant = knowing(administrator(&lab), Era::Stateless).await;
    let test = json!({ "tier": "test", "hostname": "ns1", "branch": "main" });
    let told = assistant.refused("deploy_admin", test).await;
    assert!(told.starts_with("wrong_tier: "), "{told}");
    assistant.client.get_task(GetTaskParams::new("x")).await.unwrap_err();
}

/// What a client of the handshake says of tasks is about those of its own era.
#[tokio::test]
async fn other_clients_are_answered_as_ever() {
    let lab = stage::lab(&["test.test1"]).await;
    let announced = |assistant: &Assistant| assistant.client.peer_info().unwrap().capabilities.supports_tasks();
    for (assistant, told) in [
        (Assistant::beside(settings(&lab), Era::Handshake).await, false),
        (Assistant::beside(settings(&lab), Era::Stateless).await, true),
        (knowing(settings(&lab), Era::Handshake).await, false),
    ] {
        assert_eq!(announced(&assistant), told);
        let answer = assistant.call("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
        assert_eq!(answer.structured_content.as_ref().unwrap()["state"], "succeeded", "{}", text(&answer));
        assistant.client.get_task(GetTaskParams::new("x")).await.unwrap_err();
    }
}
