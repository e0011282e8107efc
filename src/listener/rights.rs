//! What the server lets the listener's key publish. The key does not say it, so the listener tries it after each connect.

use std::time::Duration;

use async_nats::Client;
use tokio::time::Instant;
use uuid::Uuid;

use crate::bus::{Operation, Violation};
use crate::protocol::{HostName, Place, Replies, ReplySubject, RolloutId, Subject, Tier};

/// How long the outcome is waited for where the server does not show that it has read all that was tried.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// How long the client takes at most to hand on what it has read: refusals come another way than messages.
const HANDED_ON_WITHIN: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// It was not found out.
    Unknown,
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    /// Below its own prefix.
    pub(super) own: May,
    /// On a single token, as the first listeners do.
    pub(super) shared: May,
    /// Below the prefix of another host.
    pub(super) others: May,
}

impl Rights {
    pub(super) const UNKNOWN: Self = Self { own: May::Unknown, shared: May::Unknown, others: May::Unknown };

    /// Whether an answer may go there, as far as is known.
    pub(super) fn allow(self, place: Place) -> bool {
        let may = match place {
            Place::Own => self.own,
            Place::Shared => self.shared,
            Place::Outdated => self.others,
            Place::Foreign => May::No,
        };
        may != May::No
    }
}

/// Messages without content are on their way, one to each kind of place.
#[derive(Debug)]
pub(super) struct Trial {
    own: ReplySubject,
    shared: ReplySubject,
    others: ReplySubject,
    refused: Rights,
    /// Whether something may have been refused without a word of it coming through.
    pub(super) muddled: bool,
    pub(super) over_at: Instant,
}

impl Trial {
    /// Tries it. The server says last that nobody hears what was sent below the own prefix, on `echo`, which the listener
    /// hears: by then it has said all that it refuses.
    pub(super) async fn begin(client: &Client, tier: Tier, host: &HostName, echo: &Subject) -> Self {
        let token = Uuid::new_v4;
        let trial = Self {
            own: ReplySubject::of_host(tier, host, &token().to_string()),
            shared: ReplySubject::single(token()),
            others: Replies::of(RolloutId::from(token())).of_probe(tier, token()),
            refused: Rights { own: May::Yes, shared: May::Yes, others: May::Yes },
            muddled: false,
            over_at: Instant::now() + KNOWN_WITHIN,
        };
        for subject in [&trial.shared, &trial.others] {
            client.publish(subject.to_string(), Vec::new().into()).await.ok();
        }
        client.publish_with_reply(trial.own.to_string(), echo.to_string(), Vec::new().into()).await.ok();
        trial
    }

    /// The server refused something; whether it was part of this.
    pub(super) fn refused(&mut self, violation: &Violation) -> bool {
        if violation.operation != Operation::Publish {
            return false;
        }
        let Rights { own, shared, others } = &mut self.refused;
        for (subject, may) in [(&self.own, own), (&self.shared, shared), (&self.others, others)] {
            if violation.subject == subject.as_str() {
                *may = May::No;
                if subject == &self.own {
                    // The last one that was sent.
                    self.over_at = Instant::now() + HANDED_ON_WITHIN;
                }
                return true;
            }
        }
        false
    }

    /// The server has read all of it.
    pub(super) fn read(&mut self) {
        self.over_at = self.over_at.min(Instant::now() + HANDED_ON_WITHIN);
    }

    /// What was found out, where before it was so.
    pub(super) fn outcome(&self, before: Rights) -> Rights {
        let known = |found: May, before: May| if found == May::Yes && self.muddled { before } else { found };
        Rights {
            own: known(self.refused.own, before.own),
            shared: known(self.refused.shared, before.shared),
            others: known(self.refused.others, before.others),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        Trial {
            own: "deploy.responses.prod.ns1.a".parse().unwrap(),
            shared: "deploy.responses.b".parse().unwrap(),
            others: "deploy.responses.prod.c.d.probe".parse().unwrap(),
            refused: Rights { own: May::Yes, shared: May::Yes, others: May::Yes },
            muddled: false,
            over_at: Instant::now() + KNOWN_WITHIN,
        }
    }

    fn refusal(subject: &str) -> Violation {
        Violation { operation: Operation::Publish, subject: subject.to_owned() }
    }

    #[tokio::test]
    async fn what_is_refused_is_known_and_what_is_not_is_permitted() {
        let mut trial = trial();
        assert!(trial.refused(&refusal("deploy.responses.b")));
        assert!(!trial.refused(&refusal("deploy.responses.prod.ns2.a")));
        assert!(
            !trial.refused(&Violation { operation: Operation::Subscribe, subject: "deploy.responses.b".to_owned() })
        );
        let rights = trial.outcome(Rights::UNKNOWN);
        assert_eq!(rights, Rights { own: May::Yes, shared: May::No, others: May::Yes });
        assert!(rights.allow(Place::Own) && !rights.allow(Place::Shared) && !rights.allow(Place::Foreign));
    }

    #[tokio::test]
    async fn what_may_have_been_lost_proves_nothing() {
        let mut trial = trial();
        trial.refused(&refusal("deploy.responses.prod.ns1.a"));
        trial.muddled = true;
        let rights = trial.outcome(Rights { shared: May::No, ..Rights::UNKNOWN });
        assert_eq!(rights, Rights { own: May::No, shared: May::No, others: May::Unknown });
        assert!(rights.allow(Place::Outdated) && !rights.allow(Place::Own));
    }
}
