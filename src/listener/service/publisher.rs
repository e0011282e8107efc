//! Publishes answers, and probes after each connect which subjects the server lets the listener's key publish on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::bus::{Operation, Renewal, Violation};
use crate::listener::config::Config;
use crate::listener::run::{RunDir, RunSpec};
use crate::protocol::{AnswerScope, Replies, ReplySubject, Response, RolloutId, Subject, Tier};

/// The time limit for flushing published messages.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// The first and the longest interval between two looks for a sign of life from the server.
const LOOK_AFTER: [Duration; 2] = [Duration::from_millis(2), Duration::from_secs(1)];

/// The time limit of a probe if the server does not show that it has read all of it.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// The time in which the client hands on what it has read: violations arrive as events and not as messages.
const HANDED_ON_WITHIN: Duration = Duration::from_millis(20);

/// Publishes while there is a connection.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub(super) client: Client,
    renewal: Renewal,
    config: Arc<Config>,
    pub(super) instance: Uuid,
    pub(super) permissions: PublishPermissions,
    /// Whether there is a connection. Without one nothing is published: the client would send it later, outdated.
    pub(super) connected: bool,
}

impl Publisher {
    pub(super) const fn new(client: Client, renewal: Renewal, config: Arc<Config>, instance: Uuid) -> Self {
        Self { client, renewal, config, instance, permissions: PublishPermissions::UNKNOWN, connected: true }
    }

    /// Begins a probe of the listener's permissions. The last message is sent below the host's own prefix, where nobody
    /// listens. The server reports that on `echo`, after all refusals.
    pub(super) async fn probe_permissions(&self, echo: &Subject) -> PermissionProbe {
        let token = Uuid::new_v4;
        let own = ReplySubject::of_host(self.config.tier, &self.config.run.host, &token().to_string());
        let shared = ReplySubject::single(token());
        let others = Replies::of(RolloutId::from(token())).of_probe(self.config.tier, token());
        for subject in [&shared, &others] {
            self.client.publish(subject.to_string(), Vec::new().into()).await.ok();
        }
        self.client.publish_with_reply(own.to_string(), echo.to_string(), Vec::new().into()).await.ok();
        PermissionProbe::of(own, shared, others)
    }

    pub(super) fn scope(&self, subject: &ReplySubject) -> AnswerScope {
        subject.scope(self.config.tier, &self.config.run.host)
    }

    /// Whether an answer on this subject is this host's to give, and permitted as far as is known.
    pub(super) fn may_answer(&self, subject: &ReplySubject) -> bool {
        self.permissions.allow(self.scope(subject))
    }

    pub(super) async fn respond(&self, to: &ReplySubject, response: &Response) {
        self.publish(to, self.bytes_of(response)).await;
    }

    fn bytes_of(&self, response: &Response) -> Vec<u8> {
        let response = Response { instance: Some(self.instance), ..response.clone() };
        response.to_bytes(self.client.max_payload())
    }

    /// Publishes an answer, but never below the prefix of another host, whatever the request says.
    pub(super) async fn publish(&self, to: &ReplySubject, message: Vec<u8>) {
        if self.may_answer(to) {
            self.send(to, message).await;
        }
    }

    async fn send(&self, to: &ReplySubject, message: Vec<u8>) {
        if self.connected
            && let Err(error) = self.client.publish(to.to_string(), message.into()).await
        {
            tracing::error!("cannot answer to {to}: {error}");
        }
    }

    /// Replaces the connection. Nothing is published until the new one is up.
    pub(super) async fn connect_anew(&mut self) {
        match self.renewal.connect_anew().await {
            Ok(()) => self.connected = false,
            Err(error) => tracing::error!("cannot reconnect: {error}"),
        }
    }

    pub(super) async fn flush(&self) {
        if self.connected {
            timeout(FLUSH_WITHIN, self.client.flush()).await.ok();
        }
    }

    /// Publishes the final responses of these runs, and waits until the server has them or the connection is replaced.
    /// Returns whether the server certainly has them.
    ///
    /// Sending alone proves nothing: when a switch breaks the network, minutes of messages fit into the buffers of the
    /// dead connection. The server handles its input in order, so its answer to a later ping proves that it has read
    /// the rest.
    pub(super) async fn deliver(&self, undelivered: &[(RunDir, RunSpec, Response)]) -> bool {
        let connection = self.connection();
        for (_, RunSpec { reply_to, .. }, response) in undelivered {
            // A deployment may change the name or the tier of its own host. The reply subject was this host's when it accepted
            // the request, and the server decides whether it still is.
            let was_own = Tier::ALL.iter().any(|&tier| reply_to.is_of(tier, &response.hostname));
            if was_own || self.may_answer(reply_to) {
                self.send(reply_to, self.bytes_of(response)).await;
            }
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
            sleep(pause).await;
            pause = longest.min(2 * pause);
        }
        false
    }

