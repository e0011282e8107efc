//! The executor of a plan.
//!
//! A wave's hosts are sent requests in the order of the preview, as a sliding window. The wave is over when none is in
//! flight and none will be sent; the next one begins only when this one succeeded, baked and passed its check. A host
//! holds its place in the window until it is final, also while it waits to be asked again.

mod hosts;
mod latecomers;
mod outside;
mod returning;
mod shared;
mod twins;
mod waves;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::latecomers::Latecomers;
use self::returning::Return;
use super::event::{Cause, Connection, Event, EventKind, HostOutcome, Interrupt, Outcome, Rollout, SkipCause};
use super::host::{Flight, Instances, Patience};
use super::summary::{HostState, HostView, Summary};
use super::{Effect, Input};
use crate::places::Places;
use crate::plan::{FrozenHost, FrozenWave};
use crate::protocol::{Replies, RequestId, Response};

/// How much later than its accept timeout a host may still take a request: clocks of a fleet differ by this much.
pub const CLOCK_DIFFERENCE: Duration = Duration::from_mins(2);

/// The first requests of a large wave need not all be in memory before one has left: with so many effects waiting, no further
/// one is prepared. In tests a few are many.
const PREPARED: usize = if cfg!(test) { 3 } else { 512 };

/// Carries out one rollout.
#[derive(Debug, Clone)]
pub struct Machine {
    rollout: Arc<Rollout>,
    epoch: Timestamp,
    replies: Replies,
    hosts: Vec<Host>,
    /// Where in `hosts` each wave lies.
    ranges: Vec<Range<usize>>,
    by_request: Places<RequestId>,
    /// When something is to be done about a host of the current wave.
    timers: BTreeSet<(Duration, usize)>,
    /// The hosts that completed, in the order in which they did.
    completed: Vec<usize>,
    /// The host that was asked to return, while it has not come to an end.
    returning: Option<Return>,
    wave: usize,
    /// Whether the current wave had begun before the rollout was resumed, and so was confirmed if it had to be.
    begun: bool,
    stage: Stage,
    tally: Tally,
    latecomers: Latecomers,
    interrupt: Option<Interrupt>,
    link: Link,
    effects: VecDeque<Effect>,
    outcome: Option<Outcome>,
}

#[derive(Debug, Clone)]
struct Host {
    state: State,
    request: Option<RequestId>,
    knows_ids: bool,
    attempts: u32,
    /// How many of its ids it has been sent requests under that are of no use any more.
    spent_ids: u32,
    anomalies: u8,
    /// Whether an answer to its last request named that, so that all have to.
    names_ids: bool,
    instances: Instances,
    /// Whether it was asked to return to what it ran before.
    is_sent_back: bool,
}

#[derive(Debug, Clone)]
enum State {
    Pending,
    InFlight(Flight),
    /// Asked in vain, and to be asked again at `until`.
    Waiting {
        until: Duration,
        outcome: HostOutcome,
        response: Option<Arc<Response>>,
    },
    Final(HostOutcome),
}

/// What the current wave is at.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Entering,
    Confirming,
    Running,
    Baking {
        until: Duration,
    },
    Checking,
    /// It has failed, and its hosts return.
    Returning {
        since: Duration,
    },
}

/// What the current wave has come to so far.
#[derive(Debug, Clone, Default)]
struct Tally {
    /// The first host that was not asked yet.
    next: usize,
    in_flight: usize,
    completed: usize,
    /// Those that count against the budget.
    failures: usize,
    last_final_at: Duration,
    /// Why nothing more is sent in this wave.
    halted: Option<SkipCause>,
    /// Why the wave fails whatever becomes of its hosts.
    doomed: Option<Cause>,
}

#[derive(Debug, Clone, Copy)]
enum Link {
    /// Since a reconnect less than an accept timeout ago, listeners may still be on their way back.
    Up {
        settled_at: Duration,
    },
    Down {
        since: Duration,
    },
}

impl Machine {
    /// A rollout that begins now; `epoch` is the wall-clock time of that, to which every `now` is relative.
    pub fn new(rollout: Arc<Rollout>, epoch: Timestamp) -> Self {
        let hosts = rollout.plan.hosts().map(Host::new).collect();
        let mut machine = Self::assemble(rollout, epoch, hosts);
        machine.report(Duration::ZERO, EventKind::Begun(Arc::clone(&machine.rollout)));
        machine.advance(Duration::ZERO);
        machine
    }

