//! Compares the permissions of a key with those that it needs.

use super::{ListenerName, Operation, Permission, Permissions, Principal, Strictness, answers_of, deployer, subjects};
use crate::protocol::Tier;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deviation {
    /// The key needs this permission and does not have it.
    Lacks(Permission),
    /// The key has this permission and does not need it.
    Exceeds(Permission),
}

impl Permissions {
    pub fn deviations_from(&self, needed: &Self) -> Vec<Deviation> {
        let is_allowed = |wanted: &&Permission| covered(&self.allowed, wanted) && !covered(&self.denied, wanted);
        let is_beyond = |own: &&Permission| !covered(&needed.allowed, own) && !covered(&self.denied, own);
        let unexpected: Vec<_> = self.denied.iter().filter(|denied| !covered(&needed.denied, denied)).collect();
        let is_cut =
            |wanted: &Permission| unexpected.iter().any(|(of, denied)| *of == wanted.0 && overlap(denied, &wanted.1));
        let lacks = needed.allowed.iter().filter(|wanted| !is_allowed(wanted) || is_cut(wanted));
        let exceeds = self.allowed.iter().filter(is_beyond).chain(needed.denied.iter().filter(is_allowed));
        lacks.cloned().map(Deviation::Lacks).chain(exceeds.cloned().map(Deviation::Exceeds)).collect()
    }
}

impl Principal {
    pub fn needs(&self) -> Vec<Permission> {
        let mut needs: Vec<Permission> = match self {
            Self::Admin => Tier::ALL.into_iter().flat_map(|tier| deployer(tier, answers_of(tier))).collect(),
            Self::TestDeployer | Self::Listener(_) => self.permissions(Strictness::Strict).allowed,
        };
        // The tiers share a subject of the roll call.
        needs.sort();
        needs.dedup();
        needs
    }

    /// Returns permissions that a key of this owner must not have and that can be tried without side effects.
    pub fn must_not(&self) -> Vec<Permission> {
        if *self == Self::Admin {
            return Vec::new();
        }
        let needs = self.needs();
        let of_tier = |tier: Tier| [format!("deploy.{tier}.>"), answers_of(tier), format!("deploy.operators.{tier}.>")];
        let all = Tier::ALL.into_iter().flat_map(of_tier).flat_map(|subject| {
            [Operation::Publish, Operation::Subscribe].map(|operation| (operation, subject.clone()))
        });
        all.filter(|permission| !covered(&needs, permission)).collect()
    }

    /// Guesses the owner of a key from its permissions.
    pub fn guess(permissions: &Permissions) -> Option<Self> {
        let publishes = |subject: &str| covered(&permissions.allowed, &(Operation::Publish, subject.to_owned()));
        if publishes("deploy.prod.x") {
            return Some(Self::Admin);
        }
        if publishes("deploy.test.x") {
            return Some(Self::TestDeployer);
        }
        let name = |subject: &str| {
            let subject = subject.strip_prefix("deploy.")?;
            let name = match subject.strip_prefix("responses.") {
                Some(answers) => answers.strip_suffix(".>")?,
                None => subject,
            };
            name.parse().ok().filter(|name: &ListenerName| name.role.is_none())
        };
        let of = |operation| subjects(&permissions.allowed, operation);
        let mut name = of(Operation::Subscribe).chain(of(Operation::Publish)).find_map(name)?;
        let of_role = format!("deploy.{}.role.", name.tier);
        let role = of(Operation::Subscribe).find_map(|subject| subject.strip_prefix(&of_role));
        name.role = role.and_then(|role| role.parse().ok());
        Some(Self::Listener(name))
    }
}

/// Returns an unused subject that matches a permission's pattern, with `token` in place of the wildcard.
pub fn sample(pattern: &str, token: &str) -> String {
    match pattern.strip_suffix('>') {
        // As deep as a reply subject, which has a tier, a host and a token.
        Some(prefix @ ("deploy.responses.test." | "deploy.responses.prod.")) => format!("{prefix}{token}.{token}"),
        Some(prefix) => format!("{prefix}{token}"),
        None => pattern.to_owned(),
    }
}

/// Whether one of these permissions includes all of another.
fn covered(permissions: &[Permission], (operation, subject): &Permission) -> bool {
    permissions.iter().any(|(of, pattern)| of == operation && covers(pattern, subject))
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

/// Whether some subject matches both patterns.
fn overlap(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(publish: &[&str], subscribe: &[&str]) -> Permissions {
        let publish = publish.iter().map(|subject| (Operation::Publish, (*subject).to_owned()));
        let subscribe = subscribe.iter().map(|subject| (Operation::Subscribe, (*subject).to_owned()));
        Permissions { allowed: publish.chain(subscribe).collect(), ..Permissions::default() }
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
                let printed = holder.permissions(strictness);
                assert_eq!(printed.deviations_from(&printed), [], "{holder} {strictness:?}");
                assert_eq!(Principal::guess(&printed), Some(holder.clone()), "{strictness:?}");
            }
        }
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_named() {
        let strict = ns1().permissions(Strictness::Strict);
        let predecessors = permissions(
            &["deploy.responses.>", "deploy.discover"],
            &["deploy.prod.ns1", "deploy.prod.all", "deploy.discover", "deploy.prod.role.dns"],
        );
        assert_eq!(Principal::guess(&predecessors), Some(ns1()));
        insta::assert_debug_snapshot!(predecessors.deviations_from(&strict), @r#"
        [
            Lacks(
                (
                    Subscribe,
                    "deploy.discover.prod",
                ),
            ),
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
        ]
        "#);
        let mut open = Principal::TestDeployer.permissions(Strictness::Compatible);
        open.denied.clear();
        let needed = Principal::TestDeployer.permissions(Strictness::Compatible);
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
    fn a_key_lacks_what_it_is_denied_a_part_of() {
        let needed = Principal::TestDeployer.permissions(Strictness::Compatible);
        for (denied, lacks) in [("deploy.test.nas", true), ("deploy.*.nas", true), ("deploy.prod.nas", false)] {
            let mut cut = needed.clone();
            cut.denied.push((Operation::Publish, denied.to_owned()));
            let lacked = Deviation::Lacks((Operation::Publish, "deploy.test.>".to_owned()));
            assert_eq!(cut.deviations_from(&needed), if lacks { vec![lacked] } else { Vec::new() }, "{denied}");
        }
    }

    #[test]
    fn what_a_key_needs_is_never_what_it_must_not_have() {
        for holder in [ns1(), Principal::TestDeployer, Principal::Admin] {
            let (needs, must_not) = (holder.needs(), holder.must_not());
            let permitted = holder.permissions(Strictness::Strict).allowed;
            for (operation, subject) in &needs {
                assert!(covered(&permitted, &(*operation, sample(subject, "x"))), "{holder} {subject}");
            }
            for (operation, subject) in &must_not {
                assert!(!covered(&permitted, &(*operation, sample(subject, "x"))), "{holder} {subject}");
            }
            assert_eq!(must_not.is_empty(), holder == Principal::Admin);
        }
    }
}
