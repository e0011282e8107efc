//! Compares the permissions of a key with those that it needs.

use super::{Permissions, Principal, Strictness, answers_of, deployer};
use crate::protocol::{SubjectError, Tier};

/// An operation that needs a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Publish,
    Subscribe,
}

/// An operation and the pattern of its subjects.
pub type Permission = (Operation, String);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deviation {
    /// The key needs this permission and does not have it.
    Lacks(Permission),
    /// The key has this permission and does not need it.
    Exceeds(Permission),
}

impl Operation {
    /// Returns the verb, as in "may not publish to".
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

impl Permissions {
    /// Returns how these permissions differ from the needed ones.
    pub fn deviations_from(&self, needed: &Self) -> Vec<Deviation> {
        let mut deviations = Vec::new();
        for operation in [Operation::Publish, Operation::Subscribe] {
            let (allowed, denied) = self.of(operation);
            let (wanted, never) = needed.of(operation);
            let is_allowed = |subject: &str| any_covers(allowed, subject) && !any_covers(denied, subject);
            let lacks = wanted.iter().filter(|subject| !is_allowed(subject));
            deviations.extend(lacks.map(|subject| Deviation::Lacks((operation, subject.clone()))));
            let is_beyond = |subject: &&String| !any_covers(wanted, subject) && !any_covers(denied, subject);
            let exceeds = allowed.iter().filter(is_beyond).chain(never.iter().filter(|never| is_allowed(never)));
            deviations.extend(exceeds.map(|subject| Deviation::Exceeds((operation, subject.clone()))));
        }
        deviations
    }

    fn of(&self, operation: Operation) -> (&[String], &[String]) {
        match operation {
            Operation::Publish => (&self.publish, &self.never_publish),
            Operation::Subscribe => (&self.subscribe, &self.never_subscribe),
        }
    }
}

impl Principal {
    /// Returns the single permissions that a key of this owner needs.
    pub fn needs(&self) -> Result<Vec<Permission>, SubjectError> {
        let permissions = match self {
            Self::Admin => Tier::ALL.map(deployer).into(),
            Self::TestDeployer | Self::Listener(_) => vec![self.permissions(Strictness::Strict)?],
        };
        let mut needs: Vec<Permission> = permissions.into_iter().flat_map(Permissions::into_list).collect();
        // The tiers share a subject of the roll call.
        needs.sort();
        needs.dedup();
        Ok(needs)
    }

    /// Returns permissions that a key of this owner must not have and that can be tried without side effects.
    pub fn must_not(&self) -> Result<Vec<Permission>, SubjectError> {
        let needs = self.needs()?;
        let is_needed = |(operation, subject): &Permission| {
            *self == Self::Admin
                || needs.iter().any(|(needed, pattern)| needed == operation && covers(pattern, subject))
        };
        let of_tier = |tier: Tier| [format!("deploy.{tier}.>"), answers_of(tier), format!("deploy.operators.{tier}.>")];
        let subjects = Tier::ALL.into_iter().flat_map(of_tier);
        let all = subjects.flat_map(|subject| {
            [Operation::Publish, Operation::Subscribe].map(|operation| (operation, subject.clone()))
        });
        Ok(all.filter(|permission| !is_needed(permission)).collect())
    }

    /// Guesses the owner of a key from its permissions.
    pub fn guess(permissions: &Permissions) -> Option<Self> {
        let publishes = |subject: &str| any_covers(&permissions.publish, subject);
        if publishes("deploy.prod.x") {
            return Some(Self::Admin);
        }
        if publishes("deploy.test.x") {
            return Some(Self::TestDeployer);
        }
        let name = |subject: &String| {
            let subject = subject.strip_prefix("deploy.")?;
            let name = match subject.strip_prefix("responses.") {
                Some(answers) => answers.strip_suffix(".>")?,
                None => subject,
            };
            name.parse().ok().filter(|name: &super::ListenerName| name.role.is_none())
        };
        let mut name = permissions.subscribe.iter().chain(&permissions.publish).find_map(name)?;
        let of_role = format!("deploy.{}.role.", name.tier);
        let role = permissions.subscribe.iter().find_map(|subject| subject.strip_prefix(&of_role));
        name.role = role.and_then(|role| role.parse().ok());
        Some(Self::Listener(name))
    }
}

/// Returns an unused subject that matches a permission's pattern, with `token` in place of the wildcard.
pub fn sample(pattern: &str, token: &str) -> String {
    match pattern.strip_suffix('>') {
        // As deep as a reply subject, which has a tier, a host and a token.
        Some(prefix) if prefix == "deploy.responses.test." || prefix == "deploy.responses.prod." => {
            format!("{prefix}{token}.{token}")
        }
        Some(prefix) => format!("{prefix}{token}"),
        None => pattern.to_owned(),
    }
}

fn any_covers(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, subject))
}

