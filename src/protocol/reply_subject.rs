//! Reply subjects, which name the host that answers on them.

use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use super::ids::{RequestId, RolloutId};
use super::names::{HostName, Tier, is_token_character};
use super::response::Response;
use super::subject::{Subject, Target, check_subject};
use super::text::{ParseError, text_type};

/// The prefix of all reply subjects; a `reply_to` may name nothing else.
const RESPONSES: &str = "deploy.responses.";

/// The last token of the subject on which the server reports that a probe has no subscribers.
const PROBE: &str = "probe";

/// A concrete subject below `deploy.responses.`, the only kind that a listener publishes to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplySubject(Arc<str>);

/// The reply subjects of one rollout: `deploy.responses.<tier>.<host>.<rollout>.<request>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replies {
    rollout: RolloutId,
}

/// The host that published an answer, by the subject of the answer. The server lets each key publish below its own
/// prefix only, so no other host can have published there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    pub tier: Tier,
    pub host: HostName,
}

/// The hosts that may answer on a reply subject, as one host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerScope {
    /// Only this host.
    Own,
    /// Any host: the subject has one token, the form that the first listeners use.
    Shared,
    /// Any host, in an old form with several tokens that name none: `deploy.responses.<rollout>.<request>`. Deployers used
    /// it to tell the requests of a rollout apart; none asks for such an answer today.
    Outdated,
    /// Another host, or one that cannot exist.
    Foreign,
}

impl ReplySubject {
    /// Returns the reply subject of a single request or roll call in the form of the first listeners. Its one token
    /// names no host, so it does not prove who answers there.
    pub fn single(id: Uuid) -> Self {
        Self(format!("{RESPONSES}{id}").into())
    }

    /// Returns the subject on which only this host answers a roll call.
    pub fn of_host(tier: Tier, host: &HostName, roll_call: &str) -> Self {
        Self(format!("{RESPONSES}{tier}.{host}.{roll_call}").into())
    }

    /// Returns the pattern that matches the answers of a tier's hosts to a roll call.
    pub fn roll_call_pattern(tier: Tier, roll_call: Uuid) -> String {
        format!("{RESPONSES}{tier}.*.{roll_call}")
    }

    /// Returns the subject on which the server reports a roll call without subscribers. No host has its name.
    pub fn roll_call_unheard(tier: Tier, roll_call: Uuid) -> Self {
        Self(format!("{RESPONSES}{tier}.{roll_call}.{roll_call}").into())
    }

    /// Returns the token after `deploy.responses.` if it is the only one.
    pub fn single_token(&self) -> Option<&str> {
        self.as_str().strip_prefix(RESPONSES).filter(|token| !token.contains('.'))
    }

    /// Returns the subject on which one of several hosts answers a shared request; `None` if this subject has more than
    /// one token, or the id would become more than one.
    pub(super) fn shared_answer_of(&self, tier: Tier, host: &HostName, request: &RequestId) -> Option<Self> {
        let rollout = self.single_token()?;
        let text = format!("{RESPONSES}{tier}.{host}.{rollout}.{request}");
        request.as_str().chars().all(is_token_character).then(|| text.parse().ok())?
    }

    /// Whether only this host may answer on this subject.
    pub fn is_of(&self, tier: Tier, host: &HostName) -> bool {
        sender_and_rest(self.as_str()).is_some_and(|(of, name, _)| of == tier && name == host.as_str())
    }

    /// Returns which hosts may answer on this subject, as this host sees it.
    pub fn scope(&self, tier: Tier, host: &HostName) -> AnswerScope {
        let names_a_tier = || {
            let first = self.as_str().strip_prefix(RESPONSES).and_then(|rest| rest.split('.').next());
            first.is_some_and(|token| token.parse::<Tier>().is_ok())
        };
        match self.single_token() {
            Some(_) => AnswerScope::Shared,
            None if self.is_of(tier, host) => AnswerScope::Own,
            None if names_a_tier() => AnswerScope::Foreign,
            None => AnswerScope::Outdated,
        }
    }
}

