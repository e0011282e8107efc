//! The invariants about hosts that are not part of the plan.

use std::time::Duration;

use super::invariants::is_not_asked;
use super::ledger::Ledger;
use super::sim::Entry;
use crate::rollout::{Effect, EventKind, WaveIndex};

/// A host that should have been in the plan is named once, as soon as it is heard, and so is no other.
pub(super) fn latecomers_are_named(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::TurnedUp { host, wave } => {
                let takes_all = ledger.waves.iter().position(|course| !course.wave.groups.is_empty());
                ledger.to_be_named.contains(host) && takes_all == Some(wave.0)
            }
            _ => true,
        },
        Entry::Told(_) | Entry::Woken => ledger.to_be_named.is_empty(),
        Entry::Did(_) | Entry::Restarted => true,
    }
}

/// The roll is called when a later wave begins, when a rollout is resumed and after an outage, where there are groups or
/// hosts that may be unable to return, and never else.
pub(super) fn roll_is_called(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let before = match &ledger.last {
        Some(Effect::Report(event)) => Some(&event.kind),
        _ => None,
    };
    let wave_began = matches!(before, Some(EventKind::WaveStarted { wave }) if *wave > WaveIndex(0));
    match entry {
        Entry::Did(Effect::CallRoll) => {
            let is_awaited = ledger.hosts.iter().any(|seen| seen.outcome.is_none() && is_not_asked(ledger, seen));
            let resumed = before == Some(&EventKind::Resumed);
            (ledger.has_groups() && (wave_began || resumed)) || is_awaited
        }
        Entry::Restarted => true,
        _ => !(wave_began && ledger.has_groups() && ledger.down_since.is_none()),
    }
}
