//! The listener's end of the connection: it hears on subjects and answers to them.

use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};

use crate::protocol::{ReplySubject, Response, Subject};

/// How long it may take until all that was said is on its way.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Says what there is to say while it can be heard.
#[derive(Debug)]
pub(super) struct Voice {
    client: Client,
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

impl Voice {
    pub(super) const fn new(client: Client) -> Self {
        Self { client, link: Link::Up }
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

    /// Waits until all that was said is on its way.
    pub(super) async fn flush(&self) {
        if self.link == Link::Up {
            tokio::time::timeout(FLUSH_WITHIN, self.client.flush()).await.ok();
        }
    }
}
