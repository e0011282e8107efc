//! Every NATS subject of the system is made and read here.

use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use uuid::Uuid;

use super::ids::{RequestId, RolloutId};
use super::names::{HostName, NameError, Role, Tier, is_token_character};
use super::text::checked_text;

/// The longest subject, in bytes; a server's own bound on a protocol line is 4,096.
pub const MAX_SUBJECT_BYTES: usize = 1024;

/// Where deployers ask who is there, unless they are told otherwise.
pub const DISCOVER: &str = "deploy.discover";

/// Below this, listeners answer; nothing else may be named in a `reply_to`.
const RESPONSES: &str = "deploy.responses.";

/// Below this, deployers that run a rollout answer.
const OPERATORS: &str = "deploy.operators.";

/// The last token of the subject on which the server reports that nobody listens to a probe.
const PROBE: &str = "probe";

/// A concrete subject: tokens without wildcards, joined by dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

/// A concrete subject below `deploy.responses.`: the only kind a listener publishes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplySubject(Subject);

/// The reply subjects of one rollout: `deploy.responses.<tier>.<host>.<rollout>.<request>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replies {
    rollout: RolloutId,
}

/// The host that published an answer, as the subject of the answer names it. The server lets each key publish below its own
/// prefix only, so no other host can have published there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    /// Its tier.
    pub tier: Tier,
    /// Its name.
    pub host: HostName,
}

/// Who may answer on a reply subject, as one host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This host alone.
    Own,
    /// Any host: the subject has one token, the form that the first listeners know.
    Shared,
    /// Any host, by a form that names none with several tokens: a deployer made it that knew of no other way to tell the
    /// requests of a rollout from each other. Nobody asks for an answer there any more.
    Outdated,
    /// Another host, or no host that there could be.
    Foreign,
}

/// A subject with `<hostname>`, `<tier>` and `<role>` in the place of what differs between hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectTemplate(String);

/// Whom a deploy subject reaches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One host: `deploy.<tier>.<host>`.
    Host(Tier, HostName),
    /// All hosts of a role in a tier: `deploy.<tier>.role.<role>`.
    Role(Tier, Role),
    /// All hosts of a tier: `deploy.<tier>.all`.
    All(Tier),
    /// A subject of the user's own, which some listeners were told to subscribe to.
    Custom(Subject),
}

/// Why a text is not a subject that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// An empty token: nothing at all, or a dot too many.
    #[error("the subject {0:?} has an empty part between its dots")]
    EmptyToken(String),
    /// A wildcard, white space or a control character.
    #[error("the subject {0:?} contains {1:?}: give one concrete subject, without wildcards or white space")]
    Character(String, char),
    /// Longer than [`MAX_SUBJECT_BYTES`].
    #[error("the subject is longer than {MAX_SUBJECT_BYTES} bytes")]
    TooLong,
    /// Not below `deploy.responses.`.
    #[error("{0:?} is not below deploy.responses.")]
    NotAReply(String),
    /// A `<word>` that means nothing.
    #[error("the subject template {0:?} contains <{1}>: the words are <hostname>, <tier> and <role>")]
    Placeholder(String, String),
    /// A host, role or tier in it is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The environment variable that says which subject an alias stands for: `my-lab` is in `HOMELAB_DEPLOY_ALIAS_MY_LAB`.
pub fn alias_variable(alias: &str) -> String {
    format!("HOMELAB_DEPLOY_ALIAS_{}", alias.to_uppercase().replace('-', "_"))
}

impl Subject {
    /// The subject as the wire spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn joined(parts: &[&str]) -> Self {
        Self(parts.concat().into())
    }

    /// Whom the subject reaches, by its form.
    pub fn target(&self) -> Result<Target, SubjectError> {
        let mut tokens = self.0.split('.');
        let (Some("deploy"), Some(tier)) = (tokens.next(), tokens.next()) else {
            return Ok(Target::Custom(self.clone()));
        };
        let Ok(tier) = tier.parse::<Tier>() else {
            return Ok(Target::Custom(self.clone()));
        };
        Ok(match (tokens.next(), tokens.next(), tokens.next()) {
            (Some("all"), None, _) => Target::All(tier),
            (Some("role"), Some(role), None) => Target::Role(tier, role.parse()?),
            (Some(host), None, _) => Target::Host(tier, host.parse()?),
            _ => Target::Custom(self.clone()),
        })
    }
}

