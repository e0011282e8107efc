//! Formats past and running rollouts as a table and as JSON.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::format::{ago, safe, table};
use super::wording;
use crate::rollout::{Outcome, Summary};

const TITLES: [&str; 7] = ["rollout", "name", "revision", "began", "by", "outcome", "hosts"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Running,
    Over,
}

/// Formats the rollouts as a table with a header, in the given order; every line ends with a line break.
pub fn rollouts_table(rollouts: &[(&Summary, Liveness)], now: Timestamp, width: usize) -> String {
    table(TITLES, rollouts.iter().filter_map(|(summary, liveness)| row(summary, *liveness, now)), width)
}

/// Returns the rollouts as a JSON array, in the given order.
pub fn rollouts_json(rollouts: &[(&Summary, Liveness)]) -> Value {
    rollouts.iter().filter_map(|(summary, liveness)| object(summary, *liveness)).collect()
}

fn row(summary: &Summary, liveness: Liveness, now: Timestamp) -> Option<[String; 7]> {
    let rollout = summary.rollout.as_deref()?;
    let took = wording::took(summary).map(|took| format!(" {took}"));
    Some([
        rollout.id.short(),
        safe(rollout.name()),
        wording::revision(rollout),
        summary.began_at.map(|at| ago(at, now)).unwrap_or_default(),
        safe(&rollout.operator),
        format!("{}{}", outcome(summary, liveness).replace('_', " "), took.unwrap_or_default()),
        wording::counts(&summary.counts()),
    ])
}

/// Returns a rollout as a JSON object, or `None` before it has begun.
pub(super) fn object(summary: &Summary, liveness: Liveness) -> Option<Value> {
    let rollout = summary.rollout.as_deref()?;
    let counts = summary.counts();
    Some(json!({
        "id": rollout.id.to_string(),
        "name": rollout.name(),
        "plan": rollout.source.as_ref().map(|source| &source.path),
        "asked": rollout.asked.as_str(),
        "revision": rollout.revision.as_str(),
        "subject": rollout.subject,
        "operator": rollout.operator,
        "began_at": summary.began_at,
        "ended_at": summary.ended_at,
        "outcome": outcome(summary, liveness),
        "waves": summary.waves.len(),
        "hosts": {
            "total": counts.total(),
            "pending": counts.pending,
            "in_flight": counts.in_flight,
            "completed": counts.completed,
            "current": counts.current,
            "returned": counts.rolled_back,
            "failed": counts.failed,
            "rejected": counts.rejected,
            "unreachable": counts.unreachable,
            "timed_out": counts.timed_out,
            "skipped": counts.skipped,
        },
    }))
}

pub const fn outcome(summary: &Summary, liveness: Liveness) -> &'static str {
    match (liveness, summary.outcome) {
        (Liveness::Running, _) => "running",
        (Liveness::Over, Some(Outcome::Succeeded)) => "succeeded",
        (Liveness::Over, Some(Outcome::Failed)) => "failed",
        (Liveness::Over, Some(Outcome::Interrupted)) => "interrupted",
        (Liveness::Over, Some(Outcome::Declined)) => "declined",
        (Liveness::Over, Some(Outcome::Paused)) => "paused",
        (Liveness::Over, None) => "cut_off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::format::columns;
    use crate::report::tests::scenario::{demo, start};
    use crate::rollout::{Event, EventKind};

    fn summary(events: Vec<EventKind>) -> Summary {
        let begun = EventKind::Begun(std::sync::Arc::new(demo()));
        let events: Vec<Event> = std::iter::once(begun).chain(events).map(|kind| Event { at: start(), kind }).collect();
        Summary::of(&events)
    }

    #[test]
    fn a_table_tells_what_was_deployed_when_by_whom_and_how_it_ended() {
        let (over, cut_off) = (summary(vec![EventKind::Ended { outcome: Outcome::Failed }]), summary(vec![]));
        let now = start() + jiff::SignedDuration::from_hours(3);
        let rows = [(&over, Liveness::Over), (&cut_off, Liveness::Over), (&cut_off, Liveness::Running)];
        insta::assert_snapshot!(rollouts_table(&rows, now, 80), @"
        rollout   name  revision         began   by        outcome    hosts
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  failed 0s  6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  cut off    6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  running    6 not asked
        ");
        for width in [50, 60, 80] {
            let shown = rollouts_table(&rows, now, width);
            assert!(shown.lines().all(|line| columns(line) <= width), "{width}:\n{shown}");
        }
        insta::assert_snapshot!(rollouts_table(&rows, now, 60), @"
        rollout   name  revision         began   by        outcome
            hosts
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  failed 0s
            6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  cut off
            6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  running
            6 not asked
        ");
        let told = rollouts_json(&rows);
        let outcomes: Vec<&Value> = told.as_array().unwrap().iter().map(|rollout| &rollout["outcome"]).collect();
        assert_eq!(outcomes, ["failed", "cut_off", "running"]);
        assert_eq!((&told[0]["hosts"]["total"], told[0].get("secret")), (&json!(6), None));
    }
}