/// Returns the tier and host that a subject below `deploy.responses.` names, and the rest of it.
fn sender_and_rest(subject: &str) -> Option<(Tier, &str, &str)> {
    let (tier, rest) = subject.strip_prefix(RESPONSES)?.split_once('.')?;
    let (host, rest) = rest.split_once('.')?;
    Some((tier.parse().ok()?, host, rest))
}

impl Sender {
    /// Returns the sender of an answer to a roll call, from its subject `deploy.responses.<tier>.<host>.<roll call>`.
    pub fn of_roll_call(subject: &str, roll_call: &str) -> Option<Self> {
        let (tier, host, rest) = sender_and_rest(subject)?;
        (rest == roll_call).then_some(Self { tier, host: host.parse().ok()? })
    }

    pub fn subject(&self) -> Subject {
        Target::Host(self.tier, self.host.clone()).subject()
    }
}

impl Replies {
    pub const fn of(rollout: RolloutId) -> Self {
        Self { rollout }
    }

    /// Returns the pattern that matches the answers of a tier's hosts to every request of the rollout. If a key may
    /// hear only one tier, the server refuses it a pattern for all.
    pub fn pattern(self, tier: Tier) -> String {
        format!("{RESPONSES}{tier}.*.{}.*", self.rollout)
    }

    /// Returns the reply subject of a request to one host.
    pub fn to(self, tier: Tier, host: &HostName, request: &RequestId) -> ReplySubject {
        self.below(tier.as_str(), host.as_str(), request.as_str())
    }

    /// Returns the subject on which old listeners answer a shared request.
    pub fn of_all(self) -> ReplySubject {
        ReplySubject(format!("{RESPONSES}{}", self.rollout).into())
    }

    /// Returns the subject on which the server reports that a probe of this tier has no subscribers.
    pub fn of_probe(self, tier: Tier, probe: Uuid) -> ReplySubject {
        self.below(tier.as_str(), &probe.to_string(), PROBE)
    }

    fn below(self, tier: &str, host: &str, last: &str) -> ReplySubject {
        let mut buffer = Uuid::encode_buffer();
        let rollout = self.rollout.encode(&mut buffer);
        ReplySubject([RESPONSES, tier, ".", host, ".", rollout, ".", last].concat().into())
    }

    /// Returns the host that an answer comes from and its request; `None` if it is not about this rollout. A name or id that
    /// the answer repeats is shared with it instead of copied.
    pub fn read(self, subject: &str, answer: Option<&Response>) -> Option<(Sender, RequestId)> {
        let (tier, name, rest) = sender_and_rest(subject)?;
        let (rollout, id) = rest.split_once('.')?;
        if rollout != self.rollout.encode(&mut Uuid::encode_buffer()) {
            return None;
        }
        let host = match answer.map(|answer| &answer.hostname).filter(|host| host.as_str() == name) {
            Some(host) => host.clone(),
            None => name.parse().ok()?,
        };
        let request = match answer.and_then(|answer| answer.id.as_ref()).filter(|request| request.as_str() == id) {
            Some(request) => request.clone(),
            None => id.parse().ok()?,
        };
        Some((Sender { tier, host }, request))
    }
}

impl FromStr for ReplySubject {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        check_subject(text, text)?;
        if !text.starts_with(RESPONSES) {
            return Err(ParseError::new(text, "a reply subject", "it is not below deploy.responses."));
        }
        Ok(Self(text.into()))
    }
}

