//! The boundary: the test tier has a key of its own, and whatever may reach further needs the administrator's. Pure.

use std::collections::BTreeSet;

use super::answer::ToolError;
use crate::plan::ResolvedPlan;
use crate::protocol::{HostName, Tier};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// A key that may deploy to the test tier only.
    Test,
    Admin,
}

impl Credential {
    /// The key for what reaches these tiers. What names no tier may reach any.
    pub(super) fn for_tiers(tiers: &BTreeSet<Tier>) -> Self {
        if tiers.iter().eq([&Tier::Test]) { Self::Test } else { Self::Admin }
    }

    pub(super) fn for_plan(plan: &ResolvedPlan) -> Self {
        Self::for_tiers(&tiers_of(plan))
    }

    /// Makes sure that a plan reaches no host that this key is not for. The NATS server would refuse such a request, but only
    /// after the hosts before it were deployed.
    pub(super) fn check(self, plan: &ResolvedPlan) -> Result<(), ToolError> {
        match reached(plan).find(|(_, tier)| self == Self::Test && *tier != Tier::Test) {
            None => Ok(()),
            Some((host, tier)) => Err(wrong_tier(host, tier, Tier::Test)),
        }
    }
}

/// The tiers that a plan may reach.
pub(super) fn tiers_of(plan: &ResolvedPlan) -> BTreeSet<Tier> {
    reached(plan).map(|(_, tier)| tier).collect()
}

/// The tiers that requests to each host may reach: the one that the host names, and the one of the subject, on which another
/// host may listen. A subject without a tier may reach any host.
fn reached(plan: &ResolvedPlan) -> impl Iterator<Item = (&HostName, Tier)> {
    plan.hosts().flat_map(|host| {
        let by_subject = host.subject().target().ok().and_then(|target| target.tier());
        [host.tier, by_subject.unwrap_or(Tier::Prod)].map(|tier| (&host.hostname, tier))
    })
}

/// That a host belongs to another tier than the one that was asked for.
pub(super) fn wrong_tier(host: &HostName, tier: Tier, wanted: Tier) -> ToolError {
    ToolError::new("wrong_tier", format!("{host} is a host of {tier}, and this would deploy to {wanted}"))
        .next("list_hosts shows the tier of each host; deploy_admin deploys to any tier, where this server offers it")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A plan for these hosts, each as `<tier>.<host>`, all on this subject where one is given.
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