    /// Makes the client send a ping, as it does to drain a subscription. Returns whether the client still takes
    /// commands.
    async fn ask_for_a_sign_of_life(&self) -> bool {
        // A subject that the listener may subscribe to.
        match self.client.subscribe(self.config.discover_subject.to_string()).await {
            Ok(mut subscription) => subscription.drain().await.is_ok(),
            Err(_) => false,
        }
    }

    /// Returns the number of the connection, counted from the first.
    fn connection(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    fn heard(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    Unknown,
    Given,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublishPermissions {
    /// Below the host's own prefix.
    pub(super) own: Grant,
    /// On a single token, as listeners of the predecessor do.
    pub(super) shared: Grant,
    /// Below the prefix of another host.
    pub(super) others: Grant,
}

impl PublishPermissions {
    pub(super) const UNKNOWN: Self = Self { own: Grant::Unknown, shared: Grant::Unknown, others: Grant::Unknown };

    pub(super) fn allow(self, place: AnswerScope) -> bool {
        let may = match place {
            AnswerScope::Own => self.own,
            AnswerScope::Shared => self.shared,
            AnswerScope::Outdated => self.others,
            AnswerScope::Foreign => Grant::Refused,
        };
        may != Grant::Refused
    }
}

/// A probe of the permissions: one empty message to each kind of subject.
#[derive(Debug)]
pub(super) struct PermissionProbe {
    /// Subjects below the host's own prefix, of a single token, and below another host's: permitted unless refused.
    tried: [(ReplySubject, Grant); 3],
    pub(super) may_have_missed_refusals: bool,
    pub(super) over_at: Instant,
}

impl PermissionProbe {
    fn of(own: ReplySubject, shared: ReplySubject, others: ReplySubject) -> Self {
        let tried = [own, shared, others].map(|subject| (subject, Grant::Given));
        Self { tried, may_have_missed_refusals: false, over_at: Instant::now() + KNOWN_WITHIN }
    }

    /// Records a violation, and returns whether it belongs to the probe.
    pub(super) fn refused(&mut self, violation: &Violation) -> bool {
        let mut tried = self.tried.iter_mut().enumerate().filter(|_| violation.operation == Operation::Publish);
        let Some((place, (_, may))) = tried.find(|(_, (subject, _))| violation.subject == subject.as_str()) else {
            return false;
        };
        *may = Grant::Refused;
        if place == 0 {
            // The subject that was tried last.
            self.over_at = Instant::now() + HANDED_ON_WITHIN;
        }
        true
    }

    /// Notes that the server has read all of the probe.
    pub(super) fn read(&mut self) {
        self.over_at = self.over_at.min(Instant::now() + HANDED_ON_WITHIN);
    }

    /// Returns the permissions, given those that were known before.
    pub(super) fn outcome(&self, before: PublishPermissions) -> PublishPermissions {
        let known = |found: Grant, before: Grant| {
            if found == Grant::Given && self.may_have_missed_refusals { before } else { found }
        };
        let [own, shared, others] = self.tried.each_ref().map(|(_, found)| *found);
        PublishPermissions {
            own: known(own, before.own),
            shared: known(shared, before.shared),
            others: known(others, before.others),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> PermissionProbe {
        let [own, shared, others] =
            ["prod.ns1.a", "b", "prod.c.d.probe"].map(|place| format!("deploy.responses.{place}").parse().unwrap());
        PermissionProbe::of(own, shared, others)
    }

    fn refusal(subject: &str) -> Violation {
        Violation { operation: Operation::Publish, subject: subject.to_owned() }
    }

    #[tokio::test]
    async fn what_is_refused_is_known_and_what_is_not_is_permitted() {
        let mut probe = probe();
        assert!(probe.refused(&refusal("deploy.responses.b")));
        assert!(!probe.refused(&refusal("deploy.responses.prod.ns2.a")));
        assert!(
            !probe.refused(&Violation { operation: Operation::Subscribe, subject: "deploy.responses.b".to_owned() })
        );
        let permissions = probe.outcome(PublishPermissions::UNKNOWN);
        assert_eq!(permissions, PublishPermissions { own: Grant::Given, shared: Grant::Refused, others: Grant::Given });
        assert!(
            permissions.allow(AnswerScope::Own)
                && !permissions.allow(AnswerScope::Shared)
                && !permissions.allow(AnswerScope::Foreign)
        );
    }

    #[tokio::test]
    async fn what_may_have_been_lost_proves_nothing() {
        let mut probe = probe();
        probe.refused(&refusal("deploy.responses.prod.ns1.a"));
        probe.may_have_missed_refusals = true;
        let permissions = probe.outcome(PublishPermissions { shared: Grant::Refused, ..PublishPermissions::UNKNOWN });
        assert_eq!(
            permissions,
            PublishPermissions { own: Grant::Refused, shared: Grant::Refused, others: Grant::Unknown }
        );
        assert!(permissions.allow(AnswerScope::Outdated) && !permissions.allow(AnswerScope::Own));
    }
}
