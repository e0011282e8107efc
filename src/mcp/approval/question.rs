//! What a person is asked. An approval is good for all that it shows.

use std::collections::BTreeSet;
use std::fmt;

use rmcp::model::JsonObject;
use serde::Serialize;

use crate::mcp::boundary::{Credential, tiers_of};
use crate::plan::{Hook, ResolvedHost, ResolvedWave};
use crate::protocol::{HostName, Revision, Tier};
use crate::rollout::Rollout;
use crate::text::safe;

/// The most hosts and steps that are named; the others are counted.
const MOST_NAMED: usize = 40;

#[derive(Debug, Clone, Serialize)]
pub(in crate::mcp) struct Question<'a> {
    /// The tool that would do it, and its arguments.
    tool: &'a str,
    arguments: &'a JsonObject,
    pub(super) phrase: String,
    /// The tiers that it touches, the one with the least power first.
    pub(in crate::mcp) tiers: BTreeSet<Tier>,
    /// Whether it touches another tier than test, or a wave whose plan wants a person to confirm it.
    pub(super) needs_a_person: bool,
    hosts: Vec<&'a HostName>,
    /// What happens to the hosts, a line for each wave.
    steps: Vec<String>,
    /// The hosts that go back in history, each with the commit that it runs.
    back: Vec<String>,
    /// What changes on the hosts, as lines for people; empty where that is not known.
    pub(in crate::mcp) changes: Vec<String>,
    pub(in crate::mcp) asked: &'a Revision,
    /// The commit that it is now, which would be deployed.
    pub(super) commit: &'a Revision,
    /// What `preview_plan` returned.
    pub(in crate::mcp) plan_hash: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// Whether a tool with these arguments may carry out what was prepared. `phrase` is what to type: the target as plans
    /// write it, such as `prod.role.dns`, or the name of the plan.
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

    /// Lets a yes confirm a wave as well, whose plan wants that of a person.
    pub(in crate::mcp) fn confirm(&mut self, wave: &str) {
        self.needs_a_person = true;
        self.steps.push(safe(&format!("this confirms wave {wave}")));
    }

    /// All of it, as bytes that differ when anything in it does.
    pub(in crate::mcp) fn binding(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and texts only, so this cannot fail")
    }
}

/// A program that would run on this machine to be told of the rollout.
fn told((hook, command): (&Hook, &Vec<String>)) -> String {
    safe(&format!("{hook}: runs {} here", command.join(" ")))
}

/// What a wave does, with the command that would run on this machine.
fn step(wave: &ResolvedWave) -> String {
    let hosts: Vec<&str> = wave.hosts.iter().map(|host| host.hostname.as_str()).collect();
    let check = wave.limits.check.as_ref().map(|check| format!(", then runs {} here", check.command.join(" ")));
    safe(&format!("{}: {} {}{}", wave.name, wave.action, some(&hosts), check.unwrap_or_default()))
}

/// The first names, and how many more there are.
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