impl Target {
    /// The tier whose hosts it reaches; a subject of the user's own does not say.
    pub const fn tier(&self) -> Option<Tier> {
        match self {
            Self::Host(tier, _) | Self::Role(tier, _) | Self::All(tier) => Some(*tier),
            Self::Custom(_) => None,
        }
    }

    /// The subject that reaches this target.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Custom(subject) => subject.clone(),
            Self::Host(..) | Self::Role(..) | Self::All(_) => Subject::joined(&self.parts()),
        }
    }

    /// Whether this is the subject that reaches this target.
    pub fn is_spelled(&self, subject: &Subject) -> bool {
        let parts = self.parts();
        let rest = parts.iter().try_fold(subject.as_str(), |rest, part| rest.strip_prefix(part));
        rest == Some("")
    }

    /// What the subject is made of.
    fn parts(&self) -> [&str; 4] {
        match self {
            Self::Host(tier, host) => ["deploy.", tier.as_str(), ".", host.as_str()],
            Self::Role(tier, role) => ["deploy.", tier.as_str(), ".role.", role.as_str()],
            Self::All(tier) => ["deploy.", tier.as_str(), ".all", ""],
            Self::Custom(subject) => [subject.as_str(), "", "", ""],
        }
    }
}

impl ReplySubject {
    /// The subject as the wire spells it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The reply subject of a single request or roll call, in the form that the first listeners know. Its one token names
    /// no host, so it does not tell who answers there.
    pub fn single(id: Uuid) -> Self {
        Self(Subject(format!("{RESPONSES}{id}").into()))
    }

    /// The subject on which this host, and no other, answers a roll call.
    pub fn of_host(tier: Tier, host: &HostName, roll_call: &str) -> Self {
        Self(Subject::joined(&[RESPONSES, tier.as_str(), ".", host.as_str(), ".", roll_call]))
    }

    /// The pattern that receives the answers of a tier's hosts to a roll call.
    pub fn of_any_host(tier: Tier, roll_call: Uuid) -> String {
        format!("{RESPONSES}{tier}.*.{roll_call}")
    }

    /// Where the server says that nobody is there to answer a roll call. No host has the name in it.
    pub fn of_nobody(tier: Tier, roll_call: Uuid) -> Self {
        Self(Subject(format!("{RESPONSES}{tier}.{roll_call}.{roll_call}").into()))
    }

    /// The token behind `deploy.responses.` of a subject that has only one.
    pub fn single_token(&self) -> Option<&str> {
        self.as_str().strip_prefix(RESPONSES).filter(|token| !token.contains('.'))
    }

    /// Where one of several hosts answers a request that all of them hear; `None` when this is no subject with one token, or
    /// the id would be more than one.
    pub(super) fn of_one_host(&self, tier: Tier, host: &HostName, request: &RequestId) -> Option<Self> {
        let rollout = self.single_token()?;
        let text = format!("{RESPONSES}{tier}.{host}.{rollout}.{request}");
        request.as_str().chars().all(is_token_character).then(|| text.parse().ok())?
    }

    /// Whether this host, and no other, may answer here.
    pub fn is_of(&self, tier: Tier, host: &HostName) -> bool {
        sender_and_rest(self.as_str()).is_some_and(|(of, name, _)| of == tier && name == host.as_str())
    }

    /// Who may answer here, as this host sees it.
    pub fn place(&self, tier: Tier, host: &HostName) -> Place {
        let names_a_tier = || {
            let first = self.as_str().strip_prefix(RESPONSES).and_then(|rest| rest.split('.').next());
            first.is_some_and(|token| token.parse::<Tier>().is_ok())
        };
        match self.single_token() {
            Some(_) => Place::Shared,
            None if self.is_of(tier, host) => Place::Own,
            None if names_a_tier() => Place::Foreign,
            None => Place::Outdated,
        }
    }
}

