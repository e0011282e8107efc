//! What a person is asked. All that it shows is what an approval is good for.

use std::collections::BTreeSet;
use std::fmt;

use rmcp::model::JsonObject;
use serde::Serialize;

use crate::plan::{FrozenHost, FrozenWave};
use crate::protocol::{HostName, Revision, Tier};
use crate::rollout::Rollout;
use crate::text::safe;

/// The most hosts and steps that are named; of the rest it is told how many there are.
const MOST_NAMED: usize = 40;

/// What is to be done.
#[derive(Debug, Clone, Serialize)]
pub(in crate::mcp) struct Question<'a> {
    /// The tool that would do it, and what it was called with.
    tool: &'a str,
    arguments: &'a JsonObject,
    /// What to type.
    pub(super) phrase: String,
    /// The tiers that it touches, the least powerful one first.
    pub(in crate::mcp) tiers: BTreeSet<Tier>,
    /// The hosts that it touches.
    hosts: Vec<&'a HostName>,
    /// What happens to them, a line for each wave.
    steps: Vec<String>,
    /// The branch, tag or commit that was asked for.
    pub(in crate::mcp) asked: &'a Revision,
    /// What that is now, and what would be deployed.
    pub(super) commit: &'a Revision,
    /// What `preview_plan` said that the plan comes down to.
    plan_hash: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// Whether a tool that was called with these arguments may carry out this rollout. `phrase` is what to type: the target
    /// as plans write it, such as `prod.role.dns`, or the name of the plan.
    pub(in crate::mcp) fn about(tool: &'a str, arguments: &'a JsonObject, phrase: &str, rollout: &'a Rollout) -> Self {
        let plan = &rollout.plan;
        Self {
            tool,
            arguments,
            phrase: safe(phrase),
            tiers: plan.hosts().flat_map(tiers_of).collect(),
            hosts: plan.hosts().map(|host| &host.hostname).collect(),
            steps: plan.waves.iter().map(step).collect(),
            asked: &rollout.asked,
            commit: &rollout.revision,
            plan_hash: None,
        }
    }

    /// The same of a plan that was previewed before.
    #[must_use]
    pub(in crate::mcp) fn previewed(self, plan_hash: &'a str) -> Self {
        Self { plan_hash: Some(plan_hash), ..self }
    }

    /// Whether no other tier than test is touched.
    pub(super) fn is_about_tests_only(&self) -> bool {
        !self.tiers.is_empty() && self.tiers.iter().all(|tier| *tier == Tier::Test)
    }

    /// All of it, as bytes that differ when anything in it does.
    pub(super) fn binding(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and texts only, which cannot fail")
    }
}

/// The tiers that a request to a host may reach: what the host says of itself, and what the subject says, on which another
/// may listen. A subject that says nothing may reach anybody.
fn tiers_of(host: &FrozenHost) -> [Tier; 2] {
    let by_subject = host.subject().target().ok().and_then(|target| target.tier());
    [host.tier, by_subject.unwrap_or(Tier::Prod)]
}

/// What a wave does, with the command that would run beside this server.
fn step(wave: &FrozenWave) -> String {
    let hosts: Vec<&str> = wave.hosts.iter().map(|host| host.hostname.as_str()).collect();
    let check = wave.limits.check.as_ref().map(|check| format!(", then runs {} here", check.command.join(" ")));
    safe(&format!("{}: {} {}{}", wave.name, wave.action, some(&hosts), check.unwrap_or_default()))
}

/// Names beside each other, the first ones when there are many.
fn some(names: &[&str]) -> String {
    match names.len().saturating_sub(MOST_NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.iter().take(MOST_NAMED).copied().collect::<Vec<_>>().join(", ")),
    }
}

impl fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers: Vec<&str> = self.tiers.iter().map(|tier| tier.as_str()).collect();
        let hosts: Vec<&str> = self.hosts.iter().map(|host| host.as_str()).collect();
        writeln!(f, "An assistant wants to deploy to {}.", tiers.join(" and "))?;
        writeln!(f)?;
        writeln!(f, "target:  {}", self.phrase)?;
        writeln!(f, "commit:  {} ({})", self.commit, self.asked)?;
        writeln!(f, "hosts:   {} ({})", some(&hosts), hosts.len())?;
        for step in self.steps.iter().take(MOST_NAMED) {
            writeln!(f, "step:    {step}")?;
        }
        if let Some(more) = self.steps.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            writeln!(f, "         and {more} more steps")?;
        }
        writeln!(f)?;
        write!(f, "Type {} to approve. Whoever controls this commit controls these hosts.", self.phrase)
    }
}
