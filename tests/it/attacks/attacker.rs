//! An attacker with a key, who sends what no program of this project sends.

use async_nats::{Client, Event, ServerError};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::apply::fake::{Said, read};
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::wait;

/// No key may publish to this subject. Once the server has refused it, the server has processed all earlier messages.
const MARK: &str = "attacker.mark";

pub struct Attacker {
    client: Client,
    refusals: UnboundedReceiver<String>,
}

/// An attacker that answers in the background, until this is dropped.
pub struct Serving {
    _task: JoinSet<()>,
}

impl Attacker {
    pub async fn connect(lab: &Lab, key: &Key) -> Self {
        let (sender, refusals) = unbounded_channel();
        let hear = move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                sender.send(text).ok();
            }
            std::future::ready(())
        };
        let client = lab.server.connect_with(key, |options| options.event_callback(hear)).await.unwrap();
        Self { client, refusals }
    }

    /// Publishes a message, whether or not the server permits it.
    pub async fn say(&self, subject: &str, message: &Value) {
        self.say_bytes(subject, message.to_string().into_bytes()).await;
    }

    pub async fn say_bytes(&self, subject: &str, message: Vec<u8>) {
        self.client.publish(subject.to_owned(), message.into()).await.unwrap();
    }

    /// Returns how often the server has refused something since the last call, once it has processed all messages.
    pub async fn refusals(&mut self) -> usize {
        let mut count = 0;
        let marked = async {
            loop {
                // The client drops events if there are too many, and this one may be among them.
                self.client.publish(MARK, "".into()).await.unwrap();
                while let Ok(Some(text)) = timeout(Duration::from_millis(100), self.refusals.recv()).await {
                    if text.contains(MARK) {
                        return count;
                    }
                    count += 1;
                }
            }
        };
        wait::event("the server refuses the mark", marked).await.unwrap()
    }

    /// Subscribes, whether or not the server permits it.
    pub async fn hear(&self, subject: &str) -> async_nats::Subscriber {
        self.client.subscribe(subject.to_owned()).await.unwrap()
    }

    /// Answers each message on these subjects with the result of `answer`. Returns once the server knows the
    /// subscriptions.
    pub async fn serve(
        mut self,
        subjects: &[&str],
        mut answer: impl FnMut(&str, &Value) -> Vec<Said> + Send + 'static,
    ) -> Serving {
        let mut heard = Vec::new();
        for subject in subjects {
            heard.push(self.hear(subject).await);
        }
        self.refusals().await;
        let mut heard = select_all(heard);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(message) = heard.next().await {
                for (subject, said) in answer(&message.subject, &read(&message.payload)) {
                    self.say(&subject, &said).await;
                }
            }
        });
        Serving { _task: task }
    }
}
