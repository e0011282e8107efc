//! Executes a plan.
//!
//! A wave's hosts are sent requests in the order of the preview, through a sliding window. The wave is over when no
//! host is in flight and no further request will be sent; the next wave begins only after this one succeeded, baked and
//! passed its check. A host keeps its place in the window until it is final, also while it waits for a retry.
//!
//! The state of a rollout is its [`Summary`], and every change of it is a recorded event. Beside it the machine keeps
//! only what the journal does not record: timers, and facts about hosts that change no state.

mod connection;
mod contact;
mod hosts;
mod waves;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use self::contact::{Contact, InFlight, Timer};
use self::waves::CurrentWave;
use super::description::Rollout;
use super::event::{Connection, Event, EventKind, Outcome, WaveIndex};
use super::summary::{HostProgress, Summary, WaveState};
use super::{Effect, Input};
use crate::plan::{Limits, ResolvedHost, ResolvedWave};
use crate::protocol::{Replies, RequestId};

/// How long after its accept timeout a request expires: the clocks of a fleet may differ by this much.
pub const CLOCK_DIFFERENCE: Duration = Duration::from_mins(2);

/// The machine prepares no further request once this many effects wait to be carried out, so that a large wave is not in
/// memory all at once.
pub const MAX_PREPARED: usize = 512;

#[derive(Debug, Clone)]
pub struct Machine {
    state: Summary,
    rollout: Arc<Rollout>,
    epoch: Timestamp,
    max_prepared: usize,
    replies: Replies,
    /// In the order of `state.hosts`.
    contacts: Vec<Contact>,
    by_request: FxHashMap<RequestId, usize>,
    /// When hosts of the current wave are due, and their indices.
    timers: BTreeSet<(Duration, usize)>,
    current: CurrentWave,
    /// Until when a host that did not answer the first roll call may still answer this one.
    roll_until: Option<Duration>,
    connection: ConnectionState,
    effects: VecDeque<Effect>,
}

#[derive(Debug, Clone, Copy)]
enum ConnectionState {
    /// Until `reliable_from`, an accept timeout after a reconnect, listeners may still be reconnecting.
    Up {
        reliable_from: Duration,
    },
    Down {
        since: Duration,
    },
}

impl Machine {
    /// Begins a rollout; `epoch` is the wall-clock time of its beginning, to which every `now` is relative. No further
    /// request is prepared while `max_prepared` effects wait.
    pub fn new(rollout: Arc<Rollout>, epoch: Timestamp, max_prepared: usize) -> Self {
        let mut machine = Self::assemble(rollout, Summary::default(), epoch, max_prepared);
        machine.record(Duration::ZERO, EventKind::Begun(Arc::clone(&machine.rollout)));
        machine.advance(Duration::ZERO);
        machine
    }

    /// Resumes a rollout from the state in which its journal ends; `None` when the journal does not describe the
    /// rollout. Completed hosts are never asked again; hosts that may run their request are asked for their state under
    /// its id; all others are pending again.
    pub fn resume(recorded: Summary, epoch: Timestamp, max_prepared: usize) -> Option<Self> {
        let now = Duration::ZERO;
        let mut machine = Self::assemble(Arc::clone(recorded.rollout.as_ref()?), recorded, epoch, max_prepared);
        machine.record(now, EventKind::Resumed);
        if machine.state.current_wave == WaveIndex(0) {
            machine.call_roll(now);
        }
        for index in machine.range() {
            if machine.host(index).is_rolling_back() {
                machine.ask_anew(now, index);
            }
        }
        machine.advance(now);
        Some(machine)
    }

