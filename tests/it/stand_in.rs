//! A fake listener that sends exactly what a test wants, including what no real one sends.

use async_nats::{Client, Subscriber};
use homelab_deploy::protocol::subject::DISCOVER;
use miette::{IntoDiagnostic, Result, miette};
use serde_json::Value;

use crate::deployer::{message, next, subscribe};
use crate::host;
use crate::support::lab::Lab;

/// A fake listener with the key of a host.
pub struct StandIn {
    client: Client,
    requests: Subscriber,
    calls: Subscriber,
}

impl StandIn {
    /// Connects as this host, and subscribes to one of its subjects.
    pub async fn connect(lab: &Lab, name: &str, subject: &str) -> Result<Self> {
        let client = lab.server.connect(lab.key(&host(name))?).await?;
        let requests = subscribe(&client, subject).await?;
        let calls = subscribe(&client, DISCOVER).await?;
        Ok(Self { client, requests, calls })
    }

    /// Returns the next request.
    pub async fn request(&mut self) -> Result<Value> {
        loop {
            let next = next(&mut self.requests).await?;
            // An empty message only probes the server.
            if !next.payload.is_empty() {
                return message(&next);
            }
        }
    }

    /// Returns the next roll call.
    pub async fn roll_call(&mut self) -> Result<Value> {
        message(&next(&mut self.calls).await?)
    }

    /// Answers a request or a roll call, and waits until the server has the answer.
    pub async fn answer(&self, question: &Value, answer: &Value) -> Result<()> {
        let reply_to = question["reply_to"].as_str().ok_or_else(|| miette!("no reply_to in {question}"))?;
        let bytes = answer.to_string().into_bytes();
        self.client.publish(reply_to.to_owned(), bytes.into()).await.into_diagnostic()?;
        self.client.flush().await.into_diagnostic()
    }
}
