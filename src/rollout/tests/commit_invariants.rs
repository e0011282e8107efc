//! Invariants about the one commit that a rollout deploys.

use std::time::Duration;

use super::ledger::Ledger;
use super::sim::Entry;
use crate::rollout::{Effect, EventKind};

/// Every request carries the revision that was settled before the first one, whatever hosts report.
pub(super) fn one_commit(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => !matches!(event.kind, EventKind::Resolved { .. }),
        Entry::Did(Effect::Send(dispatch) | Effect::AskState(dispatch) | Effect::Confirm(dispatch)) => {
            dispatch.request.revision == *ledger.revision
        }
        Entry::Did(Effect::Ask(_) | Effect::RunCheck(_) | Effect::CallRoll)
        | Entry::Told(_)
        | Entry::Woken
        | Entry::Restarted => true,
    }
}