/// The tier and host that a subject below `deploy.responses.` names, and what comes after them.
fn sender_and_rest(subject: &str) -> Option<(Tier, &str, &str)> {
    let (tier, rest) = subject.strip_prefix(RESPONSES)?.split_once('.')?;
    let (host, rest) = rest.split_once('.')?;
    Some((tier.parse().ok()?, host, rest))
}

impl Sender {
    /// Who published an answer to a roll call, when its subject is `deploy.responses.<tier>.<host>.<roll call>`.
    pub fn of_roll_call(subject: &str, roll_call: &str) -> Option<Self> {
        let (tier, host, rest) = sender_and_rest(subject)?;
        (rest == roll_call).then_some(Self { tier, host: host.parse().ok()? })
    }

    /// The subject of requests to this host alone.
    pub fn subject(&self) -> Subject {
        Target::Host(self.tier, self.host.clone()).subject()
    }
}

impl Replies {
    /// The reply subjects of this rollout.
    pub const fn of(rollout: RolloutId) -> Self {
        Self { rollout }
    }

    /// The pattern that receives the answers of a tier's hosts to every request of the rollout. A server that lets a key hear
    /// one tier refuses a pattern for all of them.
    pub fn pattern(self, tier: Tier) -> String {
        format!("{RESPONSES}{tier}.*.{}.*", self.rollout)
    }

    /// The reply subject of a request to one host.
    pub fn to(self, tier: Tier, host: &HostName, request: &RequestId) -> ReplySubject {
        self.below(tier.as_str(), host.as_str(), request.as_str())
    }

    /// Where listeners of the old form answer a request that several hosts hear.
    pub fn of_all(self) -> ReplySubject {
        ReplySubject(Subject(format!("{RESPONSES}{}", self.rollout).into()))
    }

    /// Where the server says that nobody listens to a probe of this tier.
    pub fn of_probe(self, tier: Tier, probe: Uuid) -> ReplySubject {
        self.below(tier.as_str(), &probe.to_string(), PROBE)
    }

    fn below(self, tier: &str, host: &str, last: &str) -> ReplySubject {
        ReplySubject(Subject(format!("{RESPONSES}{tier}.{host}.{}.{last}", self.rollout).into()))
    }

    /// The host that an answer comes from and the request that it is about; `None` when it is not about this rollout. A name
    /// that is known already, as the answer repeats it, is shared instead of copied.
    pub fn read(self, subject: &str, known: Option<&HostName>) -> Option<(Sender, RequestId)> {
        let (tier, name, rest) = sender_and_rest(subject)?;
        let (rollout, request) = rest.split_once('.')?;
        if rollout.parse::<Uuid>().map(RolloutId::from) != Ok(self.rollout) {
            return None;
        }
        let host = match known.filter(|known| known.as_str() == name) {
            Some(known) => known.clone(),
            None => name.parse().ok()?,
        };
        Some((Sender { tier, host }, request.parse().ok()?))
    }
}

/// The subject on which listeners of one tier are asked who is there, beside the one for all tiers.
pub fn discover_tier(discover: &Subject, tier: Tier) -> Subject {
    Subject::joined(&[discover.as_str(), ".", tier.as_str()])
}

/// A subject of this tier that no host listens on, to try whether requests may be sent to its hosts.
pub fn probe(tier: Tier, name: Uuid) -> Subject {
    Subject(format!("deploy.{tier}.{name}").into())
}

/// The tier and roll call of a subject that [`operators`] makes.
pub fn operators_tier(subject: &str, roll_call: Uuid) -> Option<Tier> {
    let (tier, rest) = subject.strip_prefix(OPERATORS)?.split_once('.')?;
    (rest.parse::<Uuid>() == Ok(roll_call)).then(|| tier.parse().ok())?
}

