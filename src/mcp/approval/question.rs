//! Defines the question to an approver. An approval covers all that the question shows.

use std::collections::BTreeSet;
use std::fmt;

use rmcp::model::JsonObject;
use serde::Serialize;

use crate::mcp::boundary::{Credential, tiers_of};
use crate::plan::{Hook, ResolvedHost, ResolvedWave};
use crate::protocol::{HostName, Revision, Tier};
use crate::rollout::Rollout;
use crate::text::safe;

/// The most hosts and steps that are listed.
const MOST_NAMED: usize = 40;

#[derive(Debug, Clone, Serialize)]
pub(in crate::mcp) struct Question<'a> {
    tool: &'a str,
    arguments: &'a JsonObject,
    pub(super) phrase: String,
    /// The tiers that the rollout may reach, the lowest first.
    pub(in crate::mcp) tiers: BTreeSet<Tier>,
    /// Whether the rollout may reach beyond test, or a person has to confirm its wave.
    pub(super) needs_a_person: bool,
    hosts: Vec<&'a HostName>,
    /// Hooks and waves, a line each.
    steps: Vec<String>,
    /// The hosts that go back in history, a line each.
    back: Vec<String>,
    /// The package changes, a line each; empty when they are unknown.
    pub(in crate::mcp) changes: Vec<String>,
    pub(in crate::mcp) asked: &'a Revision,
    /// The commit of the asked revision, which would be deployed.
    pub(super) commit: &'a Revision,
    /// The hash that `preview_plan` returned.
    pub(in crate::mcp) plan_hash: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// Asks whether a call may start a rollout. The person types `phrase`: the target as plans write it, such as
    /// `prod.role.dns`, or the name of the plan.
    pub(in crate::mcp) fn about(
        tool: &'a str,
        arguments: &'a JsonObject,
        phrase: &str,
        rollout: &'a Rollout,
        ahead: &[HostName],
    ) -> Self {
        let plan = &rollout.plan;
        let tiers = tiers_of(plan);
        let going_back = plan.hosts().filter(|host| ahead.contains(&host.hostname));
        let from =
            |host: &ResolvedHost| host.revision.as_ref().map_or("?".to_owned(), |commit| commit.short().to_owned());
        Self {
            tool,
            arguments,
            phrase: safe(phrase),
            needs_a_person: Credential::for_tiers(&tiers) == Credential::Admin,
            tiers,
            hosts: plan.hosts().map(|host| &host.hostname).collect(),
            steps: plan.hooks.iter().map(told).chain(plan.waves.iter().map(step)).collect(),
            back: going_back.map(|host| format!("{} goes BACK from {}", host.hostname, from(host))).collect(),
            changes: Vec::new(),
            asked: &rollout.asked,
            commit: &rollout.revision,
            plan_hash: None,
        }
    }

    /// Makes the approval confirm a wave as well.
    pub(in crate::mcp) fn confirm(&mut self, wave: &str) {
        self.needs_a_person = true;
        self.steps.push(safe(&format!("this confirms wave {wave}")));
    }

    /// Serializes the question: an approval is bound to these bytes.
    pub(in crate::mcp) fn binding(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and texts only, so this cannot fail")
    }
}

/// Describes a hook, a program that would run on this machine.
fn told((hook, command): (&Hook, &Vec<String>)) -> String {
    safe(&format!("{hook}: runs {} here", command.join(" ")))
}

/// Describes a wave, with the check that would run on this machine.
fn step(wave: &ResolvedWave) -> String {
    let hosts: Vec<&str> = wave.hosts.iter().map(|host| host.hostname.as_str()).collect();
    let check = wave.limits.check.as_ref().map(|check| format!(", then runs {} here", check.command.join(" ")));
    safe(&format!("{}: {} {}{}", wave.name, wave.action, some(&hosts), check.unwrap_or_default()))
}

/// Lists the first names and counts the others.
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
        let back = self.back.iter().map(|back| ("WARNING", back));
        let changes = self.changes.iter().map(|change| ("change", change));
        let lines: Vec<_> = back.chain(self.steps.iter().map(|step| ("step", step))).chain(changes).collect();
        for (label, line) in lines.iter().take(MOST_NAMED) {
            writeln!(f, "{:<8} {line}", format!("{label}:"))?;
        }
        if let Some(more) = lines.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            writeln!(f, "         and {more} more")?;
        }
        writeln!(f)?;
        write!(f, "Type {} to approve. The author of this commit controls these hosts.", self.phrase)
    }
}