/// Whether the first pattern matches every subject that the second one matches.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut patterns, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (patterns.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(publish: &[&str], subscribe: &[&str]) -> Permissions {
        let list = |subjects: &[&str]| subjects.iter().map(|&subject| subject.to_owned()).collect();
        Permissions { publish: list(publish), subscribe: list(subscribe), ..Permissions::default() }
    }

    fn ns1() -> Principal {
        Principal::Listener("prod.ns1.dns".parse().unwrap())
    }

    #[test]
    fn a_pattern_covers_what_it_stands_for() {
        for (pattern, subject) in [("a.>", "a.b.c"), ("a.*", "a.b"), ("a.>", "a.*"), ("a.>", "a.>"), ("a.*.c", "a.*.c")]
        {
            assert!(covers(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [("a.>", "a"), ("a.*", "a.>"), ("a.*", "a.b.c"), ("a.b", "a.*"), ("a.b", "a.b.c")] {
            assert!(!covers(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn what_is_printed_has_no_deviations_and_is_known_by_its_holder() {
        for holder in [ns1(), Principal::TestDeployer, Principal::Admin, Principal::Listener("test.a".parse().unwrap())]
        {
            for strictness in [Strictness::Strict, Strictness::Compatible] {
                let printed = holder.permissions(strictness).unwrap();
                assert_eq!(printed.deviations_from(&printed), [], "{holder} {strictness:?}");
                assert_eq!(Principal::guess(&printed), Some(holder.clone()), "{strictness:?}");
            }
        }
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_named() {
        let strict = ns1().permissions(Strictness::Strict).unwrap();
        let predecessors = permissions(
            &["deploy.responses.>", "deploy.discover"],
            &["deploy.prod.ns1", "deploy.prod.all", "deploy.discover", "deploy.prod.role.dns"],
        );
        assert_eq!(Principal::guess(&predecessors), Some(ns1()));
        insta::assert_debug_snapshot!(predecessors.deviations_from(&strict), @r#"
        [
            Exceeds(
                (
                    Publish,
                    "deploy.responses.>",
                ),
            ),
            Exceeds(
                (
                    Publish,
                    "deploy.discover",
                ),
            ),
            Lacks(
                (
                    Subscribe,
                    "deploy.discover.prod",
                ),
            ),
        ]
        "#);
        let mut open = Principal::TestDeployer.permissions(Strictness::Compatible).unwrap();
        open.never_subscribe.clear();
        let needed = Principal::TestDeployer.permissions(Strictness::Compatible).unwrap();
        insta::assert_debug_snapshot!(open.deviations_from(&needed), @r#"
        [
            Exceeds(
                (
                    Subscribe,
                    "deploy.responses.prod.>",
                ),
            ),
        ]
        "#);
    }

    #[test]
    fn what_a_key_needs_is_never_what_it_must_not_have() {
        for holder in [ns1(), Principal::TestDeployer, Principal::Admin] {
            let (needs, must_not) = (holder.needs().unwrap(), holder.must_not().unwrap());
            let permitted = holder.permissions(Strictness::Strict).unwrap();
            for (operation, subject) in &needs {
                assert!(any_covers(permitted.of(*operation).0, &sample(subject, "x")), "{holder} {subject}");
            }
            for (operation, subject) in &must_not {
                assert!(!any_covers(permitted.of(*operation).0, &sample(subject, "x")), "{holder} {subject}");
            }
            assert_eq!(must_not.is_empty(), holder == Principal::Admin);
        }
    }
}
