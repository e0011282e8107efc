//! A fake listener that sends what no real one sends. It has the key of its host, and so only the permissions of that
//! host.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use miette::IntoDiagnostic;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::host;
use crate::support::lab::Lab;
use crate::support::wait;

const DISCOVER: &str = "deploy.discover";

/// A message and its subject.
pub type Said = (String, Value);

/// A fake host, which runs until this is dropped.
pub struct Fake {
    _task: JoinSet<()>,
}

impl Fake {
    /// Answers roll calls with `report`, and each request with the result of `answer`.
    pub async fn start(lab: &Lab, report: Value, mut answer: impl FnMut(&Value) -> Vec<Said> + Send + 'static) -> Self {
        let name = report["hostname"].as_str().unwrap();
        let client = lab.server.connect(lab.key(&host(name)).unwrap()).await.unwrap();
        let (mut deploys, mut discover) = subscribe(lab, &client, &report).await;
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let said = tokio::select! {
                    // An empty message only probes the server.
                    Some(message) = deploys.next() => match read(&message.payload) {
                        Value::Null => continue,
                        request => answer(&request),
                    },
                    Some(message) = discover.next() => match place(&read(&message.payload), &report) {
                        Some(subject) => vec![(subject, report.clone())],
                        None => continue,
                    },
                    else => return,
                };
                for (subject, payload) in said {
                    client.publish(subject, payload.to_string().into()).await.unwrap();
                }
            }
        });
        Self { _task: task }
    }
}

/// Returns where a host answers a roll call: below its own prefix, or on the old subject if it is a predecessor.
pub fn place(question: &Value, report: &Value) -> Option<String> {
    let reply_to = question["reply_to"].as_str()?;
    let (tier, host) = (report["tier"].as_str()?, report["hostname"].as_str()?);
    if report["features"].is_null() || question["per_host"] != true {
        return Some(reply_to.to_owned());
    }
    let call = reply_to.rsplit('.').next()?;
    Some(format!("deploy.responses.{tier}.{host}.{call}"))
}

/// Subscribes as a listener does, and waits until the server knows.
async fn subscribe(lab: &Lab, client: &Client, report: &Value) -> (SelectAll<Subscriber>, Subscriber) {
    let mut deploys = Vec::new();
    for subject in report["deploy_subjects"].as_array().unwrap() {
        deploys.push(client.subscribe(subject.as_str().unwrap().to_owned()).await.unwrap());
    }
    (select_all(deploys), subscribe_to_roll_call(lab, client).await)
}

/// Subscribes to the roll call, and waits until the server knows this and all earlier subscriptions.
pub async fn subscribe_to_roll_call(lab: &Lab, client: &Client) -> Subscriber {
    let mut discover = client.subscribe(DISCOVER).await.unwrap();
    let speaker = lab.server.connect(&lab.admin).await.unwrap();
    wait::until("the server knows the subscriptions", async || {
        speaker.publish(DISCOVER, "{}".into()).await.into_diagnostic()?;
        Ok(timeout(Duration::from_millis(50), discover.next()).await.ok())
    })
    .await
    .unwrap();
    discover
}

/// Parses a message as JSON, or returns null if it is not JSON.
pub fn read(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_default()
}

/// Returns the report of a predecessor's listener.
pub fn bare(tier: &str, host: &str) -> Value {
    let subjects = [format!("deploy.{tier}.{host}"), format!("deploy.{tier}.all")];
    json!({ "hostname": host, "tier": tier, "role": null, "deploy_subjects": subjects })
}

/// Returns the report of a listener of today.
pub fn modern(tier: &str, host: &str, lab: &Lab) -> Value {
    let mut report = bare(tier, host);
    report["features"] = json!(["id", "expires", "heartbeat"]);
    report["machine"] = json!(format!("machine of {host}"));
    report["flake"] = json!(lab.flake.url());
    report
}

/// Returns a response below the host's own prefix, as a listener of today sends it.
pub fn says(request: &Value, host: &str, status: &str) -> Said {
    let (subject, mut answer) = says_bare(request, host, status);
    answer["id"] = request["id"].clone();
    (subject, answer)
}

/// Returns a response with the original fields only.
pub fn says_bare(request: &Value, host: &str, status: &str) -> Said {
    says_at(request["reply_to"].as_str().unwrap(), host, status)
}

/// Returns a response on any subject.
pub fn says_at(subject: &str, host: &str, status: &str) -> Said {
    let error = (status == "failed").then_some("build_failed");
    (subject.to_owned(), json!({ "hostname": host, "status": status, "error": error, "message": "so it is" }))
}
