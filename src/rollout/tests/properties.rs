//! Checks the invariants over random plans and random trouble, and compares rollouts with each other.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::fixture::secs;
use super::invariants::broken;
use super::ledger::Ledger;
use super::network::{Reply, ReplyKind, Script};
use super::sim::Log;
use super::transcript::transcript;
use super::world::{Climate, World, world};
use crate::protocol::Status;
use crate::rollout::{FailureReason, Outcome, WaveVerdict};

/// Returns a configuration without a file of failed cases: a case that finds a bug becomes a transcript.
pub(super) fn rollouts(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

pub(super) fn holds(world: &World, log: &Log) -> Result<(), TestCaseError> {
    let broken = broken(world, log);
    prop_assert!(broken.is_empty(), "broken: {}\n{}", broken.join(", "), transcript(log));
    Ok(())
}

proptest! {
    #![proptest_config(rollouts(3000))]

    #[test]
    fn all_holds_in_calm_weather(world in world(Climate::Calm)) {
        holds(&world, &world.run())?;
    }

    #[test]
    fn all_holds_through_outages(world in world(Climate::Outages)) {
        holds(&world, &world.run())?;
    }

    #[test]
    fn all_holds_through_interrupts(world in world(Climate::Interrupts)) {
        holds(&world, &world.run())?;
    }

    #[test]
    fn all_holds_in_chaos(world in world(Climate::Chaos)) {
        holds(&world, &world.run())?;
    }
}

proptest! {
    #![proptest_config(rollouts(1000))]

    /// P12: even if no host ever responds, a rollout ends within the bound that its preview shows.
    #[test]
    fn silence_comes_to_an_end(mut world in world(Climate::Calm)) {
        world.scripts.iter_mut().flatten().for_each(|script| script.replies.clear());
        holds(&world, &world.run())?;
    }

    /// P13: the verdicts of the waves do not depend on which host responds first.
    #[test]
    fn the_order_of_answers_does_not_matter(
        mut world in world(Climate::Calm),
        fates in vec(fate(), 24),
        delays in vec([0..2u64, 0..2], 24),
    ) {
        // Whether a host answers the roll call before or after its turn is no matter of the order of responses.
        world.late_answer = None;
        let verdicts = [0, 1].map(|run| {
            for (scripts, (fate, delays)) in world.scripts.iter_mut().zip(fates.iter().zip(&delays)) {
                *scripts = vec![script_of(*fate, delays[run])];
            }
            verdicts(&world, &world.run())
        });
        prop_assert_eq!(&verdicts[0], &verdicts[1]);
    }

    /// P14: one more failure never leads to one more request.
    #[test]
    fn a_failure_never_sends_more(before in world(Climate::Chaos), host in any::<Index>()) {
        prop_assume!(!before.scripts.is_empty());
        let mut after = before.clone();
        for reply in after.scripts[host.index(before.scripts.len())].iter_mut().flat_map(|script| &mut script.replies) {
            if reply.said == ReplyKind::Status(Status::Completed) {
                reply.said = ReplyKind::Status(Status::Failed);
            }
        }
        let asked = |world: &World| asked_hosts(world, &world.run());
        let (before, after) = (asked(&before), asked(&after));
        prop_assert!(after.iter().all(|host| before.contains(host)), "{after:?} is not within {before:?}");
    }
}

/// Returns the last reply of a host, which comes before any timeout.
fn fate() -> impl Strategy<Value = Option<ReplyKind>> {
    let failures = vec![
        None,
        Some(ReplyKind::Nobody),
        Some(ReplyKind::Status(Status::Failed)),
        Some(ReplyKind::Status(Status::Rejected)),
    ];
    prop_oneof![3 => Just(Some(ReplyKind::Status(Status::Completed))), 1 => select(failures)]
}

fn script_of(fate: Option<ReplyKind>, delay: u64) -> Script {
    let replies = fate.map(|said| Reply { after: secs(delay), said });
    Script { lost: 0, names_id: true, names_commit: true, replies: replies.into_iter().collect() }
}

/// Returns the outcome, and the kind of each wave's verdict without numbers of hosts.
fn verdicts(world: &World, log: &Log) -> (Option<Outcome>, Vec<&'static str>) {
    let ledger = seen(world, log);
    let kind = |verdict: &WaveVerdict| match verdict {
        WaveVerdict::Succeeded => "succeeded",
        WaveVerdict::Failed(FailureReason::TooManyFailures { .. }) => "too many failures",
        WaveVerdict::Failed(FailureReason::TooFewCompleted { .. }) => "too few completed",
        WaveVerdict::Failed(FailureReason::CheckFailed { .. }) => "check failed",
        WaveVerdict::Failed(FailureReason::Unknown | FailureReason::TwoMachines { .. }) => "unknown",
        WaveVerdict::Failed(FailureReason::Disconnected) => "disconnected",
        WaveVerdict::Interrupted => "interrupted",
        WaveVerdict::Skipped => "skipped",
    };
    (ledger.outcome, ledger.waves.iter().filter_map(|progress| progress.verdict.as_ref()).map(kind).collect())
}

fn asked_hosts(world: &World, log: &Log) -> Vec<String> {
    let ledger = seen(world, log);
    let asked = ledger.hosts.iter().filter(|seen| !seen.sent.is_empty() || !seen.fetches.is_empty());
    asked.map(|seen| seen.host.hostname.to_string()).collect()
}

fn seen<'a>(world: &'a World, log: &Log) -> Ledger<'a> {
    let mut ledger = Ledger::new(world);
    for (at, entry) in log {
        ledger.note(*at, entry);
    }
    ledger
}