    /// Takes up a rollout where its record ends. Completed hosts are never asked again; those that may be at it are
    /// asked for their state under the id that they know; all others are as if they had not been asked.
    pub fn resume(rollout: Arc<Rollout>, recorded: &Summary, epoch: Timestamp) -> Self {
        let now = Duration::ZERO;
        // What is to be done anew is for the summary to say, so that whoever reads the record later comes to the same.
        let mut left = recorded.clone();
        left.apply(&Event { at: epoch, kind: EventKind::Resumed });
        let hosts = rollout.plan.hosts().zip(&left.hosts);
        let hosts = hosts.map(|(frozen, view)| Host::taken_up(frozen, view)).collect();
        let mut machine = Self::assemble(rollout, epoch, hosts);
        machine.wave = left.waves.iter().take_while(|wave| wave.succeeded()).count();
        machine.begun = left.waves.get(machine.wave).is_some_and(|wave| wave.began_at.is_some());
        machine.latecomers = Latecomers::named(left.turned_up.keys());
        machine.report(now, EventKind::Resumed);
        if machine.wave == 0 {
            machine.call_roll();
        }
        for (index, view) in left.hosts.iter().enumerate() {
            if let (true, Some(request)) = (view.state.is_in_flight(), &view.request) {
                machine.ask_again(now, index, request.clone());
                // Its listener may be restarting, as a switch makes it do.
                machine.link = Link::Up { settled_at: machine.patience().accept };
            }
        }
        machine.completed = left.completed().to_vec();
        if left.failed_and_returns().is_some() {
            machine.stage = Stage::Returning { since: now };
        }
        for (index, view) in left.hosts.iter().enumerate() {
            if let (true, Some(completed)) = (view.is_returning(), &view.request) {
                machine.send_back_again(now, index, completed.clone());
            }
        }
        machine.advance(now);
        machine
    }

    fn assemble(rollout: Arc<Rollout>, epoch: Timestamp, hosts: Vec<Host>) -> Self {
        let mut start = 0;
        let ranges = rollout.plan.waves.iter().map(|wave| {
            let range = start..start + wave.hosts.len();
            start = range.end;
            range
        });
        Self {
            epoch,
            replies: Replies::of(rollout.id),
            hosts,
            ranges: ranges.collect(),
            by_request: Places::default(),
            timers: BTreeSet::new(),
            completed: Vec::new(),
            returning: None,
            wave: 0,
            begun: false,
            stage: Stage::Entering,
            tally: Tally::default(),
            latecomers: Latecomers::default(),
            interrupt: None,
            link: Link::Up { settled_at: Duration::ZERO },
            effects: VecDeque::new(),
            outcome: None,
            rollout,
        }
    }

    fn report(&mut self, now: Duration, kind: EventKind) {
        self.effects.push_back(Effect::Report(Event { at: self.wall_clock(now), kind }));
    }

    fn wall_clock(&self, now: Duration) -> Timestamp {
        self.epoch.saturating_add(now).unwrap_or(Timestamp::MAX)
    }

    fn patience(&self) -> Patience {
        let limits = &self.wave().limits;
        Patience { accept: limits.accept_timeout, finish: limits.finish_timeout() }
    }

    fn cancel_timer(&mut self, index: usize) {
        if let Some(due) = self.host(index).due() {
            self.timers.remove(&(due, index));
        }
    }

    /// Lets a timer go off at another time.
    fn move_timer(&mut self, index: usize, from: Option<Duration>, to: Duration) {
        if from == Some(to) {
            return;
        }
        if let Some(from) = from {
            self.timers.remove(&(from, index));
        }
        self.timers.insert((to, index));
    }

    /// The hosts of the current wave that are in flight, in order.
    fn in_flight(&self) -> Vec<usize> {
        self.range().filter(|&index| matches!(self.host(index).state, State::InFlight(_))).collect()
    }

    #[expect(clippy::indexing_slicing, reason = "asked only while a wave is under way, and so there is one")]
    fn wave(&self) -> &FrozenWave {
        &self.rollout.plan.waves[self.wave]
    }

    fn range(&self) -> Range<usize> {
        self.ranges.get(self.wave).cloned().unwrap_or_default()
    }

