//! Someone who hears everything that is said about deployments.

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use serde_json::Value;

use crate::support::lab::Lab;
use crate::support::wait;

/// What the witness says itself; whatever was said before, it has heard before.
const MARK: &str = "deploy.responses.witness";

pub struct Wiretap {
    client: Client,
    messages: Subscriber,
}

impl Wiretap {
    /// Hears everything from now on. While there is one, the server has a subscriber for every request.
    pub async fn begin(lab: &Lab) -> Self {
        let client = lab.server.connect(&lab.admin).await.unwrap();
        let messages = client.subscribe("deploy.>").await.unwrap();
        let mut tap = Self { client, messages };
        tap.heard().await;
        tap
    }

    /// The subjects on which something was said since the last time, in order.
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

    /// The same without the answers, and without the roll call and its answers.
    pub async fn requests(&mut self) -> Vec<String> {
        let mut heard = self.take().await;
        heard.retain(is_request);
        heard.into_iter().map(|message| message.subject.to_string()).collect()
    }

    /// The same with what was said: each request with its subject.
    pub async fn requests_in_full(&mut self) -> Vec<(String, Value)> {
        let mut heard = self.take().await;
        heard.retain(is_request);
        let parse = |message: Message| (message.subject.to_string(), serde_json::from_slice(&message.payload).unwrap());
        heard.into_iter().map(parse).collect()
    }
}

/// An empty message is a probe, which is no request for any listener.
fn is_request(message: &Message) -> bool {
    let subject = message.subject.as_str();
    !message.payload.is_empty() && (subject.starts_with("deploy.test.") || subject.starts_with("deploy.prod."))
}
