//! Builds and parses all NATS subjects of the system.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use super::names::{HostName, Role, Tier, is_token_character};
use super::text::{ParseError, text_type};
use crate::text::all_bytes;

/// The longest subject, in bytes; the server's own limit for a protocol line is 4,096.
pub const MAX_SUBJECT_BYTES: usize = 1024;

pub const DISCOVER: &str = "deploy.discover";

/// The prefix of subjects on which deployers that run a rollout answer.
const OPERATORS: &str = "deploy.operators.";

/// A concrete subject: tokens without wildcards, joined by dots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

/// A subject with `<hostname>`, `<tier>` and `<role>` in place of what differs between hosts.
#[derive(Clone, PartialEq, Eq)]
pub struct SubjectTemplate(String);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One host: `deploy.<tier>.<host>`.
    Host(Tier, HostName),
    /// All hosts of a role in a tier: `deploy.<tier>.role.<role>`.
    Role(Tier, Role),
    /// All hosts of a tier: `deploy.<tier>.all`.
    All(Tier),
    /// A subject of the user's own, to which some listeners are configured to subscribe.
    Custom(Subject),
}

/// Returns the environment variable with the subject of an alias: `HOMELAB_DEPLOY_ALIAS_MY_LAB` for `my-lab`.
pub fn alias_variable(alias: &str) -> String {
    format!("HOMELAB_DEPLOY_ALIAS_{}", alias.to_uppercase().replace('-', "_"))
}

impl Subject {
    /// Creates a subject from parts that were checked before.
    pub(super) fn made(text: String) -> Self {
        Self(text.into())
    }

    pub fn target(&self) -> Result<Target, ParseError> {
        let mut tokens = self.0.split('.');
        let (Some("deploy"), Some(tier)) = (tokens.next(), tokens.next()) else {
            return Ok(Target::Custom(self.clone()));
        };
        let Ok(tier) = tier.parse::<Tier>() else { return Ok(Target::Custom(self.clone())) };
        Ok(match (tokens.next(), tokens.next(), tokens.next()) {
            (Some("all"), None, _) => Target::All(tier),
            (Some("role"), Some(role), None) => Target::Role(tier, role.parse()?),
            (Some(host), None, _) => Target::Host(tier, host.parse()?),
            _ => Target::Custom(self.clone()),
        })
    }
}

impl Target {
    /// Returns the tier whose hosts it reaches; a custom subject does not tell.
    pub const fn tier(&self) -> Option<Tier> {
        match self {
            Self::Host(tier, _) | Self::Role(tier, _) | Self::All(tier) => Some(*tier),
            Self::Custom(_) => None,
        }
    }

    pub fn subject(&self) -> Subject {
        match self {
            Self::Custom(subject) => subject.clone(),
            Self::Host(..) | Self::Role(..) | Self::All(_) => Subject::made(self.parts().concat()),
        }
    }

    /// Whether this is the subject that reaches this target.
    pub fn has_subject(&self, subject: &Subject) -> bool {
        let parts = self.parts();
        let rest = parts.iter().try_fold(subject.as_str(), |rest, part| rest.strip_prefix(part));
        rest == Some("")
    }

    fn parts(&self) -> [&str; 4] {
        match self {
            Self::Host(tier, host) => ["deploy.", tier.as_str(), ".", host.as_str()],
            Self::Role(tier, role) => ["deploy.", tier.as_str(), ".role.", role.as_str()],
            Self::All(tier) => ["deploy.", tier.as_str(), ".all", ""],
            Self::Custom(subject) => [subject.as_str(), "", "", ""],
        }
    }
}

/// Returns the discovery subject of one tier, beside the one for all tiers.
pub fn discover_tier(discover: &Subject, tier: Tier) -> Subject {
    Subject::made(format!("{discover}.{tier}"))
}

/// Returns a subject of this tier without subscribers, to test whether requests may be sent to its hosts.
pub fn probe(tier: Tier, name: Uuid) -> Subject {
    Subject::made(format!("deploy.{tier}.{name}"))
}

/// Returns the subject on which deployers look for rollouts on this tier. The server reports if there are none.
pub fn rollouts_question(tier: Tier) -> Subject {
    Subject::made(format!("{OPERATORS}{tier}.call"))
}