text_type!(ReplySubject);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Status;

    #[test]
    fn only_concrete_subjects_below_responses_are_replied_to() {
        assert!("deploy.responses.4f".parse::<ReplySubject>().is_ok());
        for foreign in [
            "deploy.prod.all",
            "deploy.responses.>",
            "deploy.responses.",
            "deploy.responses",
            "_INBOX.x",
            "deploy.responses.a b",
            "deploy.responses.a\r\nPUB x",
        ] {
            assert!(foreign.parse::<ReplySubject>().is_err(), "{foreign:?}");
        }
    }

    #[test]
    fn a_reply_is_traced_to_its_request() {
        let replies = Replies::of(RolloutId::from(Uuid::from_u128(1)));
        let request: RequestId = "r-1".parse().unwrap();
        let ns1 = Sender { tier: Tier::Prod, host: "ns1".parse().unwrap() };
        let subject = replies.to(ns1.tier, &ns1.host, &request);
        insta::assert_snapshot!(subject, @"deploy.responses.prod.ns1.00000000-0000-0000-0000-000000000001.r-1");
        insta::assert_snapshot!(replies.pattern(Tier::Prod), @"deploy.responses.prod.*.00000000-0000-0000-0000-000000000001.*");
        for (host, id) in [("ns1", None), ("ns2", Some("r-2")), ("ns1", Some("r-1"))] {
            let answer = Response::new(host.parse().unwrap(), Status::Accepted, "");
            let answer = Response { id: id.map(|id| id.parse().unwrap()), ..answer };
            for answer in [None, Some(&answer)] {
                assert_eq!(replies.read(subject.as_str(), answer), Some((ns1.clone(), request.clone())));
            }
        }
        let another = Replies::of(RolloutId::from(Uuid::from_u128(2)));
        assert_eq!(another.read(subject.as_str(), None), None);
        for foreign in ["deploy.responses.prod.ns1", "deploy.responses.staging.ns1.x.y", "deploy.prod.ns1", ""] {
            assert_eq!(replies.read(foreign, None), None, "{foreign}");
        }
    }

    #[test]
    fn a_reply_subject_says_which_host_may_answer_there() {
        let (ns1, ns2): (HostName, HostName) = ("ns1".parse().unwrap(), "ns2".parse().unwrap());
        let own = ReplySubject::of_host(Tier::Prod, &ns1, "call");
        insta::assert_snapshot!(own, @"deploy.responses.prod.ns1.call");
        assert!(own.is_of(Tier::Prod, &ns1));
        assert!(!own.is_of(Tier::Test, &ns1) && !own.is_of(Tier::Prod, &ns2));
        assert_eq!(own.single_token(), None);
        assert_eq!(Sender::of_roll_call(own.as_str(), "call").unwrap().host, ns1);
        assert_eq!(Sender::of_roll_call(own.as_str(), "another"), None);
        let single = ReplySubject::single(Uuid::nil());
        let request = |id: &str| single.shared_answer_of(Tier::Prod, &ns1, &id.parse().unwrap());
        let replies = Replies::of(RolloutId::from(Uuid::nil()));
        assert_eq!(request("r-1"), Some(replies.to(Tier::Prod, &ns1, &"r-1".parse().unwrap())));
        assert_eq!((request("r.1"), request("*")), (None, None));
        assert_eq!(own.shared_answer_of(Tier::Prod, &ns1, &"r-1".parse().unwrap()), None);
        assert!(!single.is_of(Tier::Prod, &ns1));
        assert_eq!(single.single_token(), Some("00000000-0000-0000-0000-000000000000"));
    }

    #[test]
    fn a_host_tells_its_own_place_from_those_of_others() {
        let place = |subject: &str| {
            let subject: ReplySubject = format!("deploy.responses.{subject}").parse().unwrap();
            subject.scope(Tier::Prod, &"ns1".parse().unwrap())
        };
        assert_eq!(place("prod.ns1.a"), AnswerScope::Own);
        assert_eq!(place("prod.ns1.a.b"), AnswerScope::Own);
        assert_eq!(place("4f"), AnswerScope::Shared);
        assert_eq!(place("4f.r-1"), AnswerScope::Outdated);
        for foreign in ["prod.ns2.a", "test.ns1.a", "prod.ns1", "prod.ns10.a", "prod.all.a", "test.x"] {
            assert_eq!(place(foreign), AnswerScope::Foreign, "{foreign}");
        }
    }
}
