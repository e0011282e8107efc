//! Tries the permissions of a key: a key does not contain them, and the server reports only refusals.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::yield_now;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Bus, BusEvent, Operation};
use crate::protocol::subject::DISCOVER;
use crate::protocol::{DiscoveryRequest, ReplySubject};

const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub refused: Vec<(Operation, String)>,
    /// Whether the key may use subjects outside of this program.
    pub beyond: bool,
}

impl Bus {
    /// Tries to publish or subscribe to these subjects. The error says why the trial failed.
    ///
    /// No listener takes a published message for a request: it is empty, or a roll call.
    pub async fn try_out(&mut self, permissions: &[(Operation, String)]) -> Result<Tried, String> {
        let disconnected = |_| "the connection was lost".to_owned();
        let mut subscribers = Vec::new();
        for (operation, subject) in permissions {
            match operation {
                Operation::Subscribe => {
                    subscribers.push(self.client.subscribe(subject.clone()).await.map_err(|error| error.to_string())?);
                }
                Operation::Publish => {
                    self.client.publish(subject.clone(), payload(subject).into()).await.map_err(disconnected)?;
                }
            }
        }
        // The server handles messages in order. It refuses the last one or sends it back; either way, all earlier
        // refusals have arrived before that.
        let last = format!("homelab-deploy.{}", Uuid::new_v4());
        let mut echo = self.client.subscribe(last.clone()).await.map_err(|error| error.to_string())?;
        self.client.publish(last.clone(), Vec::new().into()).await.map_err(disconnected)?;
        let mut tried = Tried { refused: Vec::new(), beyond: false };
        let answered = async {
            loop {
                tokio::select! {
                    Some(_) = echo.next() => {
                        tried.beyond = true;
                        return Ok(());
                    }
                    event = self.events.recv() => match event {
                        Some(BusEvent::Refused(violation)) if violation.subject == last => return Ok(()),
                        Some(BusEvent::Refused(violation)) => tried.refused.push((violation.operation, violation.subject)),
                        Some(BusEvent::Up | BusEvent::SlowConsumer | BusEvent::LockedOut | BusEvent::Error(_)) => {}
                        Some(BusEvent::Down) | None => return Err("the connection was lost".to_owned()),
                    },
                }
            }
        };
        timeout(ANSWERED_WITHIN, answered).await.map_err(|_| "the server does not answer".to_owned())??;
        // The client passes errors of the server to another task than the messages that came after them.
        for _ in 0..2 {
            yield_now().await;
        }
        while let Some(event) = self.events.try_recv() {
            if let BusEvent::Refused(violation) = event {
                tried.refused.push((violation.operation, violation.subject));
            }
        }
        Ok(tried)
    }
}

/// Returns the message with which to try a subject.
fn payload(subject: &str) -> Vec<u8> {
    if subject.starts_with(DISCOVER) {
        // Listeners log a warning about any other message there.
        return DiscoveryRequest { reply_to: ReplySubject::single(Uuid::new_v4()), tier: None, per_host: true }
            .to_bytes();
    }
    Vec::new()
}
