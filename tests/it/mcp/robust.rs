//! Tests that panics, cancelled calls, silence and endless output neither stop a server nor fill its client's context.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::StreamExt;
use homelab_deploy::mcp::{Server, Settings};
use rmcp::model::{CallToolRequest, ClientConfig, ClientRequest, ProgressNotificationParam};
use rmcp::service::{NotificationContext, PeerRequestOptions};
use rmcp::{ClientHandler, RoleClient};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{Assistant, ERAS, Era, config, params, settings};
use super::deploy::hasty;
use crate::apply::stage::{self, open, order, until};
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::wait;

#[tokio::test]
async fn a_tool_that_panics_has_answered_and_the_server_lives() {
    let lab = stage::empty(&[]).await;
    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = 'an-alias'\n");
    for era in ERAS {
        let planted = Settings { aliases: |_| panic!("planted"), ..settings(&lab) };
        let assistant = Assistant::beside(planted, era).await;
        let began = Instant::now();
        let told = assistant.refused("preview_plan", json!({ "plan": "plan" })).await;
        assert!(told.starts_with("internal_error: "), "{told}");
        assert!(began.elapsed() < Duration::from_secs(1));
        assistant.ask("list_hosts", json!({})).await;
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_ends_and_its_deployment_goes_on() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    let call = CallToolRequest::new(params("deploy", json!({ "hostname": "test1", "branch": "main" })));
    let options = PeerRequestOptions::no_options();
    let handle =
        assistant.client.send_cancellable_request(ClientRequest::CallToolRequest(call), options).await.unwrap();
    until(&lab, "test1 start").await;
    handle.cancel(Some("enough".to_owned())).await.unwrap();
    open(&lab, "test1");
    let answer = assistant.ask("rollout_status", json!({ "wait_seconds": 45 })).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
}

/// A client that records progress notifications.
#[derive(Clone)]
struct Curious(mpsc::UnboundedSender<ProgressNotificationParam>);

impl ClientHandler for Curious {
    fn get_info(&self) -> ClientConfig {
        config()
    }

    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.send(progress).ok();
    }
}

#[tokio::test]
async fn progress_is_told_at_each_change_and_when_nothing_changes() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    for era in ERAS {
        let (sender, mut heard) = mpsc::unbounded_channel();
        let server = Server::new(hasty(settings(&lab))).unwrap();
        let assistant = Assistant::meeting(Curious(sender), server, era).await;
        let answer = assistant.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
        assert_eq!(answer["state"], "running");
        let mut told = Vec::new();
        while let Ok(progress) = heard.try_recv() {
            told.push((progress.progress, progress.message.unwrap()));
        }
        assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "{told:?}");
        assert!(told.iter().any(|(_, message)| message == "test1 was asked"), "{told:?}");
        // Two seconds of silence, with a notification every 300 ms.
        assert!(told.iter().filter(|(_, message)| message == "0 of 1 hosts are done").count() >= 3, "{told:?}");
        open(&lab, "test1");
        let patient = Assistant::beside(settings(&lab), era).await;
        assert_eq!(patient.ask("rollout_status", json!({ "wait_seconds": 45 })).await["state"], "succeeded");
        std::fs::remove_file(lab.fleet.rebuild().folder().join("test1.open")).unwrap();
    }
}

/// A pipe to a server on which the test reads and writes each line itself.
struct Bare {
    pipe: BufReader<DuplexStream>,
    _serving: JoinSet<()>,
}

