//! The executor of a plan.
//!
//! A wave's hosts are sent requests in the order of the preview, as a sliding window. The wave is over when none is in
//! flight and none will be sent; the next one begins only when this one succeeded, baked and passed its check. A host
//! holds its place in the window until it is final, also while it waits to be asked again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::event::{
    Anomaly, Cause, Connection, Event, EventKind, HostOutcome, Interrupt, Outcome, Rollout, SkipCause, WaveIndex,
    WaveVerdict,
};
use super::host::{ASK_AGAIN, Flight, Patience, Progress, after_final, impostor};
use super::{Answer, Dispatch, Effect, Executor, Input};
use crate::plan::{FrozenHost, FrozenWave};
use crate::protocol::{ErrorCode, ReplySubject, Request, RequestId, Response};

/// How much later than its accept timeout a host may still take a request: clocks of a fleet differ by this much.
pub const CLOCK_DIFFERENCE: Duration = Duration::from_mins(2);

/// The most anomalies that are reported of one host: what repeats for ever must not fill the journal.
const MAX_ANOMALIES: u8 = 3;

/// Carries out one rollout.
#[derive(Debug, Clone)]
pub struct Machine {
    rollout: Arc<Rollout>,
    epoch: Timestamp,
    hosts: Vec<Host>,
    /// Where in `hosts` each wave lies.
    ranges: Vec<Range<usize>>,
    by_request: BTreeMap<RequestId, usize>,
    /// When something is to be done about a host of the current wave.
    timers: BTreeSet<(Duration, usize)>,
    wave: usize,
    stage: Stage,
    tally: Tally,
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
    rejections: u32,
    anomalies: u8,
}

#[derive(Debug, Clone)]
enum State {
    Pending,
    InFlight(Flight),
    /// Asked in vain, and to be asked again at `until`.
    Waiting {
        until: Duration,
        outcome: HostOutcome,
        response: Option<Box<Response>>,
    },
    Final(HostOutcome),
}

