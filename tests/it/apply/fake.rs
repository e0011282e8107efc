//! A listener of the test's own making, which says what no real one says. It holds the key of its host, and so may do no
//! more than that host may.

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::host;
use crate::support::lab::Lab;
use crate::support::wait;

const DISCOVER: &str = "deploy.discover";

/// What is said, and on which subject.
pub type Said = (String, Value);

/// A host in the hands of a test, until it is dropped.
pub struct Fake {
    _task: JoinSet<()>,
}

impl Fake {
    /// Answers the roll call with `report`, and each request with what `answer` makes of it.
    pub async fn start(lab: &Lab, report: Value, mut answer: impl FnMut(&Value) -> Vec<Said> + Send + 'static) -> Self {
        let name = report["hostname"].as_str().unwrap();
        let client = lab.server.connect(lab.key(&host(name)).unwrap()).await.unwrap();
        let (mut deploys, mut discover) = subscribe(&client, &report).await;
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let said = tokio::select! {
                    Some(message) = deploys.next() => answer(&read(&message.payload)),
                    Some(message) = discover.next() => match &read(&message.payload)["reply_to"] {
                        Value::String(reply_to) => vec![(reply_to.clone(), report.clone())],
                        _ => continue,
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

/// Subscribes as a listener does, and waits until the server knows.
async fn subscribe(client: &Client, report: &Value) -> (SelectAll<Subscriber>, Subscriber) {
    let mut deploys = Vec::new();
    for subject in report["deploy_subjects"].as_array().unwrap() {
        deploys.push(client.subscribe(subject.as_str().unwrap().to_owned()).await.unwrap());
    }
    (select_all(deploys), subscribe_to_roll_call(client).await)
}

/// Subscribes to the roll call, and waits until the server knows of this and all earlier subscriptions.
pub async fn subscribe_to_roll_call(client: &Client) -> Subscriber {
    let mut discover = client.subscribe(DISCOVER).await.unwrap();
    client.publish(DISCOVER, "{}".into()).await.unwrap();
    wait::event("the server knows the subscriptions", discover.next()).await.unwrap();
    discover
}

/// A message as JSON; null when it is none.
pub fn read(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_default()
}

/// What a listener of the predecessor says when the roll is called.
pub fn bare(tier: &str, host: &str) -> Value {
    let subjects = [format!("deploy.{tier}.{host}"), format!("deploy.{tier}.all")];
    json!({ "hostname": host, "tier": tier, "role": null, "deploy_subjects": subjects })
}

/// What one of ours says.
pub fn modern(tier: &str, host: &str, lab: &Lab) -> Value {
    let mut report = bare(tier, host);
    report["features"] = json!(["id", "expires", "heartbeat"]);
    report["machine"] = json!(format!("machine of {host}"));
    report["flake"] = json!(lab.flake.url());
    report
}

/// An answer to a request, in its own place and with the original fields only.
pub fn says(request: &Value, host: &str, status: &str) -> Said {
    let reply_to = request["reply_to"].as_str().unwrap();
    says_at(reply_to, host, status)
}

/// An answer in any place.
pub fn says_at(subject: &str, host: &str, status: &str) -> Said {
    let error = (status == "failed").then_some("build_failed");
    (subject.to_owned(), json!({ "hostname": host, "status": status, "error": error, "message": "so it is" }))
}
