//! Finds what speaks against a rollout before it begins, and what the operator has to know of its hosts.

use std::collections::BTreeMap;

use miette::Diagnostic;
use thiserror::Error;

use super::commits::History;
use crate::clock;
use crate::plan::{ResolvedPlan, Roster};
use crate::protocol::{Action, Commit, HostName, Revision, RolloutReport, Tier};
use crate::text::safe;

/// A reason not to begin, which the operator may override.
#[derive(Debug, Error, Diagnostic)]
pub enum PreflightError {
    #[error(
        "{} is rolling out {:?} since {}, and is in wave {} of {}",
        .0.operator, .0.name, clock::local(.0.since, &clock::zone()), .0.wave, .0.waves
    )]
    #[diagnostic(help(
        "wait until it is over, or add --force: then hosts that are busy with the other rollout reject this one, and a \
         host that both deploy ends up with whichever comes last"
    ))]
    AnotherRollout(Box<RolloutReport>),
    #[error("{hosts} would go back in history: what runs there comes after {commit}")]
    #[diagnostic(help("deploy a later commit, or add --allow-downgrade"))]
    Downgrade { hosts: String, commit: String },
}

impl PreflightError {
    /// Returns an error if a host runs a newer commit than `revision`.
    pub(super) fn downgrade(ahead: &[HostName], revision: &Revision) -> Option<Self> {
        let short = revision.commit().map_or_else(|| revision.to_string(), |commit| commit.short().to_owned());
        (!ahead.is_empty()).then(|| Self::Downgrade { hosts: names(ahead), commit: short })
    }
}

/// Returns warnings about answers in the old form, and the problems that hosts report.
pub(super) fn host_warnings(roster: &Roster, plan: &ResolvedPlan) -> Vec<String> {
    let answers = || plan.hosts().filter_map(|host| roster.answer(host.tier, &host.hostname));
    let unproved: Vec<HostName> =
        answers().filter(|answer| !answer.proved).map(|answer| answer.report.hostname.clone()).collect();
    let unproved = (!unproved.is_empty()).then(|| {
        format!(
            "answers in the old form, which other hosts could have sent: {}; update their listeners",
            names(&unproved)
        )
    });
    let mut problems: BTreeMap<&str, Vec<HostName>> = BTreeMap::new();
    for report in answers().map(|answer| &answer.report) {
        for problem in &report.problems {
            problems.entry(&problem.message).or_default().push(report.hostname.clone());
        }
    }
    let problems = problems.into_iter().map(|(message, hosts)| format!("{}: {}", names(&hosts), safe(message)));
    unproved.into_iter().chain(problems).collect()
}

/// Returns the hosts that would go back to an older commit, as far as known. Ignores dry runs, which change nothing.
pub(super) async fn ahead_of(commit: &Commit, plan: &ResolvedPlan, history: &mut History) -> Vec<HostName> {
    let mut known = BTreeMap::new();
    let mut ahead = Vec::new();
    let waves = plan.deploying_waves().map(|(_, wave)| wave).filter(|wave| wave.action != Action::DryActivate);
    for host in waves.flat_map(|wave| &wave.hosts) {
        let Some(current) = host.revision.as_ref().filter(|current| *current != commit) else { continue };
        let is_ahead = match known.get(current) {
            Some(is_ahead) => *is_ahead,
            None => *known.entry(current).or_insert(history.is_ancestor(commit, current).await == Some(true)),
        };
        if is_ahead {
            ahead.push(host.hostname.clone());
        }
    }
    ahead
}

pub(super) fn shares_a_tier(other: &RolloutReport, plan: &ResolvedPlan) -> bool {
    let tiers: Vec<Tier> = plan.hosts().map(|host| host.tier).collect();
    other.tiers.iter().any(|tier| tiers.contains(tier))
}

fn names(hosts: &[HostName]) -> String {
    hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(" ")
}