/// The subject on which deployers that run a rollout on this tier answer a roll call.
pub fn operators(tier: Tier, roll_call: Uuid) -> Subject {
    Subject(format!("{OPERATORS}{tier}.{roll_call}").into())
}

impl SubjectTemplate {
    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subjects that a listener subscribes to, unless it is told otherwise.
    pub fn defaults() -> Vec<Self> {
        ["deploy.<tier>.<hostname>", "deploy.<tier>.all", "deploy.<tier>.role.<role>"]
            .map(|text| Self(text.to_owned()))
            .into()
    }

    /// The subject of one host; `None` when it asks for a role and the host has none.
    pub fn expand(&self, host: &HostName, tier: Tier, role: Option<&Role>) -> Result<Option<Subject>, SubjectError> {
        let mut text = self.0.replace("<hostname>", host.as_str()).replace("<tier>", tier.as_str());
        if text.contains("<role>") {
            let Some(role) = role else { return Ok(None) };
            text = text.replace("<role>", role.as_str());
        }
        text.parse().map(Some)
    }
}

/// The words between `<` and `>` of a template, in order.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('<').skip(1).filter_map(|rest| rest.split_once('>').map(|(word, _)| word))
}

impl FromStr for SubjectTemplate {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if let Some(word) = placeholders(text).find(|word| !matches!(*word, "hostname" | "tier" | "role")) {
            return Err(SubjectError::Placeholder(text.to_owned(), word.to_owned()));
        }
        // What is left after the words are filled in must be a subject, or no host could ever use the template.
        let filled = ["<hostname>", "<tier>", "<role>"].iter().fold(text.to_owned(), |t, word| t.replace(word, "x"));
        check_subject(text, &filled)?;
        if filled.contains('<') {
            return Err(SubjectError::Character(text.to_owned(), '<'));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Checks `subject`; an error shows `shown`, which is what the user wrote.
fn check_subject(shown: &str, subject: &str) -> Result<(), SubjectError> {
    if subject.len() > MAX_SUBJECT_BYTES {
        return Err(SubjectError::TooLong);
    }
    let is_part = |c: char| c == '.' || is_token_character(c);
    if let Some(character) = subject.chars().find(|&c| !is_part(c)) {
        return Err(SubjectError::Character(shown.to_owned(), character));
    }
    if subject.split('.').any(str::is_empty) {
        return Err(SubjectError::EmptyToken(shown.to_owned()));
    }
    Ok(())
}

impl FromStr for Subject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        check_subject(text, text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for ReplySubject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let subject: Subject = text.parse()?;
        if !text.starts_with(RESPONSES) {
            return Err(SubjectError::NotAReply(text.to_owned()));
        }
        Ok(Self(subject))
    }
}

checked_text!(Subject, ReplySubject, SubjectTemplate);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Target {
        text.parse::<Subject>().unwrap().target().unwrap()
    }

    #[test]
    fn subjects_say_whom_they_reach() {
        assert_eq!(target("deploy.prod.ns1"), Target::Host(Tier::Prod, "ns1".parse().unwrap()));
        assert_eq!(target("deploy.prod.role.dns"), Target::Role(Tier::Prod, "dns".parse().unwrap()));
        assert_eq!(target("deploy.test.all"), Target::All(Tier::Test));
        assert!(matches!(target("fleet.ns1"), Target::Custom(_)));
        assert!(matches!(target("deploy.staging.ns1"), Target::Custom(_)));
        assert!("deploy.prod.discover".parse::<Subject>().unwrap().target().is_err());
    }

    #[test]
    fn an_alias_names_its_variable() {
        assert_eq!(alias_variable("my-lab"), "HOMELAB_DEPLOY_ALIAS_MY_LAB");
    }

