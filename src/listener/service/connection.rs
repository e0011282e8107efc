//! The connection of the listener: publishes answers, handles the events of the connection, and probes after each connect
//! which subjects the server lets the listener's key publish on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::discovery::ProblemKind;
use super::{Service, for_log};
use crate::bus::{BusEvent, Operation, Renewal, Violation};
use crate::clock;
use crate::listener::ListenerError;
use crate::listener::config::Config;
use crate::listener::run::{RunDir, RunSpec};
use crate::protocol::subject::discover_tier;
use crate::protocol::{AnswerScope, Replies, ReplySubject, Response, RolloutId, Subject, Tier};

const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// The first and the longest interval between two looks for a sign of life from the server.
const LOOK_AFTER: [Duration; 2] = [Duration::from_millis(2), Duration::from_secs(1)];

/// The time limit of a probe if the server does not show that it has read all of it.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// The time in which the client hands on what it has read: violations arrive as events and not as messages.
const HANDED_ON_WITHIN: Duration = Duration::from_millis(20);

/// The age up to which a final response is repeated after the connection was lost.
const REPEAT_FINAL_FOR: SignedDuration = SignedDuration::from_hours(1);

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
        let statistics = self.client.statistics();
        let (connection, heard) =
            (|| statistics.connects.load(Ordering::Relaxed), || statistics.in_bytes.load(Ordering::Relaxed));
        let used = connection();
        for (_, RunSpec { reply_to, .. }, response) in undelivered {
            // A deployment may change the name or the tier of its own host. The reply subject was this host's when it accepted
            // the request, and the server decides whether it still is.
            let was_own = Tier::ALL.iter().any(|&tier| reply_to.is_of(tier, &response.hostname));
            if was_own || self.may_answer(reply_to) {
                self.send(reply_to, self.bytes_of(response)).await;
            }
        }
        self.flush().await;
        let heard_before = heard();
        // To drain a subscription, the client sends a ping. The listener may subscribe to this subject.
        let Ok(mut subscription) = self.client.subscribe(self.config.discover_subject.to_string()).await else {
            return false;
        };
        if subscription.drain().await.is_err() {
            return false;
        }
        let [mut pause, longest] = LOOK_AFTER;
        while connection() == used {
            if heard() > heard_before {
                return true;
            }
            sleep(pause).await;
            pause = longest.min(2 * pause);
        }
        false
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

impl Service {
    /// Subscribes to requests. They wait until the permissions are known.
    pub(super) async fn subscribe_to_requests(&mut self) -> Result<(), ListenerError> {
        for subject in &self.config.deploy_subjects {
            self.requests.subscribe(&self.publisher.client, subject).await?;
        }
        self.begin_probe().await;
        Ok(())
    }

    /// Subscribes to roll calls, once the permissions are known: in a flood of questions violations could get lost.
    pub(super) async fn subscribe_to_questions(&mut self) -> Result<(), ListenerError> {
        for subject in [&self.config.discover_subject, &self.roll_calls_of_tier()] {
            self.questions.subscribe(&self.publisher.client, subject).await?;
        }
        self.publisher.flush().await;
        let subjects: Vec<&str> = self.config.deploy_subjects.iter().map(Subject::as_str).collect();
        tracing::info!("listening on {}", subjects.join(", "));
        Ok(())
    }

    /// Handles an event of the connection. Fails if there will be no connection any more.
    pub(super) async fn on_bus_event(&mut self, event: BusEvent) -> Result<(), ListenerError> {
        match event {
            BusEvent::Up => {
                tracing::info!("connected again");
                self.lockout.over();
                self.publisher.connected = true;
                self.problems.remove(ProblemKind::CannotHear);
                self.begin_probe().await;
                self.repeat_state().await;
            }
            BusEvent::Down => {
                tracing::warn!("connection lost");
                self.publisher.connected = false;
                self.probe = None;
            }
            BusEvent::Refused(violation) => self.refused(&violation),
            BusEvent::SlowConsumer => {
                if let Some(probe) = &mut self.probe {
                    probe.may_have_missed_refusals = true;
                }
                self.warn_limited(|| "too many messages at once: some are lost".to_owned());
            }
            BusEvent::LockedOut if self.lockout.refused() => return Err(ListenerError::LockedOut),
            BusEvent::LockedOut => {
                self.warn_limited(|| "cannot reconnect: the server refuses this key".to_owned());
            }
            BusEvent::Error(error) => self.warn_limited(|| for_log(&error)),
        }
        Ok(())
    }

    async fn begin_probe(&mut self) {
        if let Some(subject) = self.config.deploy_subjects.first() {
            self.probe = Some(self.publisher.probe_permissions(subject).await);
        }
    }

    pub(super) fn end_probe(&mut self) {
        let Some(probe) = self.probe.take() else { return };
        let (before, permissions) = (self.publisher.permissions, probe.outcome(self.publisher.permissions));
        self.publisher.permissions = permissions;
        let prefix = format!("deploy.responses.{}.{}.>", self.config.tier, self.config.run.host);
        let unheard = format!("the server does not let this host publish {prefix}: no deployer hears its answers");
        let others = format!("the server lets this host answer for others: {prefix} is enough, see `nats-config`");
        for (kind, may, wrong, message) in [
            (ProblemKind::MayNotAnswer, permissions.own, Grant::Refused, unheard),
            (ProblemKind::PermissionsTooWide, permissions.others, Grant::Given, others),
        ] {
            if may == wrong {
                self.problems.add(kind, "", &message);
            } else if may != Grant::Unknown {
                self.problems.remove(kind);
            }
        }
        if permissions.shared == Grant::Refused && before.shared != Grant::Refused {
            tracing::info!("permissions are strict: deployers that know only the old form of answers are not served");
        }
    }

    /// Handles a violation. The server's configuration may be repaired at any time, so the listener goes on.
    fn refused(&mut self, violation: &Violation) {
        if self.probe.as_mut().is_some_and(|probe| probe.refused(violation)) {
            return tracing::debug!("tried: {violation}");
        }
        let subject = violation.subject.as_str();
        match violation.operation {
            // Optional: the permissions of the predecessor do not include it.
            Operation::Subscribe if subject == self.roll_calls_of_tier().as_str() => tracing::debug!("{violation}"),
            Operation::Subscribe => {
                let message =
                    format!("{violation}: nothing that is sent there arrives; see its permissions on the server");
                self.problems.add(ProblemKind::CannotHear, subject, &message);
            }
            Operation::Publish => {
                if subject
                    .parse::<ReplySubject>()
                    .is_ok_and(|subject| self.publisher.scope(&subject) == AnswerScope::Shared)
                {
                    self.publisher.permissions.shared = Grant::Refused;
                }
                self.warn_limited(|| {
                    format!("{}: see the permissions of its user on the server", for_log(&violation.to_string()))
                });
            }
        }
    }

    fn roll_calls_of_tier(&self) -> Subject {
        discover_tier(&self.config.discover_subject, self.config.tier)
    }

    /// Repeats what may have been lost with the connection: the progress of the run, and the last final response.
    async fn repeat_state(&mut self) {
        self.report_progress().await;
        if self.undelivered.is_empty()
            && let Some((spec, response)) = self.history.last()
            && response.at.is_some_and(|at| clock::now().duration_since(at) < REPEAT_FINAL_FOR)
        {
            self.publisher.respond(&spec.reply_to, response).await;
        }
        self.deliver();
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
