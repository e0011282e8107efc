//! Runs a machine in virtual time against an agenda of inputs, and logs inputs and effects.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::rollout::{Connection, Effect, Input, Machine, Outcome};

/// More entries than any test rollout needs; one that reaches it runs in circles.
const MAX_ENTRIES: usize = 20_000;

/// An input, a wakeup or an effect.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// The machine handled this input.
    Told(Input),
    /// The machine's deadline came.
    Woken,
    /// The machine emitted this effect.
    Did(Effect),
    /// The process died after the previous entry, and another one resumes the rollout from the journal.
    Restarted,
}

pub(super) type Log = Vec<(Duration, Entry)>;

/// The inputs to come.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    items: BTreeMap<(Duration, usize), Item>,
    added: usize,
    /// Responses in these times are lost, and at the end of each the machine is told so.
    losses: Vec<Range<Duration>>,
    /// Whether the deadline goes first when both are due at the same instant.
    deadline_first: bool,
    is_down: bool,
    /// When the machine begins.
    begins_at: Duration,
}

/// A machine that begins at this time of the log; its own time counts from there.
#[derive(Debug)]
pub(super) struct TestMachine {
    pub(super) at: Duration,
    pub(super) machine: Machine,
}

#[derive(Debug)]
enum Item {
    Sure(Input),
    OverTheBus(Input),
}

impl Agenda {
    pub(super) fn new(deadline_first: bool, losses: &[Range<Duration>]) -> Self {
        let mut agenda = Self { deadline_first, losses: losses.to_vec(), ..Self::default() };
        for loss in losses {
            agenda.surely(loss.end, Input::ResponsesLost);
        }
        agenda
    }

    /// Adds an input that surely comes.
    pub(super) fn surely(&mut self, at: Duration, input: Input) {
        self.add(at, Item::Sure(input));
    }

    /// Adds an input that may be lost on the bus.
    pub(super) fn over_the_bus(&mut self, at: Duration, input: Input) {
        self.add(at, Item::OverTheBus(input));
    }

    fn add(&mut self, at: Duration, item: Item) {
        self.items.insert((at, self.added), item);
        self.added += 1;
    }

    /// Makes the machine begin at this time; it never gets the inputs before.
    pub(super) fn begin_at(&mut self, at: Duration) {
        self.items = self.items.split_off(&(at, 0));
        self.begins_at = at;
    }

    /// Returns the next input, or `None` inside if the machine's deadline comes first.
    fn next(&mut self, deadline: Option<Duration>) -> Option<(Duration, Option<Item>)> {
        let first = self.items.first_key_value().map(|((at, _), _)| *at);
        let woken = match (deadline, first) {
            (Some(deadline), Some(first)) => deadline < first || (deadline == first && self.deadline_first),
            (deadline, _) => deadline.is_some(),
        };
        if woken {
            return deadline.map(|deadline| (deadline, None));
        }
        self.items.pop_first().map(|((at, _), item)| (at, Some(item)))
    }

    fn arrives(&mut self, at: Duration, item: Item) -> Option<Input> {
        match item {
            Item::Sure(Input::Connection(connection)) => {
                self.is_down = connection == Connection::Down;
                Some(Input::Connection(connection))
            }
            Item::Sure(input) => Some(input),
            Item::OverTheBus(input) => {
                let is_lost = self.is_down || self.losses.iter().any(|loss| loss.contains(&at));
                (!is_lost).then_some(input)
            }
        }
    }
}

impl TestMachine {
    pub(super) fn handle(&mut self, now: Duration, input: Input) {
        self.machine.handle(now.saturating_sub(self.at), input);
    }

    pub(super) fn handle_deadline(&mut self, now: Duration) {
        self.machine.handle_deadline(now.saturating_sub(self.at));
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.machine.deadline().map(|deadline| self.at + deadline)
    }

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.machine.poll_effect()
    }

    pub(super) fn has_more(&self) -> bool {
        self.machine.has_more()
    }

    pub(super) fn prepare_more(&mut self, now: Duration) {
        self.machine.advance(now.saturating_sub(self.at));
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.machine.state().outcome
    }
}

/// Runs the machine to its end. `react` adds the inputs that follow from an effect.
pub(super) fn run(
    machine: &mut TestMachine,
    mut agenda: Agenda,
    mut react: impl FnMut(Duration, &Effect, &mut Agenda),
) -> Log {
    let mut log = Log::new();
    let mut now = agenda.begins_at;
    loop {
        while let Some(effect) = machine.poll_effect() {
            react(now, &effect, &mut agenda);
            log.push((now, Entry::Did(effect)));
        }
        if machine.outcome().is_some() {
            return log;
        }
        if machine.has_more() {
            machine.prepare_more(now);
            continue;
        }
        let (at, item) = agenda.next(machine.deadline()).expect("an machine that has not ended waits for something");
        now = now.max(at);
        match item {
            None => {
                log.push((now, Entry::Woken));
                machine.handle_deadline(now);
            }
            Some(item) => {
                if let Some(input) = agenda.arrives(now, item) {
                    log.push((now, Entry::Told(input.clone())));
                    machine.handle(now, input);
                }
            }
        }
        assert!(log.len() < MAX_ENTRIES, "the machine runs in circles");
    }
}
