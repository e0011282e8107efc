//! The invariants about the one commit that a rollout deploys.

use std::time::Duration;

use super::fixture::BRANCH;
use super::ledger::{Ledger, Seen};
use super::sim::Entry;
use crate::protocol::Revision;
use crate::rollout::{Effect, EventKind};

/// The commit is the one that was settled before, or the first that the first host named.
pub(super) fn one_commit(ledger: &Ledger, _: Duration, entry: &Entry) -> bool {
    match entry {
        Entry::Did(Effect::Report(event)) => match &event.kind {
            EventKind::Resolved { host, revision } => {
                let found = ledger.found.as_ref().is_some_and(|(by, commit)| (by, commit) == (host, revision));
                found && ledger.resolved.is_none()
            }
            _ => true,
        },
        Entry::Did(Effect::Send(dispatch) | Effect::AskState(dispatch)) => ledger
            .addressee(dispatch)
            .is_some_and(|seen| dispatch.request.revision.as_str() == expected(ledger, seen).as_str()),
        Entry::Told(_) | Entry::Woken => ledger.found == ledger.resolved,
        Entry::Did(_) | Entry::Restarted => true,
    }
}

/// What a host is to be sent; the branch only when it is the one that is to find the commit.
fn expected(ledger: &Ledger, seen: &Seen) -> Revision {
    let first = ledger.hosts.first().is_some_and(|first| first.host.hostname == seen.host.hostname);
    match ledger.commit() {
        Some(commit) => commit.into(),
        None if first => BRANCH.parse().unwrap(),
        None => "nothing-at-all".parse().unwrap(),
    }
}
