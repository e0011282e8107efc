//! Records every message about deployments.

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use serde_json::Value;

use crate::support::lab::Lab;
use crate::support::wait;

/// The subject of the recorder's own message. It has received everything that was published before that message.
const MARK: &str = "deploy.responses.witness";

pub struct Wiretap {
    client: Client,
    messages: Subscriber,
}

impl Wiretap {
    /// Starts recording. Meanwhile, the server has a subscriber for every request.
    pub async fn begin(lab: &Lab) -> Self {
        let client = lab.server.connect(&lab.admin).await.unwrap();
        let messages = client.subscribe("deploy.>").await.unwrap();
        let mut tap = Self { client, messages };
        tap.heard().await;
        tap
    }

    /// Returns the subjects of the messages since the last call, in order.
    pub async fn heard(&mut self) -> Vec<String> {
        self.take().await.into_iter().map(|message| message.subject.to_string()).collect()
    }

    async fn take(&mut self) -> Vec<Message> {
        self.client.publish(MARK, "".into()).await.unwrap();
        let mut taken = Vec::new();
        loop {
            let message = wait::event("the witness hears itself", self.messages.next()).await.unwrap().unwrap();
            if message.subject.as_str() == MARK {
                return taken;
            }
            taken.push(message);
        }
    }

    /// Returns the subjects of requests only, without responses and roll calls.
    pub async fn requests(&mut self) -> Vec<String> {
        self.requests_in_full().await.into_iter().map(|(subject, _)| subject).collect()
    }

    /// Returns each request with its subject.
    pub async fn requests_in_full(&mut self) -> Vec<(String, Value)> {
        let mut heard = self.take().await;
        // An empty message only tries whether publishing is allowed.
        heard.retain(|message| is_request(&message.subject) && !message.payload.is_empty());
        let parse = |message: Message| (message.subject.to_string(), serde_json::from_slice(&message.payload).unwrap());
        heard.into_iter().map(parse).collect()
    }
}

fn is_request(subject: &str) -> bool {
    subject.starts_with("deploy.test.") || subject.starts_with("deploy.prod.")
}