/// What the current wave is at.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Entering,
    Confirming,
    Running,
    Baking { until: Duration },
    Checking,
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
        let mut ranges = Vec::with_capacity(rollout.plan.waves.len());
        let mut hosts = Vec::with_capacity(rollout.plan.hosts().count());
        for wave in &rollout.plan.waves {
            let start = hosts.len();
            hosts.extend(wave.hosts.iter().map(Host::new));
            ranges.push(start..hosts.len());
        }
        let mut machine = Self {
            epoch,
            hosts,
            ranges,
            by_request: BTreeMap::new(),
            timers: BTreeSet::new(),
            wave: 0,
            stage: Stage::Entering,
            tally: Tally::default(),
            interrupt: None,
            link: Link::Up { settled_at: Duration::ZERO },
            effects: VecDeque::new(),
            outcome: None,
            rollout,
        };
        machine.report(Duration::ZERO, EventKind::Begun(Box::new(Rollout::clone(&machine.rollout))));
        machine.advance(Duration::ZERO);
        machine
    }

    // -- the course of the rollout

    /// Goes on for as long as there is something to do without waiting.
    fn advance(&mut self, now: Duration) {
        while self.outcome.is_none() && self.step(now) {}
    }

    /// Takes one step, and returns whether there was one to take.
    fn step(&mut self, now: Duration) -> bool {
        match self.stage {
            Stage::Entering => self.enter_wave(now),
            Stage::Running => return self.run_wave(now),
            Stage::Confirming | Stage::Baking { .. } | Stage::Checking if self.interrupt.is_some() => {
                self.end_wave(now, WaveVerdict::Interrupted);
            }
            Stage::Baking { until } if now >= until => self.check_or_succeed(now),
            Stage::Confirming | Stage::Baking { .. } | Stage::Checking => return false,
        }
        true
    }

    fn enter_wave(&mut self, now: Duration) {
        let Some(range) = self.ranges.get(self.wave) else {
            return self.finish(now, Outcome::Succeeded);
        };
        if self.interrupt.is_some() {
            return self.stop(now, SkipCause::Interrupt, Outcome::Interrupted);
        }
        self.tally = Tally { next: range.start, last_final_at: now, ..Tally::default() };
        if self.wave().limits.confirm {
            self.stage = Stage::Confirming;
            self.report(now, EventKind::AwaitingConfirmation { wave: WaveIndex(self.wave) });
            self.effects.push_back(Effect::Ask(WaveIndex(self.wave)));
        } else {
            self.start_wave(now);
        }
    }

    fn start_wave(&mut self, now: Duration) {
        self.stage = Stage::Running;
        self.report(now, EventKind::WaveStarted { wave: WaveIndex(self.wave) });
    }

    fn run_wave(&mut self, now: Duration) -> bool {
        while self.may_send() && self.tally.in_flight < self.wave().limits.max_parallel {
            self.tally.in_flight += 1;
            self.send(now, self.tally.next);
            self.tally.next += 1;
        }
        let waits_for_bus = self.tally.next < self.range().end && !self.sends_no_more();
        if self.tally.in_flight > 0 || waits_for_bus {
            return false;
        }
        self.conclude_wave(now);
        true
    }

    /// Whether the next host of the wave may be sent its request as far as it depends on all but the window.
    fn may_send(&self) -> bool {
        self.tally.next < self.range().end && !self.sends_no_more() && matches!(self.link, Link::Up { .. })
    }

    fn sends_no_more(&self) -> bool {
        self.interrupt.is_some() || self.tally.halted.is_some()
    }

    /// Every host of the wave that was asked is final, and no further one will be asked.
    fn conclude_wave(&mut self, now: Duration) {
        let skipped = self.tally.next..self.range().end;
        let cause = self.tally.halted.unwrap_or(SkipCause::Interrupt);
        let any_skipped = !skipped.is_empty();
        self.skip(now, skipped, cause);

        let limits = &self.wave().limits;
        let Tally { completed, failures, .. } = self.tally;
        if failures > limits.max_failures {
            let cause = Cause::TooManyFailures { failures, max_failures: limits.max_failures };
            self.end_wave(now, WaveVerdict::Failed(cause));
        } else if any_skipped && cause == SkipCause::Disconnected {
            self.end_wave(now, WaveVerdict::Failed(Cause::Disconnected));
        } else if any_skipped {
            self.end_wave(now, WaveVerdict::Interrupted);
        } else if completed < limits.min_hosts {
            let cause = Cause::TooFewCompleted { completed, min_hosts: limits.min_hosts };
            self.end_wave(now, WaveVerdict::Failed(cause));
        } else {
            self.bake(now);
        }
    }

    /// After the last wave nothing is waited for, unless there is a check that the wait is for.
    fn bake(&mut self, now: Duration) {
        let limits = &self.wave().limits;
        let nothing_follows = self.wave + 1 == self.ranges.len() && limits.check.is_none();
        let until = self.tally.last_final_at + limits.bake_time;
        let remaining = until.saturating_sub(now);
        if nothing_follows || remaining.is_zero() {
            self.check_or_succeed(now);
        } else {
            self.stage = Stage::Baking { until };
            let wave = WaveIndex(self.wave);
            self.report(now, EventKind::Baking { wave, remaining });
        }
    }

    fn check_or_succeed(&mut self, now: Duration) {
        if self.wave().limits.check.is_some() {
            self.stage = Stage::Checking;
            self.report(now, EventKind::Checking { wave: WaveIndex(self.wave) });
            self.effects.push_back(Effect::RunCheck(WaveIndex(self.wave)));
        } else {
            self.end_wave(now, WaveVerdict::Succeeded);
        }
    }

    fn end_wave(&mut self, now: Duration, verdict: WaveVerdict) {
        let (skip, outcome) = match verdict {
            WaveVerdict::Succeeded => {
                self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict });
                self.wave += 1;
                self.stage = Stage::Entering;
                return;
            }
            WaveVerdict::Failed(_) => (SkipCause::EarlierWave, Outcome::Failed),
            WaveVerdict::Interrupted | WaveVerdict::Skipped => (SkipCause::Interrupt, Outcome::Interrupted),
        };
        // A wave that was interrupted while it waited for its confirmation has hosts that were not asked.
        self.skip(now, self.tally.next..self.range().end, skip);
        self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict });
        self.wave += 1;
        self.stop(now, skip, outcome);
    }

    /// Skips the current wave and all after it, and ends the rollout.
    fn stop(&mut self, now: Duration, cause: SkipCause, outcome: Outcome) {
        while let Some(range) = self.ranges.get(self.wave).cloned() {
            self.skip(now, range, cause);
            self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict: WaveVerdict::Skipped });
            self.wave += 1;
        }
        self.finish(now, outcome);
    }

    fn finish(&mut self, now: Duration, outcome: Outcome) {
        self.report(now, EventKind::Ended { outcome });
        self.outcome = Some(outcome);
    }

    fn skip(&mut self, now: Duration, hosts: Range<usize>, cause: SkipCause) {
        for index in hosts {
            if matches!(self.host(index).state, State::Pending) {
                self.host_mut(index).state = State::Final(HostOutcome::Skipped(cause));
                let host = self.frozen(index).hostname.clone();
                self.report(now, EventKind::Final { host, outcome: HostOutcome::Skipped(cause), response: None });
            }
        }
    }

    // -- the course of one host

    fn send(&mut self, now: Duration, index: usize) {
        let host = self.frozen(index).hostname.clone();
        let patience = self.patience();
        let ids = self.rollout.ids;
        let state = self.host_mut(index);
        let request = ids.id(&host, state.rejections + 1);
        let flight = Flight::new(now, patience);
        let due = flight.due();
        state.state = State::InFlight(flight);
        state.request = Some(request.clone());
        state.attempts += 1;
        let attempt = state.attempts;
        self.by_request.insert(request.clone(), index);
        self.timers.insert((due, index));
        let dispatch = self.dispatch(now, index, request.clone());
        self.report(now, EventKind::Dispatched { host: Some(host), request, attempt });
        self.effects.push_back(Effect::Send(dispatch));
    }

    fn dispatch(&self, now: Duration, index: usize, id: RequestId) -> Dispatch {
        let wave = self.wave();
        let expires_at = self.wall_clock(now + wave.limits.accept_timeout + CLOCK_DIFFERENCE);
        let request = Request {
            action: wave.action,
            revision: self.rollout.revision.clone(),
            reply_to: ReplySubject::of_request(self.rollout.id, &id),
            id: Some(id),
            expires_at: Some(expires_at),
            operator: Some(self.rollout.operator.clone()),
            rollout: Some(self.rollout.name().to_owned()),
            wave: Some(wave.name.clone()),
        };
        Dispatch { subject: self.frozen(index).subject.clone(), request }
    }

    /// Asks a host in flight how far it is, if its listener takes that for a question and not for a new order.
    fn ask_state(&mut self, now: Duration, index: usize) {
        let host = self.host(index);
        if let (true, Some(request)) = (host.knows_ids, host.request.clone()) {
            let dispatch = self.dispatch(now, index, request);
            self.effects.push_back(Effect::AskState(dispatch));
        }
    }

    fn respond(&mut self, now: Duration, request: &RequestId, response: Box<Response>) {
        let Some(&index) = self.by_request.get(request) else {
            return;
        };
        let name = &self.frozen(index).hostname;
        if let Some(anomaly) = impostor(name, &response) {
            return self.anomaly(now, index, anomaly);
        }
        let host = self.host_mut(index);
        host.knows_ids |= response.id.is_some();
        let of_earlier_request = host.request.as_ref() != Some(request);
        match &host.state {
            State::Final(outcome) => {
                if let Some(anomaly) = after_final(*outcome, response.status) {
                    self.anomaly(now, index, anomaly);
                }
            }
            // The host rejected this request and was sent another since; only that one counts.
            _ if of_earlier_request => {}
            State::Pending | State::Waiting { outcome: HostOutcome::Rejected, .. } => {}
            State::Waiting { .. } | State::InFlight(_) => match HostOutcome::of(response.status) {
                Some(outcome) => self.ended(now, index, outcome, Some(response)),
                None => self.progressed(now, index, &response),
            },
        }
    }

    fn progressed(&mut self, now: Duration, index: usize, response: &Response) {
        let Some(progress) = Progress::of(response.status) else {
            return;
        };
        let patience = self.patience();
        self.cancel_timer(index);
        let state = &mut self.host_mut(index).state;
        if matches!(state, State::Waiting { .. }) {
            // It was given up and spoke after all, in time to be taken back instead of asked again.
            *state = State::InFlight(Flight::new(now, patience));
        }
        let State::InFlight(flight) = state else {
            return;
        };
        let forward = flight.advance(progress, patience);
        let due = flight.due();
        self.timers.insert((due, index));
        let host = self.frozen(index).hostname.clone();
        match progress {
            Progress::Started if forward || response.phase.is_some() => {
                self.report(now, EventKind::Started { host, phase: response.phase });
            }
            Progress::Accepted if forward => self.report(now, EventKind::Accepted { host }),
            Progress::Asked | Progress::Accepted | Progress::Started => {}
        }
    }

    /// A request came to its end: it is asked again, or the host is final.
    fn ended(&mut self, now: Duration, index: usize, outcome: HostOutcome, response: Option<Box<Response>>) {
        self.cancel_timer(index);
        if !self.may_retry(index, outcome, response.as_deref()) {
            return self.settle(now, index, outcome, response);
        }
        let delay = self.wave().limits.retry_delay;
        let host = self.host_mut(index);
        host.rejections += u32::from(outcome == HostOutcome::Rejected);
        host.state = State::Waiting { until: now + delay, outcome, response };
        self.timers.insert((now + delay, index));
        let host = self.frozen(index).hostname.clone();
        self.report(now, EventKind::Retrying { host, outcome, delay });
    }

    /// Only a host that never answered or was busy is asked again: a real failure is one.
    fn may_retry(&self, index: usize, outcome: HostOutcome, response: Option<&Response>) -> bool {
        let host = self.host(index);
        let untouched = match &host.state {
            State::InFlight(flight) => flight.progress == Progress::Asked,
            State::Pending | State::Waiting { .. } | State::Final(_) => false,
        };
        let busy = response.is_some_and(|response| response.error == Some(ErrorCode::AlreadyRunning));
        let worth_it = outcome == HostOutcome::Unreachable || (outcome == HostOutcome::Rejected && busy);
        untouched && worth_it && host.attempts <= self.wave().limits.retries && !self.sends_no_more()
    }

    /// Makes a host final.
    fn settle(&mut self, now: Duration, index: usize, outcome: HostOutcome, response: Option<Box<Response>>) {
        let limits = &self.wave().limits;
        let (max_failures, excused) =
            (limits.max_failures, limits.ignore_unreachable && outcome == HostOutcome::Unreachable);
        self.cancel_timer(index);
        self.host_mut(index).state = State::Final(outcome);
        let host = self.frozen(index).hostname.clone();
        self.report(now, EventKind::Final { host, outcome, response });

        let tally = &mut self.tally;
        tally.in_flight -= 1;
        tally.last_final_at = now;
        if outcome == HostOutcome::Completed {
            tally.completed += 1;
        } else if !excused {
            tally.failures += 1;
        }
        let failures = tally.failures;
        if failures > max_failures && tally.halted.is_none() {
            let cause = Cause::TooManyFailures { failures, max_failures };
            self.halt(now, SkipCause::WaveHalted, cause);
        }
    }

    fn halt(&mut self, now: Duration, skip: SkipCause, cause: Cause) {
        self.tally.halted = Some(skip);
        if self.tally.in_flight > 0 {
            self.report(now, EventKind::Draining { wave: WaveIndex(self.wave), cause });
        }
        self.settle_waiting(now);
    }

    /// Hosts that were to be asked again are not, now that nothing is sent any more.
    fn settle_waiting(&mut self, now: Duration) {
        for index in self.range() {
            if let State::Waiting { outcome, response, .. } = &mut self.host_mut(index).state {
                let (outcome, response) = (*outcome, response.take());
                self.settle(now, index, outcome, response);
            }
        }
    }

    fn due(&mut self, now: Duration, index: usize) {
        match &mut self.host_mut(index).state {
            State::InFlight(flight) if now >= flight.deadline => {
                let outcome = flight.expired();
                self.ended(now, index, outcome, None);
            }
            State::InFlight(flight) => {
                flight.ask_at = None;
                let due = flight.due();
                self.timers.insert((due, index));
                self.ask_state(now, index);
            }
            State::Waiting { .. } => self.send(now, index),
            State::Pending | State::Final(_) => {}
        }
    }

    fn no_responders(&mut self, now: Duration, request: &RequestId) {
        let Some(&index) = self.by_request.get(request) else {
            return;
        };
        let settled = matches!(self.link, Link::Up { settled_at } if now >= settled_at);
        let State::InFlight(flight) = &mut self.host_mut(index).state else {
            return;
        };
        if flight.progress != Progress::Asked {
            // A host that has answered is there: its listener restarts, as a switch makes it do.
            return;
        }
        if settled {
            return self.ended(now, index, HostOutcome::Unreachable, None);
        }
        self.cancel_timer(index);
        if let State::InFlight(flight) = &mut self.host_mut(index).state {
            flight.ask_at = Some(now + ASK_AGAIN);
            let due = flight.due();
            self.timers.insert((due, index));
        }
    }

    fn anomaly(&mut self, now: Duration, index: usize, anomaly: Anomaly) {
        let host = self.host_mut(index);
        if host.anomalies < MAX_ANOMALIES {
            host.anomalies += 1;
            let host = self.frozen(index).hostname.clone();
            self.report(now, EventKind::Anomaly { host, anomaly });
        }
    }

    // -- the connection and the operator

    fn disconnected(&mut self, now: Duration) {
        if let Link::Up { .. } = self.link {
            self.link = Link::Down { since: now };
            self.report(now, EventKind::Connection { state: Connection::Down });
        }
    }

    /// Every host in flight is given back the time of the outage, and asked how far it is.
    fn reconnected(&mut self, now: Duration) {
        let Link::Down { since } = self.link else {
            return;
        };
        self.report(now, EventKind::Connection { state: Connection::Up });
        let patience = self.patience();
        self.link = Link::Up { settled_at: now + patience.accept };
        for index in self.in_flight() {
            self.cancel_timer(index);
            if let State::InFlight(flight) = &mut self.host_mut(index).state {
                flight.forgive(now, now.saturating_sub(since), patience);
                let due = flight.due();
                self.timers.insert((due, index));
            }
            self.ask_state(now, index);
        }
    }

    /// The bus was away for as long as a whole deployment may take: nobody knows what the hosts in flight came to.
    fn bus_lost(&mut self, now: Duration) {
        self.halt(now, SkipCause::Disconnected, Cause::Disconnected);
        for index in self.in_flight() {
            self.settle(now, index, HostOutcome::TimedOut, None);
        }
    }

    fn interrupted(&mut self, now: Duration, how: Interrupt) {
        if self.interrupt >= Some(how) {
            return;
        }
        self.interrupt = Some(how);
        self.report(now, EventKind::Interrupted { how });
        self.settle_waiting(now);
        if how == Interrupt::Abort {
            self.skip(now, self.tally.next..self.range().end, SkipCause::Interrupt);
            self.report(now, EventKind::WaveEnded { wave: WaveIndex(self.wave), verdict: WaveVerdict::Interrupted });
            self.wave += 1;
            self.stop(now, SkipCause::Interrupt, Outcome::Interrupted);
        }
    }

    fn answered(&mut self, now: Duration, answer: Answer) {
        if !matches!(self.stage, Stage::Confirming) {
            return;
        }
        match answer {
            Answer::Yes => self.start_wave(now),
            Answer::No => self.stop(now, SkipCause::NotConfirmed, Outcome::Declined),
            Answer::Unavailable => self.stop(now, SkipCause::NotConfirmed, Outcome::Paused),
        }
    }

    fn checked(&mut self, now: Duration, result: Result<(), String>) {
        if let Stage::Checking = self.stage {
            let verdict = match result {
                Ok(()) => WaveVerdict::Succeeded,
                Err(reason) => WaveVerdict::Failed(Cause::CheckFailed { reason }),
            };
            self.end_wave(now, verdict);
        }
    }

    // -- small things

    fn report(&mut self, now: Duration, kind: EventKind) {
        self.effects.push_back(Effect::Report(Event { at: self.wall_clock(now), kind }));
    }

    fn wall_clock(&self, now: Duration) -> Timestamp {
        self.epoch.saturating_add(now).unwrap_or(Timestamp::MAX)
    }

    fn patience(&self) -> Patience {
        let limits = &self.wave().limits;
        Patience { accept: limits.accept_timeout, finish: limits.timeout }
    }

    fn cancel_timer(&mut self, index: usize) {
        let due = match &self.host(index).state {
            State::InFlight(flight) => flight.due(),
            State::Waiting { until, .. } => *until,
            State::Pending | State::Final(_) => return,
        };
        self.timers.remove(&(due, index));
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

impl Executor for Machine {
    fn handle(&mut self, now: Duration, input: Input) {
        if self.outcome.is_some() {
            return;
        }
        match input {
            Input::Response { request, response } => self.respond(now, &request, response),
            Input::NoResponders { request } => self.no_responders(now, &request),
            Input::AnswersLost => self.in_flight().into_iter().for_each(|index| self.ask_state(now, index)),
            Input::Connection(Connection::Down) => self.disconnected(now),
            Input::Connection(Connection::Up) => self.reconnected(now),
            Input::Answer(answer) => self.answered(now, answer),
            Input::CheckDone(result) => self.checked(now, result),
            Input::Interrupt(how) => self.interrupted(now, how),
            // The hosts are settled before the rollout begins; who turns up later is not part of it.
            Input::Present(_) | Input::RollCallOver => {}
        }
        self.advance(now);
    }

    fn handle_deadline(&mut self, now: Duration) {
        if self.outcome.is_some() {
            return;
        }
        if let Link::Down { since } = self.link {
            if matches!(self.stage, Stage::Running) && now >= since + self.patience().finish {
                self.bus_lost(now);
            }
        } else {
            while let Some(&(_, index)) = self.timers.first().filter(|(due, _)| *due <= now) {
                self.timers.pop_first();
                self.due(now, index);
            }
        }
        self.advance(now);
    }

    fn deadline(&self) -> Option<Duration> {
        if self.outcome.is_some() {
            return None;
        }
        match (self.stage, self.link) {
            (Stage::Baking { until }, _) => Some(until),
            (Stage::Running, Link::Down { since }) => Some(since + self.patience().finish),
            (Stage::Running, Link::Up { .. }) => self.timers.first().map(|(due, _)| *due),
            (Stage::Entering | Stage::Confirming | Stage::Checking, _) => None,
        }
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn outcome(&self) -> Option<Outcome> {
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
            rejections: 0,
            anomalies: 0,
        }
    }
}

#[cfg(test)]
mod tests;
