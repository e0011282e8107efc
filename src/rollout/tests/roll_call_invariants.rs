//! Invariants about hosts outside the plan.

use std::time::Duration;

use super::invariants::is_not_asked;
use super::ledger::Ledger;
use super::sim::Entry;
use crate::rollout::{Effect, EventKind, WaveIndex};

/// A late host of the plan's groups is reported once, as soon as it answers. No other host is reported.
pub(super) fn late_hosts_are_named(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::AnsweredLate { host, wave } => {
                let takes_all = ledger.waves.iter().position(|progress| !progress.wave.groups.is_empty());
                ledger.to_be_named.contains(host) && takes_all == Some(wave.0)
            }
            _ => true,
        },
        Entry::Told(_) | Entry::Woken => ledger.to_be_named.is_empty(),
        Entry::Did(_) | Entry::Restarted => true,
    }
}

/// The roll is called when a later wave begins, on a resume and after an outage, and only if the plan has groups or
/// hosts that may not support the request.
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
