//! Executes a plan.
//!
//! A wave's hosts are sent requests in the order of the preview, through a sliding window. The wave is over when no
//! host is in flight and no further request will be sent; the next wave begins only after this one succeeded, baked and
//! passed its check. A host keeps its place in the window until it is final, also while it waits for a retry.
//!
//! The state of a rollout is its [`Summary`], and every change of it is a recorded event. Beside it the machine keeps
//! only what the journal does not record: timers, and facts about hosts that change no state.

mod contact;
mod hosts;
mod late_hosts;
mod outside;
mod rollback;
mod shared;
mod twins;
mod waves;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use self::contact::{Contact, Timer};
use self::rollback::Return;
use self::waves::CurrentWave;
use super::description::Rollout;
use super::event::{Connection, Event, EventKind, Outcome};
use super::flight::{InFlight, Timeouts};
use super::summary::{HostProgress, Summary, WaveState};
use super::{Effect, Input};
use crate::plan::{ResolvedHost, ResolvedWave};
use crate::protocol::{Replies, RequestId};

/// How long after its accept timeout a request expires: the clocks of a fleet may differ by this much.
pub const CLOCK_DIFFERENCE: Duration = Duration::from_mins(2);

/// The most effects that a driver has prepared at once, so that the first requests of a large wave are not all in
/// memory before one is sent.
pub const MAX_PREPARED: usize = 512;

#[derive(Debug, Clone)]
pub struct Machine {
    state: Summary,
    rollout: Arc<Rollout>,
    epoch: Timestamp,
    /// No further request is prepared while so many effects wait.
    prepared: usize,
    replies: Replies,
    /// In the order of `state.hosts`.
    contacts: Vec<Contact>,
    /// The hosts of each wave, as a range of that order.
    ranges: Vec<Range<usize>>,
    by_request: FxHashMap<RequestId, usize>,
    /// When hosts of the current wave are due, and their indices.
    timers: BTreeSet<(Duration, usize)>,
    progress: CurrentWave,
    /// Until when a host that did not answer the first roll call may still answer this one.
    roll_until: Option<Duration>,
    /// Whether the plan's `is_current` still holds: hosts may have changed before a resume.
    knows_current: bool,
    /// The host that is rolling back.
    returning: Option<Return>,
    link: ConnectionState,
    effects: VecDeque<Effect>,
}

#[derive(Debug, Clone, Copy)]
enum ConnectionState {
    /// Until `settled_at`, an accept timeout after a reconnect, listeners may still be reconnecting.
    Up {
        settled_at: Duration,
    },
    Down {
        since: Duration,
    },
}

impl Machine {
    /// Begins a rollout; `epoch` is the wall-clock time of its beginning, to which every `now` is relative. No further
    /// request is prepared while `prepared` effects wait.
    pub fn new(rollout: Arc<Rollout>, epoch: Timestamp, prepared: usize) -> Self {
        let mut machine = Self::assemble(rollout, Summary::default(), epoch, prepared);
        machine.record(Duration::ZERO, EventKind::Begun(Arc::clone(&machine.rollout)));
        machine.advance(Duration::ZERO);
        machine
    }

    /// Resumes a rollout from the state in which its journal ends; `None` when the journal does not describe the
    /// rollout. Completed hosts are never asked again; hosts that may run their request are asked for their state under
    /// its id; all others are pending again.
    pub fn resume(recorded: Summary, epoch: Timestamp, prepared: usize) -> Option<Self> {
        let now = Duration::ZERO;
        let has_begun = recorded.waves.iter().any(|wave| wave.state != WaveState::Pending);
        let was_left = has_begun || recorded.was_resumed || recorded.outcome.is_some();
        let mut machine = Self::assemble(Arc::clone(recorded.rollout.as_ref()?), recorded, epoch, prepared);
        machine.knows_current = !was_left;
        machine.record(now, EventKind::Resumed);
        if machine.state.current() == 0 {
            machine.call_roll(now);
        }
        for index in machine.places(HostProgress::is_rolling_back) {
            machine.send_back_again(now, index);
        }
        machine.advance(now);
        Some(machine)
    }

