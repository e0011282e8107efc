//! The listener's end of the connection: it hears on subjects and answers to them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};

use super::memory::Untold;
use crate::protocol::{ReplySubject, Response, Subject};

/// How long it may take until all that was said is on its way.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// How long it is waited at first, and at most, before it is looked again whether the server has said something.
const LOOK_AFTER: [Duration; 2] = [Duration::from_millis(2), Duration::from_secs(1)];

/// Says what there is to say while it can be heard.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    client: Client,
    /// A subject that the listener may subscribe to.
    permitted: Subject,
    /// Whether the connection stands.
    pub(super) link: Link,
}

/// Whether the connection stands. While it does not, nothing is published: the client would keep it and send it at
/// some later time, when another state is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    Down,
}

/// Whether the server has been given something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Certain,
    Unknown,
}

impl Voice {
    pub(super) const fn new(client: Client, permitted: Subject) -> Self {
        Self { client, permitted, link: Link::Up }
    }

    pub(super) async fn subscribe(&self, subject: &Subject) -> Result<Subscriber, SubscribeError> {
        self.client.subscribe(subject.to_string()).await
    }

    /// Says how far a request is.
    pub(super) async fn say(&self, to: &ReplySubject, response: &Response) {
        self.publish(to, response.to_bytes(self.client.max_payload())).await;
    }

    pub(super) async fn publish(&self, to: &ReplySubject, message: Vec<u8>) {
        if self.link == Link::Down {
            return;
        }
        if let Err(error) = self.client.publish(to.to_string(), message.into()).await {
            tracing::error!("cannot answer to {to}: {error}");
        }
    }

    /// Leaves the connection, and makes another one. Until that stands nothing is said.
    pub(super) async fn connect_anew(&mut self) {
        match self.client.force_reconnect().await {
            Ok(()) => self.link = Link::Down,
            Err(error) => tracing::error!("cannot connect anew: {error}"),
        }
    }

    /// Waits until all that was said is on its way.
    pub(super) async fn flush(&self) {
        if self.link == Link::Up {
            tokio::time::timeout(FLUSH_WITHIN, self.client.flush()).await.ok();
        }
    }
    /// Says how these runs ended, and waits until the server has it for certain or the connection is another one.
    ///
    /// That it was sent is not enough: when the network went away, with the very switch that is to be told of, whole
    /// minutes of messages fit into the buffers of a dead connection. The server handles what it receives in order, so
    /// what comes from it after it was asked for a sign of life tells that it has read all that was said before.
    pub(super) async fn deliver(&self, untold: &[Untold]) -> Delivery {
        let connection = self.connection();
        for Untold { reply_to, response, .. } in untold {
            self.say(reply_to, response).await;
        }
        self.flush().await;
        let heard = self.heard();
        if self.ask_for_a_sign_of_life().await.is_err() {
            return Delivery::Unknown;
        }
        let [mut pause, longest] = LOOK_AFTER;
        while self.connection() == connection {
            if self.heard() > heard {
                return Delivery::Certain;
            }
            tokio::time::sleep(pause).await;
            pause = longest.min(2 * pause);
        }
        Delivery::Unknown
    }

    /// Makes the client send a ping, which it has no call for: it does so when a subscription is drained.
    async fn ask_for_a_sign_of_life(&self) -> Result<(), Silence> {
        let mut subscription = self.subscribe(&self.permitted).await.map_err(|_| Silence)?;
        subscription.drain().await.map_err(|_| Silence)
    }

    /// Which connection it is, counted from the first.
    fn connection(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// How many bytes the server has sent so far.
    fn heard(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }
}

/// That the client takes no commands any more.
struct Silence;
