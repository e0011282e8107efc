//! Which revisions may be deployed to which tier. A branch is root on the host: an assistant that may choose the branch and
//! can push to it needs no other way in. Pure.

use std::collections::BTreeSet;
use std::str::FromStr;

use regex::Regex;
use thiserror::Error;

use super::answer::ToolError;
use crate::protocol::{NameError, Revision, Tier};

/// What each tier takes of which no rule speaks: prod what people review.
const DEFAULT: [(Tier, &str); 3] = [(Tier::Test, "*"), (Tier::Prod, "main"), (Tier::Prod, "master")];

/// One rule, `TIER=GLOB`: what it matches may be deployed to that tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRef {
    tier: Tier,
    /// A branch or tag by name, in which each `*` stands for any characters, `/` among them, as in git's refspecs.
    glob: String,
}

#[derive(Debug, Clone)]
pub struct RevisionPolicy(Vec<AllowRef>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AllowRefError {
    #[error("{0:?} is not TIER=GLOB, such as prod=main or test=feature/*")]
    Form(String),
    #[error(transparent)]
    Tier(#[from] NameError),
    /// Its glob has a character that no revision has, so it could never match.
    #[error("the glob {0:?} contains {1:?}: letters, digits, . _ / + - and * are what can match")]
    Character(String, char),
}

impl RevisionPolicy {
    /// The policy of these rules. Without a rule, test takes everything, and prod takes `main` and `master`.
    pub fn new(rules: &[AllowRef]) -> Self {
        let is_unsaid = |tier: Tier| rules.iter().all(|rule| rule.tier != tier);
        let default = DEFAULT.into_iter().filter(|(tier, _)| is_unsaid(*tier));
        let default = default.map(|(tier, glob)| AllowRef { tier, glob: glob.to_owned() });
        Self(rules.iter().cloned().chain(default).collect())
    }

    /// Whether a revision may be deployed to each of these tiers.
    pub(super) fn check(&self, asked: &Revision, tiers: &BTreeSet<Tier>) -> Result<(), ToolError> {
        for tier in tiers {
            let rules = || self.0.iter().filter(|rule| rule.tier == *tier);
            if !rules().any(|rule| rule.allows(asked)) {
                let kind =
                    if could_be_commit(asked) { ", as a commit id does not say which branch it is on" } else { "" };
                let allowed: Vec<&str> = rules().map(|rule| rule.glob.as_str()).collect();
                let what =
                    format!("\"{asked}\" may not be deployed to {tier}{kind}; allowed there: {}", allowed.join(", "));
                return Err(ToolError::new("revision_not_allowed", what).next(
                    "nothing was done; give branch a revision that is allowed, or ask the person who started this server \
                     for --allow-ref",
                ));
            }
        }
        Ok(())
    }
}

impl AllowRef {
    /// A commit is allowed by its whole id, or where everything is: `d*` means `dev` and `docs`, and neither the commit
    /// `d3adbee…` of somebody's unmerged branch nor, with a forge, of somebody's fork.
    fn allows(&self, asked: &Revision) -> bool {
        match self.glob.as_str() {
            "*" => true,
            glob if could_be_commit(asked) => glob.eq_ignore_ascii_case(asked.as_str()),
            _ => self.matches(asked.as_str()),
        }
    }

    fn matches(&self, name: &str) -> bool {
        let pattern = regex::escape(&self.glob).replace(r"\*", ".*");
        Regex::new(&format!("^{pattern}$")).is_ok_and(|pattern| pattern.is_match(name))
    }
}

/// Whether git or a forge would look for a commit of this id: in full, or the beginning of one.
fn could_be_commit(asked: &Revision) -> bool {
    asked.commit().is_some() || asked.looks_like_short_commit()
}

impl FromStr for AllowRef {
    type Err = AllowRefError;

    fn from_str(text: &str) -> Result<Self, AllowRefError> {
        let (tier, glob) = text.split_once('=').ok_or_else(|| AllowRefError::Form(text.to_owned()))?;
        if glob.is_empty() {
            return Err(AllowRefError::Form(text.to_owned()));
        }
        let can_match = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '+' | '-' | '*');
        match glob.chars().find(|&c| !can_match(c)) {
            Some(other) => Err(AllowRefError::Character(glob.to_owned(), other)),
            None => Ok(Self { tier: tier.parse()?, glob: glob.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMIT: &str = "d3adbee0d3adbee0d3adbee0d3adbee0d3adbee0";

    fn policy(rules: &[&str]) -> RevisionPolicy {
        RevisionPolicy::new(&rules.iter().map(|rule| rule.parse().unwrap()).collect::<Vec<_>>())
    }

    fn check(policy: &RevisionPolicy, asked: &str, tiers: &[Tier]) -> String {
        match policy.check(&asked.parse().unwrap(), &tiers.iter().copied().collect()) {
            Ok(()) => "ok".to_owned(),
            Err(refused) => refused.what,
        }
    }

    #[test]
    fn without_rules_test_takes_everything_and_prod_what_was_reviewed() {
        let policy = policy(&[]);
        assert_eq!(check(&policy, "feature/x", &[Tier::Test]), "ok");
        assert_eq!(check(&policy, COMMIT, &[Tier::Test]), "ok");
        assert_eq!(check(&policy, "main", &[Tier::Prod]), "ok");
        assert_eq!(check(&policy, "master", &[Tier::Test, Tier::Prod]), "ok");
        insta::assert_snapshot!(check(&policy, "feature/x", &[Tier::Test, Tier::Prod]), @r#""feature/x" may not be deployed to prod; allowed there: main, master"#);
        insta::assert_snapshot!(check(&policy, COMMIT, &[Tier::Prod]), @r#""d3adbee0d3adbee0d3adbee0d3adbee0d3adbee0" may not be deployed to prod, as a commit id does not say which branch it is on; allowed there: main, master"#);
    }

    #[test]
    fn rules_stand_in_the_place_of_what_their_tier_takes_by_itself() {
        let policy = policy(&["prod=release/*", "prod=hotfix", "test=main"]);
        assert_eq!(check(&policy, "release/24.11/ns", &[Tier::Prod]), "ok");
        assert_eq!(check(&policy, "hotfix", &[Tier::Prod]), "ok");
        insta::assert_snapshot!(check(&policy, "main", &[Tier::Prod]), @r#""main" may not be deployed to prod; allowed there: release/*, hotfix"#);
        insta::assert_snapshot!(check(&policy, "prerelease/x", &[Tier::Prod]), @r#""prerelease/x" may not be deployed to prod; allowed there: release/*, hotfix"#);
        insta::assert_snapshot!(check(&policy, "hotfix", &[Tier::Test]), @r#""hotfix" may not be deployed to test; allowed there: main"#);
    }

    #[test]
    fn a_commit_slips_through_no_glob_that_means_branches() {
        let globbed = policy(&["prod=d*", "test=*e0"]);
        for commit in [COMMIT, "d3adbee"] {
            assert_ne!(check(&globbed, commit, &[Tier::Prod]), "ok");
        }
        assert_ne!(check(&globbed, COMMIT, &[Tier::Test]), "ok");
        assert_eq!(check(&globbed, "dev", &[Tier::Prod]), "ok");
        assert_eq!(check(&policy(&[&format!("prod={COMMIT}")]), COMMIT, &[Tier::Prod]), "ok");
        assert_eq!(check(&policy(&["prod=*"]), COMMIT, &[Tier::Prod]), "ok");
    }

    #[test]
    fn a_rule_that_could_not_mean_anything_says_why() {
        let refusal = |rule: &str| rule.parse::<AllowRef>().unwrap_err().to_string();
        insta::assert_snapshot!(refusal("main"), @r#""main" is not TIER=GLOB, such as prod=main or test=feature/*"#);
        insta::assert_snapshot!(refusal("prod="), @r#""prod=" is not TIER=GLOB, such as prod=main or test=feature/*"#);
        insta::assert_snapshot!(refusal("staging=main"), @r#""staging" is not a tier: the tiers are test and prod"#);
        insta::assert_snapshot!(refusal("prod=v[0-9]"), @r#"the glob "v[0-9]" contains '[': letters, digits, . _ / + - and * are what can match"#);
        let rule = AllowRef { tier: Tier::Prod, glob: "release/*".to_owned() };
        assert_eq!("prod=release/*".parse(), Ok(rule));
    }

    /// Says the same as the code in another way: a star takes nothing, or one character and stays.
    fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) if matches_slowly(rest, name) => true,
            ([b'*', ..], [_, rest @ ..]) => matches_slowly(pattern, rest),
            ([a, pattern @ ..], [b, name @ ..]) if a == b => matches_slowly(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_what_it_says(pattern in "[ab/*]{1,7}", name in "[ab/]{0,8}") {
            let expected = matches_slowly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(AllowRef { tier: Tier::Test, glob: pattern }.matches(&name), expected);
        }
    }
}
