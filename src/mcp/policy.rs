//! Decides which key a plan needs, and which revisions may be deployed to which tier. Pure.
//!
//! A plan that may reach a host outside the test tier needs the administrator's key. A branch is root on the host: an assistant
//! that may choose the branch and can push to it needs no other way in.

use std::collections::BTreeSet;
use std::str::FromStr;

use regex::Regex;

use super::answer::ToolError;
use crate::operator::journal::Recorded;
use crate::plan::{ResolvedHost, ResolvedPlan};
use crate::protocol::{HostName, ParseError, Revision, Tier};
use crate::rollout::Rollout;

/// The rules of a tier without rules in the settings: prod takes the branches that people review.
const DEFAULT: [(Tier, &str); 3] = [(Tier::Test, "*"), (Tier::Prod, "main"), (Tier::Prod, "master")];

/// A rule `TIER=GLOB`: revisions that match the glob may be deployed to the tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRef {
    tier: Tier,
    /// The name of a branch or tag. Each `*` matches any characters, also `/`, as in git's refspecs.
    glob: String,
}

#[derive(Debug, Clone)]
pub struct RevisionPolicy(Vec<AllowRef>);

impl RevisionPolicy {
    /// Adds the default rules to tiers without a rule: test takes everything, prod takes `main` and `master`.
    pub fn new(rules: &[AllowRef]) -> Self {
        let is_unsaid = |tier: Tier| rules.iter().all(|rule| rule.tier != tier);
        let default = DEFAULT.into_iter().filter(|(tier, _)| is_unsaid(*tier));
        let default = default.map(|(tier, glob)| AllowRef { tier, glob: glob.to_owned() });
        Self(rules.iter().cloned().chain(default).collect())
    }

    /// Checks that a revision may be deployed to all of these tiers.
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
    /// Only a full id or the glob `*` allows a commit: `d*` means `dev` and `docs`, and neither the commit `d3adbee…` of an
    /// unmerged branch nor, on a forge, of a fork.
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

/// Whether git or a forge would take a revision for the id of a commit, or the beginning of one.
fn could_be_commit(asked: &Revision) -> bool {
    asked.commit().is_some() || asked.looks_like_short_commit()
}

impl FromStr for AllowRef {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let can_match = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '+' | '-' | '*');
        match text.split_once('=') {
            Some((tier, glob)) if !glob.is_empty() && glob.chars().all(can_match) => {
                Ok(Self { tier: tier.parse()?, glob: glob.to_owned() })
            }
            _ => {
                let why =
                    "write TIER=GLOB, such as prod=main or test=feature/*; a glob has letters, digits, . _ / + - and *";
                Err(ParseError::new(text, "a rule for revisions", why))
            }
        }
    }
}

// -- the key

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// A key that may deploy to the test tier only.
    Test,
    Admin,
}

impl Credential {
    /// Returns the key that is needed to reach these tiers. A target without a tier may reach any host.
    pub(super) fn for_tiers(tiers: &BTreeSet<Tier>) -> Self {
        if tiers.iter().eq([&Tier::Test]) { Self::Test } else { Self::Admin }
    }

    pub(super) fn for_plan(plan: &ResolvedPlan) -> Self {
        Self::for_tiers(&tiers_of(plan))
    }

    /// Refuses a plan with a host out of this key's reach. The NATS server would refuse such a request too, but only after
    /// the hosts before it were deployed.
    pub(super) fn check(self, plan: &ResolvedPlan) -> Result<(), ToolError> {
        match reached(plan).find(|(_, tier)| self == Self::Test && *tier != Tier::Test) {
            None => Ok(()),
            Some((host, tier)) => Err(wrong_tier(host, tier, Tier::Test)),
        }
    }
}

pub(super) fn tiers_of(plan: &ResolvedPlan) -> BTreeSet<Tier> {
    reached(plan).map(|(_, tier)| tier).collect()
}

/// Returns each host with the tiers that a request to it may reach: the tier that the host reports, and the tier of the
/// subject, since other hosts may listen on it. A subject without a tier may reach any host.
fn reached(plan: &ResolvedPlan) -> impl Iterator<Item = (&HostName, Tier)> {
    plan.hosts().flat_map(|host| {
        let by_subject = host.subject().target().ok().and_then(|target| target.tier());
        [host.tier, by_subject.unwrap_or(Tier::Prod)].map(|tier| (&host.hostname, tier))
    })
}

pub(super) fn wrong_tier(host: &HostName, tier: Tier, wanted: Tier) -> ToolError {
    ToolError::new("wrong_tier", format!("{host} is a host of {tier}, and this would deploy to {wanted}"))
        .next("list_hosts shows the tier of each host; deploy_admin deploys to any tier, where this server offers it")
}

