//! The flake that the hosts of a plan name.

use std::collections::BTreeMap;

use super::diagnostic::{PlanDiagnostic, PlanErrors, list};
use super::resolved::ResolvedPlan;
use super::roster::Roster;
use crate::protocol::{FlakeUrl, HostName, Tier};

impl ResolvedPlan {
    /// The flake that all of its hosts name in the roll call, as far as they name one. In a plan that touches prod hosts only
    /// their word counts: a test host shall not choose what they run, nor keep others from naming it.
    pub fn flake_of_hosts(&self, roster: &Roster) -> Result<Option<FlakeUrl>, PlanErrors> {
        let touches_prod = self.hosts().any(|host| host.tier == Tier::Prod);
        let heard = self.hosts().filter(|host| !touches_prod || host.tier == Tier::Prod);
        let mut flakes: BTreeMap<FlakeUrl, &HostName> = BTreeMap::new();
        for host in heard.filter_map(|host| roster.host(host.tier, &host.hostname)) {
            if let Some(flake) = &host.flake {
                flakes.entry(flake.public()).or_insert(&host.hostname);
            }
        }
        if flakes.len() <= 1 {
            return Ok(flakes.into_keys().next());
        }
        let examples: Vec<_> = flakes.iter().map(|(flake, host)| format!("{flake} ({host})")).collect();
        let examples = list(examples.iter().map(String::as_str)).unwrap_or_default();
        Err(PlanDiagnostic::mistake(format!("the hosts deploy from different flakes: {examples}"))
            .help("say which one the revision is looked up in: flake = \"…\" at the top of the plan, or --flake")
            .into())
    }
}