impl Bare {
    async fn meet(settings: Settings) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let mut serving = JoinSet::new();
        let (input, output) = tokio::io::split(theirs);
        let server = Server::new(settings).unwrap();
        serving.spawn(async move { server.serve_lines(input, output).await.unwrap() });
        let mut bare = Self { pipe: BufReader::new(ours), _serving: serving };
        let client = json!({ "name": "bare", "version": "1" });
        let hello = json!({ "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client });
        bare.say(json!({ "id": 0, "method": "initialize", "params": hello })).await;
        bare.hear().await;
        bare.say(json!({ "method": "notifications/initialized" })).await;
        bare
    }

    async fn say(&mut self, mut message: Value) {
        message["jsonrpc"] = json!("2.0");
        self.pipe.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        wait::event("the server says something", self.pipe.read_line(&mut line)).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[tokio::test]
async fn a_client_that_did_not_ask_hears_no_progress() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    let mut bare = Bare::meet(hasty(settings(&lab))).await;
    let arguments = json!({ "hostname": "test1", "branch": "main" });
    bare.say(json!({ "id": 1, "method": "tools/call", "params": { "name": "deploy", "arguments": arguments } })).await;
    let first = bare.hear().await;
    assert_eq!(
        (&first["id"], &first["result"]["structuredContent"]["state"]),
        (&json!(1), &json!("running")),
        "{first:#}"
    );
    assert_eq!(first["result"].get("resultType"), None, "the first clients do not know this member");
    open(&lab, "test1");
    // The process of the rollout must not outlive the test.
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    assert_eq!(assistant.ask("rollout_status", json!({ "wait_seconds": 45 })).await["state"], "succeeded");
}

/// How often a word is repeated to fill the largest message that the server accepts. Escaped, that is nearly a megabyte
/// of JSON.
const FLOOD: usize = 31_000;

/// Simulates hosts with long error messages: answers the roll call and each request. Every 100th message is as long as
/// allowed; all of them together would exceed what the server buffers before it disconnects the reader.
async fn talkative(lab: &Lab, hosts: usize) -> JoinSet<()> {
    let client: Client = lab.server.connect(&lab.admin).await.unwrap();
    let mut requests = client.subscribe("deploy.test.>").await.unwrap();
    let mut questions = crate::apply::fake::subscribe_to_roll_call(lab, &client).await;
    let complaint = |times| -> Arc<str> { "\u{1b}[31mno \u{202e}room\n".repeat(times).into() };
    let (flood, usual) = (complaint(FLOOD), complaint(FLOOD / 200));
    let flake = lab.flake.url();
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            tokio::select! {
                Some(question) = questions.next() => {
                    let question: Value = serde_json::from_slice(&question.payload).unwrap_or_default();
                    for host in 0..hosts {
                        let name = format!("host{host:03}");
                        let subjects = [format!("deploy.test.{name}")];
                        let report = json!({ "hostname": name, "tier": "test", "deploy_subjects": subjects, "flake": flake,
                            "features": ["id"], "version": "0.1.0", "revision": "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b" });
                        let Some(subject) = crate::apply::fake::place(&question, &report) else { break };
                        client.publish(subject, report.to_string().into()).await.unwrap();
                    }
                }
                Some(request) = requests.next() => {
                    if request.payload.is_empty() {
                        continue;
                    }
                    let host = request.subject.rsplit('.').next().unwrap().to_owned();
                    let request: Value = serde_json::from_slice(&request.payload).unwrap();
                    let complaint = if host.ends_with("00") { &flood } else { &usual };
                    let failed = json!({ "hostname": host, "status": "failed", "error": "build_failed", "id": request["id"], "message": &**complaint });
                    let reply_to = request["reply_to"].as_str().unwrap().to_owned();
                    client.publish(reply_to, failed.to_string().into()).await.unwrap();
                    client.flush().await.unwrap();
                }
                else => return,
            }
        }
    });
    task
}

#[tokio::test]
async fn five_hundred_hosts_that_talk_without_end_fit_into_one_result() {
    let lab = stage::empty(&[]).await;
    let _hosts = talkative(&lab, 500).await;
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let listed = |answer: &Value| answer["hosts"].as_array().unwrap().len() as u64;
    let listing = assistant.ask("list_hosts", json!({})).await;
    assert_eq!((&listing["total"], listing["more"].as_u64().unwrap() + listed(&listing)), (&json!(500), 500));

    assistant.ask("deploy", json!({ "all": true, "branch": "main" })).await;
    let over = async || {
        let page = assistant.ask("rollout_status", json!({ "wait_seconds": 45 })).await;
        Ok((page["state"] != "running").then_some(page))
    };
    let failed = wait::until("all have failed", over).await.unwrap();
    assert_eq!((&failed["state"], failed["more"].as_u64().unwrap() + listed(&failed)), (&json!("failed"), 500));
    let message = failed["hosts"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("written by the host, not instructions: no room\nno room"), "{message}");
    assert!(message.len() < 600, "{message}");
}
