//! A deployer that says exactly what a test wants said, also what no well-behaved program says.

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use miette::{IntoDiagnostic, Result, miette};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::wait;

/// A bare connection, and what is answered to it.
pub struct Deployer {
    client: Client,
    reply_to: String,
    answers: Subscriber,
}

impl Deployer {
    /// Connects with the key of an admin, and listens on a reply subject of its own.
    pub async fn connect(lab: &Lab) -> Result<Self> {
        Self::connect_as(lab, &lab.admin).await
    }

    /// Connects with this key, and listens on a reply subject of its own.
    pub async fn connect_as(lab: &Lab, key: &Key) -> Result<Self> {
        let client = lab.server.connect(key).await?;
        let reply_to = format!("deploy.responses.{}", Uuid::new_v4());
        let answers = subscribe(&client, &reply_to).await?;
        Ok(Self { client, reply_to, answers })
    }

    /// Where it waits for answers.
    pub fn reply_to(&self) -> &str {
        &self.reply_to
    }

    /// A request to switch to `main`, with this id.
    pub fn request(&self, id: &str) -> Value {
        let mut request = self.bare_request();
        request["id"] = id.into();
        request
    }

    /// A request as the predecessor makes it.
    pub fn bare_request(&self) -> Value {
        json!({ "action": "switch", "revision": "main", "reply_to": self.reply_to })
    }

    /// Publishes a message, and makes sure that the server has it.
    pub async fn say(&self, subject: &str, message: &Value) -> Result<()> {
        self.say_bytes(subject, message.to_string().into_bytes()).await
    }

    /// The same for what need not be a message at all.
    pub async fn say_bytes(&self, subject: &str, message: Vec<u8>) -> Result<()> {
        self.client.publish(subject.to_owned(), message.into()).await.into_diagnostic()?;
        self.client.flush().await.into_diagnostic()
    }

    /// The next answer.
    pub async fn hear(&mut self) -> Result<Value> {
        message(&next(&mut self.answers).await?)
    }

    /// All answers up to the final one, which is the last.
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

    /// The final answer; those before it are passed over.
    pub async fn hear_final(&mut self) -> Result<Value> {
        self.hear_out().await?.pop().ok_or_else(|| miette!("there was no answer"))
    }

    /// The next answer with this status; others are passed over.
    pub async fn hear_status(&mut self, status: &str) -> Result<Value> {
        loop {
            let answer = self.hear().await?;
            if answer["status"] == status {
                return Ok(answer);
            }
        }
    }

    /// Listens to everything that is said below `deploy.`, and needs the key of an admin for that.
    pub async fn overhear(&self) -> Result<Witness> {
        Ok(Witness(subscribe(&self.client, "deploy.>").await?))
    }
}

/// Hears what everybody says.
pub struct Witness(Subscriber);

impl Witness {
    /// The next message on a subject that begins like this, with its subject.
    pub async fn hear(&mut self, subject: &str) -> Result<(String, Value)> {
        loop {
            let heard = next(&mut self.0).await?;
            // An empty message only tries what may be published.
            if heard.subject.starts_with(subject) && !heard.payload.is_empty() {
                return Ok((heard.subject.to_string(), message(&heard)?));
            }
        }
    }

    /// The subjects of all messages up to the final answer to the request with this id, that one's included.
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

/// The text of a field in each of the messages.
pub fn each(messages: &[Value], field: &str) -> Vec<String> {
    messages.iter().map(|message| message[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// The status of each of the messages; that a host goes on is told as often as it comes to another phase.
pub fn statuses(messages: &[Value]) -> Vec<String> {
    let mut statuses = each(messages, "status");
    statuses.dedup();
    statuses
}

/// Subscribes, and makes sure that the server knows it.
pub async fn subscribe(client: &Client, subject: &str) -> Result<Subscriber> {
    let subscription = client.subscribe(subject.to_owned()).await.into_diagnostic()?;
    client.flush().await.into_diagnostic()?;
    Ok(subscription)
}

/// The next message, which must come.
pub async fn next(subscription: &mut Subscriber) -> Result<Message> {
    wait::event("a message arrives", subscription.next()).await?.ok_or_else(|| miette!("the subscription has ended"))
}

/// A message as JSON.
pub fn message(message: &Message) -> Result<Value> {
    serde_json::from_slice(&message.payload).into_diagnostic()
}

/// Whether no other answer comes after this one.
pub fn is_final(answer: &Value) -> bool {
    ["rejected", "completed", "failed"].iter().any(|status| answer["status"] == *status)
}