    fn assemble(rollout: Arc<Rollout>, state: Summary, epoch: Timestamp, prepared: usize) -> Self {
        let mut start = 0;
        let ranges = rollout.plan.waves.iter().enumerate().map(|(index, wave)| {
            let range = start..start + wave.hosts.len();
            // The staging wave comes first and has the hosts of all other waves.
            start = if rollout.plan.stage && index == 0 { 0 } else { range.end };
            range
        });
        Self {
            state,
            epoch,
            prepared,
            replies: Replies::of(rollout.id),
            contacts: rollout.plan.hosts().map(Contact::new).collect(),
            ranges: ranges.collect(),
            by_request: FxHashMap::default(),
            timers: BTreeSet::new(),
            progress: CurrentWave::default(),
            roll_until: None,
            knows_current: true,
            returning: None,
            link: ConnectionState::Up { settled_at: Duration::ZERO },
            effects: VecDeque::new(),
            rollout,
        }
    }

    /// Applies an event to the state, and emits it to be recorded and displayed.
    fn record(&mut self, now: Duration, kind: EventKind) {
        let event = Event { at: self.wall_clock(now), kind };
        self.state.apply(&event);
        self.effects.push_back(Effect::Report(event));
    }

    fn wall_clock(&self, now: Duration) -> Timestamp {
        self.epoch.saturating_add(now).unwrap_or(Timestamp::MAX)
    }

    fn timeouts(&self) -> Timeouts {
        let limits = &self.wave().limits;
        Timeouts { accept: limits.accept_timeout, finish: limits.finish_timeout() }
    }

    fn is_up(&self) -> bool {
        matches!(self.link, ConnectionState::Up { .. })
    }

    fn set_timer(&mut self, index: usize, timer: Timer) {
        let was_due = self.contact(index).timer.due();
        let due = timer.due();
        self.contact_mut(index).timer = timer;
        if was_due != due {
            was_due.map(|due| self.timers.remove(&(due, index)));
            self.timers.extend(due.map(|due| (due, index)));
        }
    }

    /// Changes the timing of a host in flight.
    fn change_flight(&mut self, index: usize, change: impl FnOnce(InFlight) -> InFlight) {
        if let Timer::InFlight(flight) = self.contact(index).timer {
            self.set_timer(index, Timer::InFlight(change(flight)));
        }
    }

    /// Returns the hosts of the current wave that are in flight, in order.
    fn in_flight(&self) -> Vec<usize> {
        self.range().filter(|&index| self.contact(index).flight().is_some()).collect()
    }

    /// Returns the indices of the hosts that satisfy a predicate, in order.
    fn places(&self, is_wanted: impl Fn(&HostProgress) -> bool) -> Vec<usize> {
        self.state.hosts.iter().enumerate().filter(|(_, host)| is_wanted(host)).map(|(index, _)| index).collect()
    }

    /// Returns the state of the current wave, or `Pending` after the last one.
    fn phase(&self) -> &WaveState {
        self.state.waves.get(self.state.current()).map_or(&WaveState::Pending, |wave| &wave.state)
    }

    fn is_running(&self) -> bool {
        matches!(self.phase(), WaveState::Running | WaveState::Draining)
    }

    #[expect(clippy::indexing_slicing, reason = "asked only while a wave is under way, and so there is one")]
    fn wave(&self) -> &ResolvedWave {
        &self.rollout.plan.waves[self.state.current()]
    }

    fn range(&self) -> Range<usize> {
        self.ranges.get(self.state.current()).cloned().unwrap_or_default()
    }

    #[expect(clippy::indexing_slicing, reason = "indices are made from the ranges of a vector of the same length")]
    fn host(&self, index: usize) -> &HostProgress {
        &self.state.hosts[index]
    }

    #[expect(clippy::indexing_slicing, reason = "indices are made from the ranges of the same vector")]
    fn contact(&self, index: usize) -> &Contact {
        &self.contacts[index]
    }

    #[expect(clippy::indexing_slicing, reason = "indices are made from the ranges of the same vector")]
    fn contact_mut(&mut self, index: usize) -> &mut Contact {
        &mut self.contacts[index]
    }

    fn resolved_host(&self, index: usize) -> &ResolvedHost {
        let host = self.host(index);
        let wave = self.rollout.plan.waves.get(host.wave.0);
        wave.and_then(|wave| wave.hosts.get(host.index)).expect("indices are made from the waves of the same plan")
    }
}