/// Returns the tier of a subject that [`rollouts_answer`] built for this roll call.
pub fn tier_of_rollouts_answer(subject: &str, roll_call: Uuid) -> Option<Tier> {
    let (tier, rest) = subject.strip_prefix(OPERATORS)?.split_once('.')?;
    (rest.parse::<Uuid>() == Ok(roll_call)).then(|| tier.parse().ok())?
}

/// Returns the subject on which deployers that run a rollout on this tier answer a roll call.
pub fn rollouts_answer(tier: Tier, roll_call: Uuid) -> Subject {
    Subject::made(format!("{OPERATORS}{tier}.{roll_call}"))
}

impl SubjectTemplate {
    /// Returns the subjects that a listener subscribes to by default.
    pub fn defaults() -> Vec<Self> {
        ["deploy.<tier>.<hostname>", "deploy.<tier>.all", "deploy.<tier>.role.<role>"]
            .map(|text| Self(text.to_owned()))
            .into()
    }

    /// Returns the subject for one host; `None` if the template has a role and the host has none.
    pub fn expand(&self, host: &HostName, tier: Tier, role: Option<&Role>) -> Result<Option<Subject>, ParseError> {
        let mut text = self.0.replace("<hostname>", host.as_str()).replace("<tier>", tier.as_str());
        if text.contains("<role>") {
            let Some(role) = role else { return Ok(None) };
            text = text.replace("<role>", role.as_str());
        }
        text.parse().map(Some)
    }
}

fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('<').skip(1).filter_map(|rest| rest.split_once('>').map(|(word, _)| word))
}

impl FromStr for SubjectTemplate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(word) = placeholders(text).find(|word| !matches!(*word, "hostname" | "tier" | "role")) {
            let why = format!("it contains <{word}>, and the words are <hostname>, <tier> and <role>");
            return Err(ParseError::new(text, "a subject template", why));
        }
        // With the words filled in it must be a subject, or no host could ever use the template.
        let filled = ["<hostname>", "<tier>", "<role>"].iter().fold(text.to_owned(), |t, word| t.replace(word, "x"));
        check_subject(text, &filled)?;
        if filled.contains('<') {
            return Err(ParseError::new(text, "a subject template", "it contains '<'"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Checks `subject`; an error shows `shown`, which is what the user wrote.
pub(super) fn check_subject(shown: &str, subject: &str) -> Result<(), ParseError> {
    let refused = |why: Cow<'static, str>| Err(ParseError::new(shown, "a concrete subject", why));
    if subject.len() > MAX_SUBJECT_BYTES {
        return refused(format!("it is longer than {MAX_SUBJECT_BYTES} bytes").into());
    }
    let is_plain = all_bytes(subject, |b| b.is_ascii_alphanumeric() | matches!(b, b'.' | b'-'));
    let is_part = |c: char| c == '.' || is_token_character(c);
    if !is_plain && let Some(character) = subject.chars().find(|&c| !is_part(c)) {
        return refused(format!("it contains {character:?}: give one without wildcards or white space").into());
    }
    if subject.as_bytes().split(|b| *b == b'.').any(<[u8]>::is_empty) {
        return refused("it has an empty part between its dots".into());
    }
    Ok(())
}

impl FromStr for Subject {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        check_subject(text, text)?;
        Ok(Self(text.into()))
    }
}

text_type!(Subject, SubjectTemplate);

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
        insta::assert_snapshot!(refusal("deploy..x"), @r#""deploy..x" is not a concrete subject: it has an empty part between its dots"#);
        insta::assert_snapshot!(refusal("deploy.>"), @r#""deploy.>" is not a concrete subject: it contains '>': give one without wildcards or white space"#);
        let template = |text: &str| text.parse::<SubjectTemplate>().unwrap_err().to_string();
        insta::assert_snapshot!(template("deploy.<host>"), @r#""deploy.<host>" is not a subject template: it contains <host>, and the words are <hostname>, <tier> and <role>"#);
        insta::assert_snapshot!(template("deploy.<tier>.*"), @r#""deploy.<tier>.*" is not a concrete subject: it contains '*': give one without wildcards or white space"#);
        insta::assert_snapshot!(template("deploy.<tier"), @r#""deploy.<tier" is not a subject template: it contains '<'"#);
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
            let _ = text.parse::<crate::protocol::ReplySubject>();
        }
    }
}
