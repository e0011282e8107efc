//! Handles events of the connection, and the permissions that the server grants.

use jiff::SignedDuration;

use super::discovery::ProblemKind;
use super::publisher::Grant;
use super::{Service, for_log};
use crate::bus::{BusEvent, Operation, Violation};
use crate::clock;
use crate::listener::ListenerError;
use crate::protocol::subject::discover_tier;
use crate::protocol::{AnswerScope, ReplySubject, Subject};

/// The age up to which a final response is repeated after the connection was lost.
const REPEAT_FINAL_FOR: SignedDuration = SignedDuration::from_hours(1);

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
