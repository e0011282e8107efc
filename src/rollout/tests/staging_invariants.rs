//! The invariant of rollouts with staging.

use std::time::Duration;

use super::ledger::Ledger;
use super::observed_host::ObservedHost;
use super::sim::Entry;
use crate::protocol::Action;
use crate::rollout::{Effect, HostOutcome};

/// No host is deployed before every host has fetched its system or is excused.
pub(super) fn staged(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    let has_fetched = |seen: &ObservedHost| match seen.fetched {
        Some(HostOutcome::Completed | HostOutcome::Current) => true,
        Some(HostOutcome::Unreachable) => ledger.waves[seen.own_wave].wave.limits.ignore_unreachable,
        _ => false,
    };
    match entry {
        Entry::Did(Effect::Send(dispatch) | Effect::AskState(dispatch)) if ledger.stages => {
            let fetches = dispatch.request.action == Action::Fetch;
            fetches == ledger.is_staging && (fetches || ledger.hosts.iter().all(has_fetched))
        }
        _ => true,
    }
}
