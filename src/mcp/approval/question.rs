//! What a person is asked. All that it shows is what an approval is good for.

use std::fmt;

use rmcp::model::JsonObject;
use serde::Serialize;

use crate::plan::FrozenPlan;
use crate::protocol::{Commit, HostName, Revision, Tier};
use crate::text::safe;

/// The most hosts and steps that are named; of the rest it is told how many there are.
const MOST_NAMED: usize = 40;

/// What is to be done.
#[derive(Debug, Clone, Serialize)]
pub(in crate::mcp) struct Question<'a> {
    /// The tool that would do it, and what it was called with.
    pub(in crate::mcp) tool: &'a str,
    pub(in crate::mcp) arguments: &'a JsonObject,
    /// What to type: the target as plans write it, such as `prod.role.dns`, or the name of the plan.
    pub(in crate::mcp) phrase: String,
    /// The tiers that it touches.
    pub(in crate::mcp) tiers: Vec<Tier>,
    /// The hosts that it touches, as far as they are known.
    pub(in crate::mcp) hosts: Vec<HostName>,
    /// What happens to them, a line for each step.
    pub(in crate::mcp) steps: Vec<String>,
    /// The branch, tag or commit that was asked for.
    pub(in crate::mcp) asked: &'a Revision,
    /// What that is now, and what would be deployed.
    pub(in crate::mcp) commit: &'a Commit,
    /// What `preview_plan` said that the plan comes down to.
    pub(in crate::mcp) plan_hash: Option<&'a str>,
}

impl Question<'_> {
    /// Whether no other tier than test is touched.
    pub(super) fn is_about_tests_only(&self) -> bool {
        !self.tiers.is_empty() && self.tiers.iter().all(|tier| *tier == Tier::Test)
    }

    /// All of it, as bytes that differ when anything in it does.
    pub(super) fn binding(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and texts only, which cannot fail")
    }

    #[expect(dead_code, reason = "the tools that deploy come with the next change")]
    /// What a plan does, a line for each wave, with the commands that would run beside this server.
    pub(in crate::mcp) fn steps_of(plan: &FrozenPlan) -> Vec<String> {
        let step = |wave: &crate::plan::FrozenWave| {
            let hosts: Vec<&str> = wave.hosts.iter().map(|host| host.hostname.as_str()).collect();
            let check = wave.limits.check.as_ref().map(|check| format!(", then runs {} here", check.command.join(" ")));
            safe(&format!("{}: {} {}{}", wave.name, wave.action, some(&hosts), check.unwrap_or_default()))
        };
        plan.waves.iter().map(step).collect()
    }
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
        let hosts: Vec<&str> = self.hosts.iter().map(HostName::as_str).collect();
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
