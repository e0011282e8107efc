//! Checks the invariants for rollouts whose operator's machine crashes after any recorded fact.

use proptest::prelude::*;
use proptest::sample::Index;

use super::crash::{Crash, facts};
use super::fixture::secs;
use super::properties::{holds, rollouts};
use super::world::{Climate, world};

proptest! {
    #![proptest_config(rollouts(250))]

    /// P15, P16 and P17: a crash right after each fact, and a second crash in the resumed rollout.
    #[test]
    fn all_holds_when_resumed_from_every_record(
        mut world in prop_oneof![1 => world(Climate::Calm), 2 => world(Climate::Chaos)],
        loses_publishes in any::<[bool; 2]>(),
        away in [0..40u64, 0..40],
        second in any::<Index>(),
    ) {
        let crash = |number: usize, last_fact| {
            Crash { last_fact, loses_publishes: loses_publishes[number], away: secs(away[number]) }
        };
        if world.stages {
            // Hosts get two requests then, and the journal does not record what the first responses showed of their
            // listeners: the ledger would know more than a new process does. So the plan knows all of it.
            for host in world.waves.iter_mut().flat_map(|wave| &mut wave.hosts) {
                (host.supports_ids, host.supports_rollback, host.supports_system) = (true, true, true);
            }
        }
        let whole = world.run();
        for last_fact in facts(&whole) {
            let resumed = world.resume(&whole, crash(0, last_fact));
            holds(&world, &resumed)?;
            let later: Vec<usize> = facts(&resumed).filter(|place| *place > last_fact).collect();
            let resumed_again = world.resume(&resumed, crash(1, *second.get(&later)));
            holds(&world, &resumed_again)?;
        }
    }
}
