//! A deployer that sends exactly what a test wants, including what no correct program sends.

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use miette::{IntoDiagnostic, Result, miette};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::wait;

/// A bare connection, and the responses to it.
pub struct Deployer {
    client: Client,
    reply_to: String,
    answers: Subscriber,
}

impl Deployer {
    /// Connects with the key of an admin, and subscribes to its own reply subject.
    pub async fn connect(lab: &Lab) -> Result<Self> {
        Self::connect_as(lab, &lab.admin).await
    }

    /// Connects with this key, and subscribes to its own reply subject.
    pub async fn connect_as(lab: &Lab, key: &Key) -> Result<Self> {
        let client = lab.server.connect(key).await?;
        let reply_to = format!("deploy.responses.{}", Uuid::new_v4());
        let answers = subscribe(&client, &reply_to).await?;
        Ok(Self { client, reply_to, answers })
    }

    /// Returns the reply subject.
    pub fn reply_to(&self) -> &str {
        &self.reply_to
    }

    /// Returns a request to switch to `main`, with this id.
    pub fn request(&self, id: &str) -> Value {
        let mut request = self.bare_request();
        request["id"] = id.into();
        request
    }

    /// Returns a request in the form of the predecessor.
    pub fn bare_request(&self) -> Value {
        json!({ "action": "switch", "revision": "main", "reply_to": self.reply_to })
    }

    /// Publishes a message, and waits until the server has it.
    pub async fn say(&self, subject: &str, message: &Value) -> Result<()> {
        self.say_bytes(subject, message.to_string().into_bytes()).await
    }

    /// Publishes bytes, which need not be a valid message.
    pub async fn say_bytes(&self, subject: &str, message: Vec<u8>) -> Result<()> {
        self.client.publish(subject.to_owned(), message.into()).await.into_diagnostic()?;
        self.client.flush().await.into_diagnostic()
    }

    /// Returns the next response.
    pub async fn hear(&mut self) -> Result<Value> {
        message(&next(&mut self.answers).await?)
    }

    /// Returns all responses up to the final one, which is the last.
    pub async fn hear_out(&mut self) -> Result<Vec<Value>> {
        let mut answers = Vec::new();
        loop {
            let answer = self.hear().await?;
            let last = is_final(&answer);
            answers.push(answer);
            if last {
                return Ok(answers);
            }
        }
    }

    /// Returns the final response, skipping those before it.
    pub async fn hear_final(&mut self) -> Result<Value> {
        self.hear_out().await?.pop().ok_or_else(|| miette!("there was no answer"))
    }

    /// Returns the next response with this status, skipping others.
    pub async fn hear_status(&mut self, status: &str) -> Result<Value> {
        loop {
            let answer = self.hear().await?;
            if answer["status"] == status {
                return Ok(answer);
            }
        }
    }

    /// Subscribes to everything below `deploy.`, which takes the key of an admin.
    pub async fn overhear(&self) -> Result<Witness> {
        Ok(Witness(subscribe(&self.client, "deploy.>").await?))
    }
}

/// A subscription to the messages of everybody.
pub struct Witness(Subscriber);

impl Witness {
    /// Returns the next message on a subject with this prefix, and its subject.
    pub async fn hear(&mut self, subject: &str) -> Result<(String, Value)> {
        loop {
            let heard = next(&mut self.0).await?;
            // An empty message only tries whether publishing is allowed.
            if heard.subject.starts_with(subject) && !heard.payload.is_empty() {
                return Ok((heard.subject.to_string(), message(&heard)?));
            }
        }
    }

    /// Returns the subjects of all messages up to and including the final response to the request with this id.
    pub async fn subjects_until_final(&mut self, id: &str) -> Result<Vec<String>> {
        let mut subjects = Vec::new();
        loop {
            let heard = next(&mut self.0).await?;
            subjects.push(heard.subject.to_string());
            if message(&heard).is_ok_and(|message| message["id"] == id && is_final(&message)) {
                return Ok(subjects);
            }
        }
    }
}

/// Returns the text of a field in each message.
pub fn each(messages: &[Value], field: &str) -> Vec<String> {
    messages.iter().map(|message| message[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// Returns the status of each message. Repeats of a status, as for each new phase, count once.
pub fn statuses(messages: &[Value]) -> Vec<String> {
    let mut statuses = each(messages, "status");
    statuses.dedup();
    statuses
}

/// Subscribes, and waits until the server knows the subscription.
pub async fn subscribe(client: &Client, subject: &str) -> Result<Subscriber> {
    let subscription = client.subscribe(subject.to_owned()).await.into_diagnostic()?;
    client.flush().await.into_diagnostic()?;
    Ok(subscription)
}

/// Returns the next message, which must come.
pub async fn next(subscription: &mut Subscriber) -> Result<Message> {
    wait::event("a message arrives", subscription.next()).await?.ok_or_else(|| miette!("the subscription has ended"))
}

/// Parses a message as JSON.
pub fn message(message: &Message) -> Result<Value> {
    serde_json::from_slice(&message.payload).into_diagnostic()
}

/// Whether this response is final.
pub fn is_final(answer: &Value) -> bool {
    ["rejected", "completed", "failed"].iter().any(|status| answer["status"] == *status)
}
