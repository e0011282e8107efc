//! The listener's end of the connection: it hears on subjects and answers to them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use uuid::Uuid;

use super::config::Config;
use super::rights::{Rights, Trial};
use super::state_dir::Undelivered;
use crate::bus::Renewal;
use crate::protocol::{HostName, Place, ReplySubject, Response, Subject, Tier};

/// How long it may take until all that was said is on its way.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// How long it is waited at first, and at most, before it is looked again whether the server has said something.
const LOOK_AFTER: [Duration; 2] = [Duration::from_millis(2), Duration::from_secs(1)];

/// Says what there is to say while it can be heard.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub(super) client: Client,
    renewal: Renewal,
    tier: Tier,
    host: HostName,
    instance: Uuid,
    /// A subject that the listener may subscribe to.
    permitted: Subject,
    /// What the server lets it publish, as far as is known.
    pub(super) rights: Rights,
    /// Whether the connection stands. While it does not, nothing is published: the client would keep it and send it at
    /// some later time, when another state is true.
    pub(super) connected: bool,
}

impl Publisher {
    pub(super) fn new(client: Client, renewal: Renewal, config: &Config, instance: Uuid) -> Self {
        Self {
            client,
            renewal,
            tier: config.tier,
            host: config.hostname.clone(),
            instance,
            permitted: config.discover_subject.clone(),
            rights: Rights::UNKNOWN,
            connected: true,
        }
    }

    /// Tries what the server lets this listener publish. It hears the end of that on `echo`.
    pub(super) async fn try_rights(&self, echo: &Subject) -> Trial {
        Trial::begin(&self.client, self.tier, &self.host, echo).await
    }

    pub(super) fn place(&self, subject: &ReplySubject) -> Place {
        subject.place(self.tier, &self.host)
    }

    /// Whether an answer there is this host's to give, and the server passes it on as far as is known.
    pub(super) fn may_answer(&self, subject: &ReplySubject) -> bool {
        self.rights.allow(self.place(subject))
    }

    pub(super) async fn say(&self, to: &ReplySubject, response: &Response) {
        let response = Response { instance: Some(self.instance), ..response.clone() };
        self.publish(to, response.to_bytes(self.client.max_payload())).await;
    }

    /// Publishes an answer, but never below the prefix of another host, whatever was asked for.
    pub(super) async fn publish(&self, to: &ReplySubject, message: Vec<u8>) {
        if !self.connected || !self.may_answer(to) {
            return;
        }
        if let Err(error) = self.client.publish(to.to_string(), message.into()).await {
            tracing::error!("cannot answer to {to}: {error}");
        }
    }

    /// Leaves the connection, and makes another one. Until that stands nothing is said.
    pub(super) async fn connect_anew(&mut self) {
        match self.renewal.connect_anew().await {
            Ok(()) => self.connected = false,
            Err(error) => tracing::error!("cannot connect anew: {error}"),
        }
    }

    /// Waits until all that was said is on its way.
    pub(super) async fn flush(&self) {
        if self.connected {
            tokio::time::timeout(FLUSH_WITHIN, self.client.flush()).await.ok();
        }
    }

    /// Says how these runs ended, and waits until the server has it or the connection is another one. Returns whether the
    /// server has it for certain.
    ///
    /// That it was sent is not enough: when the network went away, with the very switch that is to be told of, whole
    /// minutes of messages fit into the buffers of a dead connection. The server handles what it receives in order, so
    /// what comes from it after it was asked for a sign of life tells that it has read all that was said before.
    pub(super) async fn deliver(&self, untold: &[Undelivered]) -> bool {
        let connection = self.connection();
        for Undelivered { reply_to, response, .. } in untold {
            self.say(reply_to, response).await;
        }
        self.flush().await;
        let heard = self.heard();
        if !self.ask_for_a_sign_of_life().await {
            return false;
        }
        let [mut pause, longest] = LOOK_AFTER;
        while self.connection() == connection {
            if self.heard() > heard {
                return true;
            }
            tokio::time::sleep(pause).await;
            pause = longest.min(2 * pause);
        }
        false
    }

    /// Makes the client send a ping, which it has no call for: it does so when a subscription is drained. Returns whether the
    /// client still takes commands.
    async fn ask_for_a_sign_of_life(&self) -> bool {
        match self.client.subscribe(self.permitted.to_string()).await {
            Ok(mut subscription) => subscription.drain().await.is_ok(),
            Err(_) => false,
        }
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