    #[expect(clippy::indexing_slicing, reason = "indices are made from the ranges of the same vector")]
    fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    #[expect(clippy::indexing_slicing, reason = "indices are made from the ranges of the same vector")]
    fn host_mut(&mut self, index: usize) -> &mut Host {
        &mut self.hosts[index]
    }

    fn frozen(&self, index: usize) -> &FrozenHost {
        let wave = self.ranges.partition_point(|range| range.end <= index);
        let hosts = self.rollout.plan.waves.get(wave).zip(self.ranges.get(wave));
        let host = hosts.and_then(|(wave, range)| wave.hosts.get(index - range.start));
        host.expect("indices are made from the waves of the same plan")
    }
}

impl Machine {
    /// Takes notice of something that happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        if self.outcome.is_some() {
            return;
        }
        match input {
            Input::Response { from, request, response } => self.respond(now, &from, &request, response),
            Input::OldResponse(response) => self.respond_in_old_form(now, response),
            Input::NoResponders { request } => self.no_responders(now, &request),
            Input::AnswersLost => self.answers_lost(now),
            Input::Connection(Connection::Down) => self.disconnected(now),
            Input::Connection(Connection::Up) => self.reconnected(now),
            Input::Answer(answer) => self.answered(now, answer),
            Input::CheckDone(result) => self.checked(now, result),
            Input::Interrupt(how) => self.interrupted(now, how),
            Input::Present(report) => self.present(now, &report),
        }
        self.advance(now);
    }

    /// Takes notice that the time that [`Self::deadline`] named has come.
    pub fn handle_deadline(&mut self, now: Duration) {
        if self.outcome.is_some() {
            return;
        }
        if let Link::Down { .. } = self.link {
            if self.deadline().is_some_and(|deadline| now >= deadline) {
                self.bus_lost(now);
            }
        } else {
            self.return_due(now);
            while let Some(&(_, index)) = self.timers.first().filter(|(due, _)| *due <= now) {
                self.timers.pop_first();
                self.due(now, index);
            }
        }
        self.advance(now);
    }

    /// When [`Self::handle_deadline`] wants to be called, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        if self.outcome.is_some() {
            return None;
        }
        match (self.stage, self.link) {
            (Stage::Baking { until }, _) => Some(until),
            (Stage::Running, Link::Down { since }) => Some(since + self.patience().finish),
            (Stage::Running, Link::Up { .. }) => self.timers.first().map(|(due, _)| *due),
            (Stage::Returning { since: began }, Link::Down { since }) => {
                Some(began.max(since) + self.patience().finish)
            }
            (Stage::Returning { .. }, Link::Up { .. }) => self.returning.as_ref().map(|back| back.flight.due()),
            (Stage::Entering | Stage::Confirming | Stage::Checking, _) => None,
        }
    }

    /// The next thing to do, in order. To be drained after each call of `handle` and `handle_deadline`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Prepares more.
    pub fn prepare_more(&mut self, now: Duration) {
        self.advance(now);
    }

    /// Whether there is more to do at once than was prepared. Until [`Self::prepare_more`] is called for it, what is there
    /// already can be done.
    pub fn has_more(&self) -> bool {
        let is_running = self.outcome.is_none() && matches!(self.stage, Stage::Running);
        is_running && self.tally.in_flight < self.wave().limits.max_parallel && self.next_to_send().is_some()
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}

impl Host {
    fn new(frozen: &FrozenHost) -> Self {
        Self {
            state: State::Pending,
            request: None,
            knows_ids: frozen.knows_ids,
            attempts: 0,
            spent_ids: 0,
            anomalies: 0,
            names_ids: false,
            instances: Instances::default(),
            is_sent_back: false,
        }
    }

    /// When something is to be done about it.
    fn due(&self) -> Option<Duration> {
        match &self.state {
            State::InFlight(flight) => Some(flight.due()),
            State::Waiting { until, .. } => Some(*until),
            State::Pending | State::Final(_) => None,
        }
    }

    /// The host as a record left it, as far as it is not in flight.
    fn taken_up(frozen: &FrozenHost, view: &HostView) -> Self {
        let (state, request) = match view.state {
            HostState::Final(outcome) => (State::Final(outcome), view.request.clone()),
            _ => (State::Pending, None),
        };
        let is_sent_back = view.returning.is_some();
        Self { state, request, attempts: view.attempts, spent_ids: view.spent_ids, is_sent_back, ..Self::new(frozen) }
    }
}
