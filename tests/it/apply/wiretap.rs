//! Someone who hears everything that is said about deployments.

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;

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
        self.client.publish(MARK, "".into()).await.unwrap();
        let mut subjects = Vec::new();
        loop {
            let message = wait::event("the witness hears itself", self.messages.next()).await.unwrap().unwrap();
            if message.subject.as_str() == MARK {
                return subjects;
            }
            subjects.push(message.subject.to_string());
        }
    }

    /// The same without the answers, and without the roll call and its answers.
    pub async fn requests(&mut self) -> Vec<String> {
        let mut heard = self.heard().await;
        heard.retain(|subject| subject.starts_with("deploy.test.") || subject.starts_with("deploy.prod."));
        heard
    }
}