impl Machine {
    /// Returns the state of the rollout, including the events that still wait as effects.
    pub const fn state(&self) -> &Summary {
        &self.state
    }

    pub const fn rollout(&self) -> &Arc<Rollout> {
        &self.rollout
    }

    pub const fn outcome(&self) -> Option<Outcome> {
        self.state.outcome
    }

    /// Sets the wall clock, which goes on while the operator's machine sleeps and which people adjust. Requests expire
    /// by it; no timer depends on it.
    pub fn set_clock(&mut self, now: Duration, wall_clock: Timestamp) {
        self.epoch = wall_clock.saturating_sub(now).unwrap_or(wall_clock);
    }

    pub fn handle(&mut self, now: Duration, input: Input) {
        if self.outcome().is_some() {
            return;
        }
        match input {
            Input::Response { from, request, response } => self.respond(now, &from, &request, response),
            Input::OldResponse(response) => self.respond_in_old_form(now, response),
            Input::NoResponders { request } => self.no_responders(now, &request),
            Input::ResponsesLost => self.answers_lost(now),
            Input::Connection(Connection::Down) => self.disconnected(now),
            Input::Connection(Connection::Up) => self.reconnected(now),
            Input::Answer(answer) => self.answered(now, answer),
            Input::CheckDone(result) => self.checked(now, result),
            Input::Interrupt(how) => self.interrupted(now, how),
            Input::Discovered(report) => self.present(now, &report),
        }
        self.advance(now);
    }

    /// Does what is due at the time that [`Self::deadline`] returned.
    pub fn handle_deadline(&mut self, now: Duration) {
        if self.outcome().is_some() {
            return;
        }
        if let ConnectionState::Down { .. } = self.link {
            if self.deadline().is_some_and(|deadline| now >= deadline) {
                self.bus_lost(now);
            }
        } else {
            self.return_due(now);
            self.roll_until = self.roll_until.filter(|until| now < *until);
            while let Some(&(_, index)) = self.timers.first().filter(|(due, _)| *due <= now) {
                self.due(now, index);
            }
        }
        self.advance(now);
    }

    /// Whether [`Self::handle_deadline`] would give up a silent host: a good time to test the connection first.
    pub fn gives_up(&self, now: Duration) -> bool {
        if self.outcome().is_some() || !self.is_up() {
            return false;
        }
        let due = self.timers.iter().take_while(|(due, _)| *due <= now);
        let mut flights = due.filter_map(|(_, index)| self.contact(*index).flight());
        let is_over = |flight: &InFlight| now >= flight.deadline;
        flights.any(is_over) || self.returning.as_ref().is_some_and(|back| is_over(&back.flight))
    }

    /// Returns when to call [`Self::handle_deadline`] if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        if self.outcome().is_some() {
            return None;
        }
        match (self.phase(), self.link) {
            (WaveState::Baking, _) => Some(self.progress.bakes_until),
            (WaveState::Running | WaveState::Draining, ConnectionState::Down { since }) => {
                Some(since + self.timeouts().finish)
            }
            (WaveState::Running | WaveState::Draining, ConnectionState::Up { .. }) => {
                self.timers.first().map(|(due, _)| *due).into_iter().chain(self.roll_until).min()
            }
            (WaveState::Ended(_), ConnectionState::Down { since }) => {
                Some(self.progress.returns_since.max(since) + self.timeouts().finish)
            }
            (WaveState::Ended(_), ConnectionState::Up { .. }) => self.returning.as_ref().map(|back| back.flight.due()),
            (WaveState::Pending | WaveState::AwaitingConfirmation | WaveState::Checking, _) => None,
        }
    }

    /// Returns the next effect, in order. Call it until `None` after each `handle` and `handle_deadline`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub fn prepare_more(&mut self, now: Duration) {
        self.advance(now);
    }

    /// Whether a further request can be prepared. The driver may carry out the prepared effects before it calls
    /// [`Self::prepare_more`].
    pub fn has_more(&self) -> bool {
        self.outcome().is_none() && self.is_running() && self.next_to_send().is_some()
    }
}