    fn assemble(rollout: Arc<Rollout>, state: Summary, epoch: Timestamp, max_prepared: usize) -> Self {
        Self {
            state,
            epoch,
            max_prepared,
            replies: Replies::of(rollout.id),
            contacts: rollout.plan.hosts().map(Contact::new).collect(),
            by_request: FxHashMap::default(),
            timers: BTreeSet::new(),
            current: CurrentWave::default(),
            roll_until: None,
            connection: ConnectionState::Up { reliable_from: Duration::ZERO },
            effects: VecDeque::new(),
            rollout,
        }
    }

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
            Input::Response { from, request, response } => self.on_response(now, &from, &request, response),
            Input::OldResponse(response) => self.on_old_response(now, response),
            Input::NoResponders { request } => self.on_no_responders(now, &request),
            Input::ResponsesLost => self.on_responses_lost(now),
            Input::Connection(Connection::Down) => self.on_disconnect(now),
            Input::Connection(Connection::Up) => self.on_reconnect(now),
            Input::Confirmation(answer) => self.on_confirmation(now, answer),
            Input::CheckDone(result) => self.on_check_done(now, result),
            Input::Interrupt(how) => self.on_interrupt(now, how),
            Input::Discovered(report) => self.on_roll_call_answer(now, &report),
        }
        self.advance(now);
    }

    /// Does what is due at the time that [`Self::deadline`] returned.
    pub fn handle_deadline(&mut self, now: Duration) {
        if self.outcome().is_some() {
            return;
        }
        if self.is_up() {
            self.roll_until = self.roll_until.filter(|until| now < *until);
            while let Some(&(_, index)) = self.timers.first().filter(|(due, _)| *due <= now) {
                self.on_timer(now, index);
            }
        } else if *self.wave_state() != WaveState::Baking && self.deadline().is_some_and(|deadline| now >= deadline) {
            self.on_bus_lost(now);
        }
        self.advance(now);
    }

    /// Whether [`Self::handle_deadline`] would give up a silent host: a good time to test the connection first.
    pub fn gives_up(&self, now: Duration) -> bool {
        let due = self.timers.iter().take_while(|(due, _)| *due <= now);
        let mut flights = due.filter_map(|(_, index)| self.contact(*index).flight());
        self.outcome().is_none() && self.is_up() && flights.any(|flight| now >= flight.deadline())
    }

    /// Returns when to call [`Self::handle_deadline`] if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        match (self.wave_state(), self.connection) {
            _ if self.outcome().is_some() => None,
            (WaveState::Pending | WaveState::AwaitingConfirmation | WaveState::Checking, _) => None,
            (WaveState::Baking, _) => Some(self.current.bakes_until),
            (WaveState::Running | WaveState::Draining | WaveState::Ended(_), ConnectionState::Down { since }) => {
                Some(since + self.limits().finish_timeout())
            }
            (WaveState::Running | WaveState::Draining | WaveState::Ended(_), ConnectionState::Up { .. }) => {
                self.timers.first().map(|(due, _)| *due).into_iter().chain(self.roll_until).min()
            }
        }
    }

    /// Returns the next effect, in order. Call it until `None` after each `handle` and `handle_deadline`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether a further request can be prepared. The driver may carry out the prepared effects before it calls
    /// [`Self::advance`].
    pub fn has_more(&self) -> bool {
        self.outcome().is_none() && self.is_running() && self.next_to_send().is_some()
    }
}

impl Machine {
    /// Applies an event to the state, and emits it to be recorded and displayed.
    fn record(&mut self, now: Duration, kind: EventKind) {
        let event = Event { at: self.wall_clock(now), kind };
        self.state.apply(&event);
        self.effects.push_back(Effect::Report(event));
    }

    fn wall_clock(&self, now: Duration) -> Timestamp {
        self.epoch.saturating_add(now).unwrap_or(Timestamp::MAX)
    }

    fn limits(&self) -> &Limits {
        &self.wave().limits
    }

    fn is_up(&self) -> bool {
        matches!(self.connection, ConnectionState::Up { .. })
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
    fn change_flight(&mut self, index: usize, change: impl FnOnce(&mut InFlight)) {
        if let Timer::InFlight(mut flight) = self.contact(index).timer {
            change(&mut flight);
            self.set_timer(index, Timer::InFlight(flight));
        }
    }

    /// Returns the hosts of the current wave that are in flight, in order.
    fn in_flight(&self) -> Vec<usize> {
        self.range().filter(|&index| self.contact(index).flight().is_some()).collect()
    }

    /// Returns the state of the current wave, or `Pending` after the last one.
    fn wave_state(&self) -> &WaveState {
        self.state.waves.get(self.state.current_wave.0).map_or(&WaveState::Pending, |wave| &wave.state)
    }

    fn is_running(&self) -> bool {
        matches!(self.wave_state(), WaveState::Running | WaveState::Draining)
    }

    #[expect(clippy::indexing_slicing, reason = "asked only while a wave is under way")]
    fn wave(&self) -> &ResolvedWave {
        &self.rollout.plan.waves[self.state.current_wave.0]
    }

    /// Returns the indices of the hosts of the current wave.
    fn range(&self) -> Range<usize> {
        self.range_of(self.state.current_wave)
    }

    /// Returns the indices of the hosts of a wave, which follow each other.
    fn range_of(&self, wave: WaveIndex) -> Range<usize> {
        let hosts = &self.state.hosts;
        hosts.partition_point(|host| host.wave < wave)..hosts.partition_point(|host| host.wave <= wave)
    }

    #[expect(clippy::indexing_slicing, reason = "an index is that of a host of the plan")]
    fn host(&self, index: usize) -> &HostProgress {
        &self.state.hosts[index]
    }

    #[expect(clippy::indexing_slicing, reason = "an index is that of a host of the plan")]
    fn contact(&self, index: usize) -> &Contact {
        &self.contacts[index]
    }

    #[expect(clippy::indexing_slicing, reason = "an index is that of a host of the plan")]
    fn contact_mut(&mut self, index: usize) -> &mut Contact {
        &mut self.contacts[index]
    }

    fn resolved_host(&self, index: usize) -> &ResolvedHost {
        let host = self.host(index);
        let wave = self.rollout.plan.waves.get(host.wave.0);
        wave.and_then(|wave| wave.hosts.get(host.index_in_wave)).expect("a host is one of the plan")
    }
}
