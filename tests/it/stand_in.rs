//! A listener that says exactly what a test wants said, also what ours never would.

use async_nats::{Client, Subscriber};
use homelab_deploy::protocol::subject::DISCOVER;
use miette::{IntoDiagnostic, Result, miette};
use serde_json::Value;

use crate::deployer::{message, next, subscribe};
use crate::host;
use crate::support::lab::Lab;

/// Stands in for the listener of a host, with its key.
pub struct StandIn {
    client: Client,
    requests: Subscriber,
    calls: Subscriber,
}

impl StandIn {
    /// Connects as this host, and listens on one of its subjects.
    pub async fn connect(lab: &Lab, name: &str, subject: &str) -> Result<Self> {
        let client = lab.server.connect(lab.key(&host(name))?).await?;
        let requests = subscribe(&client, subject).await?;
        let calls = subscribe(&client, DISCOVER).await?;
        Ok(Self { client, requests, calls })
    }

    /// The next request.
    pub async fn request(&mut self) -> Result<Value> {
        loop {
            let next = next(&mut self.requests).await?;
            // An empty message is a probe of the server.
            if !next.payload.is_empty() {
                return message(&next);
            }
        }
    }

    /// The next roll call.
    pub async fn roll_call(&mut self) -> Result<Value> {
        message(&next(&mut self.calls).await?)
    }

    /// Answers a request or a roll call, and makes sure that the server has it.
    pub async fn answer(&self, question: &Value, answer: &Value) -> Result<()> {
        let reply_to = question["reply_to"].as_str().ok_or_else(|| miette!("no reply_to in {question}"))?;
        let bytes = answer.to_string().into_bytes();
        self.client.publish(reply_to.to_owned(), bytes.into()).await.into_diagnostic()?;
        self.client.flush().await.into_diagnostic()
    }
}
