//! Simulates a crash of the operator's machine, and a resume from the journal that it left.

use std::time::Duration;

use super::fixture::{EPOCH, MAX_PREPARED};
use super::sim::{Entry, Log, TestMachine};
use super::world::World;
use crate::rollout::{Effect, Machine, Summary};

/// A crash of the operator's machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crash {
    /// The log index of the last recorded fact.
    pub(super) last_fact: usize,
    /// Whether the publishes of that moment were lost, although they were recorded.
    pub(super) loses_publishes: bool,
    /// How long until the rollout is resumed.
    pub(super) away: Duration,
}

/// Returns the log indices of recorded facts.
pub(super) fn facts(log: &Log) -> impl Iterator<Item = usize> {
    let is_fact = |entry: &Entry| matches!(entry, Entry::Did(Effect::Report(event)) if event.kind.is_fact());
    log.iter().enumerate().filter(move |(_, (_, entry))| is_fact(entry)).map(|(index, _)| index)
}

/// Resumes a rollout from the facts in this log.
pub(super) fn taken_up(log: &Log, at: Duration) -> TestMachine {
    let events = log.iter().filter_map(|(_, entry)| match entry {
        Entry::Did(Effect::Report(event)) => Some(event),
        _ => None,
    });
    let recorded = Summary::of(events.filter(|event| event.kind.is_fact()));
    TestMachine { at, machine: Machine::resume(recorded, EPOCH + at, MAX_PREPARED).expect("what is resumed has begun") }
}

impl World {
    /// Repeats a rollout up to a crash, and then runs its resumed half.
    pub(super) fn resume(&self, log: &Log, crash: Crash) -> Log {
        let mut log = log[..=crash.last_fact].to_vec();
        let died_at = log.last().map_or(Duration::ZERO, |(at, _)| *at);
        let last_input = log.iter().rposition(|(_, entry)| !matches!(entry, Entry::Did(_))).unwrap_or_default();

        let (mut network, mut agenda) = (self.network(), self.agenda());
        for (index, (at, entry)) in log.iter().enumerate() {
            match entry {
                Entry::Did(effect) if !crash.loses_publishes || index < last_input => {
                    self.publish(*at, effect, &mut network, &mut agenda);
                }
                _ => {}
            }
        }
        let at = died_at + crash.away;
        agenda.begin_at(at);
        let machine = taken_up(&log, at);
        log.push((at, Entry::Restarted));
        log.extend(self.live(machine, network, agenda));
        log
    }
}
