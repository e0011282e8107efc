//! Who answers the roll call. A target that nobody answers to is told as that, with the names to choose from.

use std::collections::BTreeSet;

use super::answer::ToolError;
use super::boundary::{Credential, wrong_tier};
use super::context::ToolContext;
use crate::operator::{Awaited, Discovered, Purpose, RollCall};
use crate::plan::Plan;
use crate::protocol::{HostAnswer, HostReport, Role, Target, Tier};

impl ToolContext {
    pub(super) async fn roll_call(&self, credential: Credential, tier: Option<Tier>) -> Result<Discovered, ToolError> {
        let mut bus = self.connect(credential).await?;
        let (purpose, awaited) = (Purpose::List(tier), Awaited::everybody(tier));
        let roll_call = RollCall { discovery: &self.settings.operator.discovery, purpose, awaited };
        Ok(roll_call.call(&mut bus).await?)
    }

    /// That there is not exactly one target, with the hosts and roles to choose from. A schema that said so would make some
    /// clients drop the tool.
    pub(super) async fn one_target(&self, credential: Credential, tier: Tier, what: &str) -> ToolError {
        let hosts = match self.roll_call(credential, Some(tier)).await {
            Ok(called) => called.hosts,
            Err(error) => return error,
        };
        let (hosts, roles) = (some(hostnames(reports(&hosts))), some(roles(reports(&hosts))));
        let hosts = if hosts.is_empty() { "none" } else { &hosts };
        let roles = if roles.is_empty() { String::new() } else { format!("; their roles: {roles}") };
        ToolError::new("invalid_target", what)
            .next(format!("give exactly one of hostname, all: true and role; {tier} hosts that answer: {hosts}{roles}"))
    }
}

/// Makes sure that each host and role that was asked for is there.
pub(super) fn check_targets(plan: &Plan, answers: &[HostAnswer]) -> Result<(), ToolError> {
    for target in plan.waves.iter().flat_map(|wave| &wave.targets).map(|selector| &selector.value.target) {
        let Some(tier) = target.tier() else { continue };
        let of_tier = || reports(answers).filter(|host| host.tier == tier);
        match target {
            Target::Host(_, name) if !of_tier().any(|host| host.hostname == *name) => {
                if let Some(other) = reports(answers).find(|host| host.hostname == *name) {
                    return Err(wrong_tier(name, other.tier, tier));
                }
                return Err(nobody("unknown_host", &format!("{tier} host {:?}", name.as_str()), hostnames(of_tier())));
            }
            Target::Role(_, role) if !of_tier().any(|host| host.role.as_ref() == Some(role)) => {
                let what = format!("{tier} host of the role {:?}", role.as_str());
                return Err(nobody("unknown_role", &what, roles(of_tier())));
            }
            Target::All(_) if of_tier().next().is_none() => {
                return Err(nobody("no_hosts", &format!("{tier} host"), std::iter::empty()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// That no such host answers.
pub(super) fn nobody<'a>(code: &'static str, what: &str, known: impl Iterator<Item = &'a str>) -> ToolError {
    let known = some(known);
    let known = if known.is_empty() { "none does".to_owned() } else { format!("those that do: {known}") };
    ToolError::new(code, format!("no {what} answers; {known}")).next("list_hosts shows hosts, tiers and roles")
}

pub(super) fn reports(answers: &[HostAnswer]) -> impl Iterator<Item = &HostReport> {
    answers.iter().map(|answer| &*answer.report)
}

pub(super) fn hostnames<'a>(hosts: impl Iterator<Item = &'a HostReport>) -> impl Iterator<Item = &'a str> {
    hosts.map(|host| host.hostname.as_str())
}

pub(super) fn roles<'a>(hosts: impl Iterator<Item = &'a HostReport>) -> impl Iterator<Item = &'a str> {
    hosts.filter_map(|host| host.role.as_ref().map(Role::as_str))
}

/// The first of these names, each once.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().take(30).collect::<Vec<_>>().join(", ")
}