/// Whether each host of a rollout ran its commit before, by what is on record.
pub(super) fn ran_before(rollout: &Rollout, recorded: &[Recorded]) -> bool {
    let Some(commit) = rollout.revision.commit() else { return false };
    let ran = |host: &ResolvedHost, Recorded { summary, .. }: &Recorded| {
        let (rollout, view) = (summary.rollout.as_deref()?, summary.host(&host.hostname)?);
        // A host of the other tier may have the same name.
        let is_same = rollout.plan.waves.get(view.wave.0)?.hosts.get(view.index_in_wave)?.tier == host.tier;
        Some(is_same && view.ran_before(rollout) == Some(&commit))
    };
    rollout.plan.hosts().all(|host| recorded.iter().any(|recorded| ran(host, recorded) == Some(true)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::rollout::{Event, EventKind, Summary};

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
        insta::assert_snapshot!(refusal("main"), @r#""main" is not a rule for revisions: write TIER=GLOB, such as prod=main or test=feature/*; a glob has letters, digits, . _ / + - and *"#);
        for rule in ["prod=", "prod=v[0-9]"] {
            assert_eq!(refusal(rule), refusal("main").replace("\"main\"", &format!("{rule:?}")));
        }
        insta::assert_snapshot!(refusal("staging=main"), @r#""staging" is not a tier: the tiers are test and prod"#);
        let rule = AllowRef { tier: Tier::Prod, glob: "release/*".to_owned() };
        assert_eq!("prod=release/*".parse(), Ok(rule));
    }

    /// Matches in another way than the code: a star takes nothing, or one character and stays.
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

    /// Returns a plan for hosts, each as `<tier>.<host>`, on their own subjects or all on `subject`.
    fn plan(hosts: &[&str], subject: Option<&str>) -> ResolvedPlan {
        let host = |text: &&str| {
            let (tier, name) = text.split_once('.').unwrap();
            let subject = subject.map_or(format!("deploy.{text}"), str::to_owned);
            json!({"host": name, "tier": tier, "subject": subject, "present": true, "knows_ids": true})
        };
        let wave = json!({
            "name": "all", "action": "switch", "hosts": hosts.iter().map(host).collect::<Vec<_>>(), "max_parallel": 1,
            "max_failures": 0, "min_hosts": 1, "ignore_unreachable": false, "accept_timeout": "15s", "timeout": "30m",
            "bake_time": "0s", "check": null, "confirm": false, "retries": 0, "retry_delay": "30s",
        });
        serde_json::from_value(json!({ "name": "plan", "waves": [wave] })).unwrap()
    }

    #[test]
    fn a_commit_that_a_host_of_another_tier_ran_is_not_one_that_this_host_ran() {
        const OLD: &str = "a91be77a91be77a91be77a91be77a91be77a91be";
        let rollout = |host: &str, revision: &str| {
            let mut plan = plan(&[host], None);
            plan.waves[0].hosts[0].revision = Some(OLD.parse().unwrap());
            let (id, secret) = (Uuid::nil(), Uuid::nil());
            let rollout = json!({
                "id": id, "secret": secret, "operator": "ops", "asked": "main", "revision": revision, "plan": plan,
            });
            serde_json::from_value::<Rollout>(rollout).unwrap()
        };
        let begun = EventKind::Begun(Arc::new(rollout("test.ns1", "8c1f0e28c1f0e28c1f0e28c1f0e28c1f0e28c1f0")));
        let summary = Summary::of([&Event { at: Timestamp::UNIX_EPOCH, kind: begun }]);
        let recorded = [Recorded { summary, running: false }];
        assert!(ran_before(&rollout("test.ns1", OLD), &recorded));
        assert!(!ran_before(&rollout("prod.ns1", OLD), &recorded));
        assert!(!ran_before(&rollout("test.ns1", "main"), &recorded));
    }

    #[test]
    fn only_what_reaches_nothing_but_the_test_tier_is_for_the_key_of_that() {
        let key = |hosts: &[&str], subject| Credential::for_plan(&plan(hosts, subject));
        assert_eq!(key(&["test.a", "test.b"], None), Credential::Test);
        assert_eq!(key(&["test.a"], Some("deploy.test.role.dns")), Credential::Test);
        assert_eq!(key(&["test.a", "prod.b"], None), Credential::Admin);
        assert_eq!(key(&["prod.a"], Some("deploy.test.role.dns")), Credential::Admin, "a host that is of prod");
        assert_eq!(
            key(&["test.a"], Some("deploy.prod.all")),
            Credential::Admin,
            "a subject that hosts of prod may hear"
        );
        assert_eq!(key(&["test.a"], Some("deploy.elsewhere")), Credential::Admin, "a subject that any host may hear");
        assert_eq!(key(&[], None), Credential::Admin, "who names no host may mean any");
        assert_eq!(Credential::for_tiers(&BTreeSet::new()), Credential::Admin);
    }

    #[test]
    fn the_key_of_the_test_tier_is_held_back_from_what_reaches_further() {
        let refused = |subject| Credential::Test.check(&plan(&["test.a"], subject)).map_err(|error| error.code);
        assert_eq!(refused(None), Ok(()));
        assert_eq!(refused(Some("deploy.prod.all")), Err("wrong_tier"));
        assert_eq!(refused(Some("deploy.elsewhere")), Err("wrong_tier"));
        assert_eq!(Credential::Admin.check(&plan(&["test.a", "prod.b"], Some("deploy.elsewhere"))), Ok(()));
    }
}