    #[test]
    fn refused_subjects_say_why() {
        let refusal = |text: &str| text.parse::<Subject>().unwrap_err().to_string();
        insta::assert_snapshot!(refusal("deploy..x"), @r#"the subject "deploy..x" has an empty part between its dots"#);
        insta::assert_snapshot!(refusal("deploy.>"), @r#"the subject "deploy.>" contains '>': give one concrete subject, without wildcards or white space"#);
        let template = |text: &str| text.parse::<SubjectTemplate>().unwrap_err().to_string();
        insta::assert_snapshot!(template("deploy.<host>"), @r#"the subject template "deploy.<host>" contains <host>: the words are <hostname>, <tier> and <role>"#);
        insta::assert_snapshot!(template("deploy.<tier>.*"), @r#"the subject "deploy.<tier>.*" contains '*': give one concrete subject, without wildcards or white space"#);
        insta::assert_snapshot!(template("deploy.<tier"), @r#"the subject "deploy.<tier" contains '<': give one concrete subject, without wildcards or white space"#);
    }

    #[test]
    fn templates_expand_and_leave_out_roles_that_are_not_set() {
        let (host, dns) = ("ns1".parse().unwrap(), "dns".parse().unwrap());
        let expand = |role: Option<&Role>| -> Vec<String> {
            let subjects = SubjectTemplate::defaults().into_iter();
            subjects.filter_map(|t| t.expand(&host, Tier::Prod, role).unwrap()).map(|s| s.to_string()).collect()
        };
        assert_eq!(expand(Some(&dns)), ["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns"]);
        assert_eq!(expand(None), ["deploy.prod.ns1", "deploy.prod.all"]);
    }

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
        for known in [None, Some(&ns1.host), Some(&"ns2".parse().unwrap())] {
            assert_eq!(replies.read(subject.as_str(), known), Some((ns1.clone(), request.clone())));
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
        let request = |id: &str| single.of_one_host(Tier::Prod, &ns1, &id.parse().unwrap());
        let replies = Replies::of(RolloutId::from(Uuid::nil()));
        assert_eq!(request("r-1"), Some(replies.to(Tier::Prod, &ns1, &"r-1".parse().unwrap())));
        assert_eq!((request("r.1"), request("*")), (None, None));
        assert_eq!(own.of_one_host(Tier::Prod, &ns1, &"r-1".parse().unwrap()), None);
        assert!(!single.is_of(Tier::Prod, &ns1));
        assert_eq!(single.single_token(), Some("00000000-0000-0000-0000-000000000000"));
    }

    #[test]
    fn a_host_tells_its_own_place_from_those_of_others() {
        let place = |subject: &str| {
            let subject: ReplySubject = format!("deploy.responses.{subject}").parse().unwrap();
            subject.place(Tier::Prod, &"ns1".parse().unwrap())
        };
        assert_eq!(place("prod.ns1.a"), Place::Own);
        assert_eq!(place("prod.ns1.a.b"), Place::Own);
        assert_eq!(place("4f"), Place::Shared);
        assert_eq!(place("4f.r-1"), Place::Outdated);
        for foreign in ["prod.ns2.a", "test.ns1.a", "prod.ns1", "prod.ns10.a", "prod.all.a", "test.x"] {
            assert_eq!(place(foreign), Place::Foreign, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn targets_and_subjects_are_each_others_inverse(tier in 0..2usize, name in "[a-z][a-z0-9-]{0,9}", kind in 0..3) {
            prop_assume!(!super::super::names::RESERVED.contains(&name.as_str()));
            let tier = Tier::ALL[tier];
            let target = match kind {
                0 => Target::Host(tier, name.parse().unwrap()),
                1 => Target::Role(tier, name.parse().unwrap()),
                _ => Target::All(tier),
            };
            prop_assert_eq!(target.subject().target().unwrap(), target);
        }

        #[test]
        fn parsing_never_panics_and_accepts_no_wildcard(text in "\\PC{0,20}|[a-z.*> <]{0,14}") {
            if let Ok(subject) = text.parse::<Subject>() {
                prop_assert!(subject.as_str().split('.').all(|t| !t.is_empty() && !t.contains(['*', '>', ' '])));
                let _ = subject.target();
            }
            let _ = text.parse::<SubjectTemplate>();
            let _ = text.parse::<ReplySubject>();
        }
    }
}
