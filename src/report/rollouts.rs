//! The rollouts that were run, as a table.

use super::format::{Took, safe, table};
use super::words;
use crate::rollout::{Outcome, Summary};

const TITLES: [&str; 6] = ["rollout", "name", "began", "by", "outcome", "hosts"];

/// Whether a process is at a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// One is.
    Running,
    /// None is.
    Over,
}

/// The rollouts as a table with a title, in the order in which they are given; every line ends with a line break.
pub fn rollouts_table(rollouts: &[(&Summary, Liveness)]) -> String {
    table(TITLES, rollouts.iter().filter_map(|(summary, liveness)| row(summary, *liveness)))
}

fn row(summary: &Summary, liveness: Liveness) -> Option<[String; 6]> {
    let rollout = summary.rollout.as_deref()?;
    let took = summary.began_at.zip(summary.ended_at).map(|(began, ended)| format!(" {}", Took::between(began, ended)));
    let outcome = match (liveness, summary.outcome) {
        (Liveness::Running, _) => "running",
        (Liveness::Over, Some(Outcome::Succeeded)) => "succeeded",
        (Liveness::Over, Some(Outcome::Failed)) => "failed",
        (Liveness::Over, Some(Outcome::Interrupted)) => "interrupted",
        (Liveness::Over, Some(Outcome::Declined)) => "declined",
        (Liveness::Over, Some(Outcome::Paused)) => "paused",
        (Liveness::Over, None) => "cut off",
    };
    Some([
        rollout.id.short(),
        safe(rollout.name()),
        summary.began_at.map(|at| format!("{at:.0}")).unwrap_or_default(),
        safe(&rollout.operator),
        format!("{outcome}{}", took.unwrap_or_default()),
        words::counts(&summary.counts()),
    ])
}
