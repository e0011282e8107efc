//! One request to one subject, whoever listens there: what `deploy` does.
//!
//! Who is meant is not settled before the request, as it is in a plan: the roll is called once the first crowd of answers
//! has passed, and every host that answers it for this subject, or answers the request, is expected to come to an end. A
//! subject that names one host needs no roll call, unless that host is silent.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::event::{
    Anomaly, Cause, Connection, Event, EventKind, HostOutcome, Interrupt, Outcome, Rollout, WaveIndex, WaveVerdict,
};
use super::host::{Flight, MAX_ANOMALIES, Patience, Progress, after_final, impostor, keep};
use super::machine::CLOCK_DIFFERENCE;
use super::{Dispatch, Effect, Executor, Input};
use crate::places::Places;
use crate::protocol::{Action, HostName, HostReport, Request, RequestId, Response, SharedReplies, Subject, Target};

/// How long there may be silence before it is asked who is there at all.
const SILENCE: Duration = Duration::from_millis(500);

/// The roll of a group is called when no member has answered the request for this long: each of them would have two things
/// to do at once, and the answers to the request are those that somebody waits for.
const QUIET: Duration = Duration::from_millis(200);

/// The longest that answers put the roll call off.
const PUT_OFF: Duration = Duration::from_secs(1);

/// The only wave there is.
const WAVE: WaveIndex = WaveIndex(0);

/// Carries out one deployment to a subject.
#[derive(Debug)]
pub struct Broadcast {
    rollout: Arc<Rollout>,
    order: Order,
    request: RequestId,
    epoch: Timestamp,
    /// The host that the subject names, when it names one.
    named: Option<HostName>,
    /// Every host that was heard of, in the order in which that was.
    hosts: Vec<Host>,
    places: Places<HostName>,
    /// When something is to be done about a host in flight.
    timers: BTreeSet<(Duration, usize)>,
    roll: Roll,
    /// Whether answers to the request may have been lost before it was known how to ask for them.
    has_missed: bool,
    down_since: Option<Duration>,
    /// Since when every answer could be heard: the beginning, or the last time that the bus came back.
    heard_since: Duration,
    interrupt: Option<Interrupt>,
    effects: VecDeque<Effect>,
    outcome: Option<Outcome>,
}

/// What is to be done, and with how much patience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where to.
    pub subject: Subject,
    /// What.
    pub action: Action,
    /// From the request to the first status of a host that is there.
    pub accept_timeout: Duration,
    /// From the request to the final status.
    pub timeout: Duration,
}

#[derive(Debug)]
struct Host {
    name: HostName,
    state: State,
    address: Option<Address>,
    knows_ids: bool,
    anomalies: u8,
}

#[derive(Debug)]
enum State {
    /// It answered the roll call, and does not listen to this subject as far as is known.
    Elsewhere,
    InFlight(Flight),
    Final(HostOutcome),
}

/// How a host can be reached, by its answer to the roll call.
#[derive(Debug)]
enum Address {
    /// By a subject of its own.
    Own(Subject),
    /// Only together with others, or not at all.
    Shared(Option<Subject>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roll {
    /// It is called then: to a group in any case, for a named host if that is still silent.
    CalledAt(Duration),
    Calling,
    Over,
}

impl Broadcast {
    /// A deployment that begins now; `epoch` is the wall-clock time of that.
    pub fn new(rollout: Arc<Rollout>, order: Order, epoch: Timestamp) -> Self {
        let named = match order.subject.target() {
            Ok(Target::Host(_, host)) => Some(host),
            Ok(Target::Role(..) | Target::All(_) | Target::Custom(_)) | Err(_) => None,
        };
        // There is one request for all, so no host is part of what its id follows from.
        let request = rollout.ids.single();
        let mut broadcast = Self {
            request,
            epoch,
            hosts: Vec::new(),
            places: Places::default(),
            timers: BTreeSet::new(),
            roll: Roll::CalledAt(SILENCE),
            has_missed: false,
            down_since: None,
            heard_since: Duration::ZERO,
            interrupt: None,
            effects: VecDeque::new(),
            outcome: None,
            named,
            rollout,
            order,
        };
        broadcast.begin();
        broadcast
    }

    /// A subject of every host that answered the roll call, whether or not the request was for it.
    pub fn subjects_present(&self) -> impl Iterator<Item = &Subject> {
        self.hosts.iter().filter_map(|host| match host.address.as_ref()? {
            Address::Own(subject) => Some(subject),
            Address::Shared(subject) => subject.as_ref(),
        })
    }

    fn begin(&mut self) {
        let now = Duration::ZERO;
        self.report(now, EventKind::Begun(Arc::clone(&self.rollout)));
        self.report(now, EventKind::WaveStarted { wave: WAVE });
        let named = self.named.clone();
        self.report(now, EventKind::Dispatched { host: named.clone(), request: self.request.clone(), attempt: 1 });
        let dispatch = self.dispatch(now, self.order.subject.clone());
        self.effects.push_back(Effect::Send(dispatch));
        if let Some(host) = named {
            let place = self.place(&host);
            self.join(now, place);
        }
    }

    fn dispatch(&self, now: Duration, subject: Subject) -> Dispatch {
        let reply_to = SharedReplies::of(self.rollout.id).to(&self.request);
        let request = Box::new(Request {
            id: Some(self.request.clone()),
            expires_at: Some(self.wall_clock(now + self.order.accept_timeout + CLOCK_DIFFERENCE)),
            operator: Some(self.rollout.operator.clone()),
            ..Request::new(self.order.action, self.rollout.revision.clone(), reply_to)
        });
        Dispatch { subject, request }
    }

    fn call_roll(&mut self) {
        self.roll = Roll::Calling;
        self.effects.push_back(Effect::CallRoll);
    }

    /// Where a host stands; it is heard of from now on.
    fn place(&mut self, name: &HostName) -> usize {
        self.places.place(name).unwrap_or_else(|| {
            let place = self.hosts.len();
            self.places.insert(name.clone(), place);
            self.hosts.push(Host::new(name.clone()));
            place
        })
    }

    #[expect(clippy::indexing_slicing, reason = "places are made from the same list, which only grows")]
    fn host_mut(&mut self, place: usize) -> &mut Host {
        &mut self.hosts[place]
    }

    /// Expects a host to come to an end.
    fn join(&mut self, now: Duration, place: usize) {
        // The request went out at the very beginning, whenever it was that the host became known; what an outage took of
        // its time is given back to it, as it is to the others.
        let flight = Flight::new(self.heard_since, self.patience());
        let due = flight.due();
        let host = self.host_mut(place);
        if matches!(host.state, State::Elsewhere) {
            host.state = State::InFlight(flight);
            let host = host.name.clone();
            self.timers.insert((due, place));
            self.report(now, EventKind::Joined { host });
        }
    }

    fn respond(&mut self, now: Duration, response: Arc<Response>) {
        if let Some(named) = &self.named
            && let Some(anomaly) = impostor(named, &response)
        {
            let place = self.place(&named.clone());
            return self.anomaly(now, place, anomaly);
        }
        if let Roll::CalledAt(at) = &mut self.roll
            && self.named.is_none()
        {
            *at = (now + QUIET).min(PUT_OFF);
        }
        let place = self.place(&response.hostname);
        self.join(now, place);
        let patience = self.patience();
        let host = self.host_mut(place);
        host.knows_ids |= response.id.is_some();
        let flight = match &mut host.state {
            State::InFlight(flight) => flight,
            State::Final(outcome) => {
                if let Some(anomaly) = after_final(*outcome, response.status) {
                    self.anomaly(now, place, anomaly);
                }
                return;
            }
            State::Elsewhere => return,
        };
        let Some(progress) = Progress::of(response.status) else {
            let outcome = HostOutcome::of(response.status).unwrap_or(HostOutcome::Failed);
            let name = host.name.clone();
            let response = keep(response, &name, Some(&self.request));
            return self.settle(now, place, outcome, Some(response));
        };
        let was_due = flight.due();
        let news = flight.heard(host.name.clone(), progress, response.phase, patience);
        let due = flight.due();
        if due != was_due {
            self.timers.remove(&(was_due, place));
            self.timers.insert((due, place));
        }
        if let Some(news) = news {
            self.report(now, news);
        }
    }

    fn anomaly(&mut self, now: Duration, place: usize, anomaly: Anomaly) {
        let host = self.host_mut(place);
        if host.anomalies < MAX_ANOMALIES {
            host.anomalies += 1;
            let host = host.name.clone();
            self.report(now, EventKind::Anomaly { host, anomaly });
        }
    }

    fn settle(&mut self, now: Duration, place: usize, outcome: HostOutcome, response: Option<Arc<Response>>) {
        let host = self.host_mut(place);
        let State::InFlight(flight) = &host.state else {
            return;
        };
        let due = flight.due();
        host.state = State::Final(outcome);
        let host = host.name.clone();
        self.timers.remove(&(due, place));
        self.report(now, EventKind::Final { host, outcome, response });
    }

    fn presence(&mut self, now: Duration, report: HostReport) {
        let place = self.place(&report.hostname);
        if self.named.is_none() && report.deploy_subjects.contains(&self.order.subject) {
            self.join(now, place);
        }
        let host = self.host_mut(place);
        host.knows_ids |= report.knows_ids();
        let was_known = host.address.replace(Address::of(report)).is_some();
        if self.has_missed && !was_known && self.down_since.is_none() {
            self.ask_state(now, place);
        }
    }

    /// A named host that is silent and did not answer the roll call either is not there.
    fn roll_call_over(&mut self, now: Duration) {
        self.roll = Roll::Over;
        for place in self.in_flight() {
            let host = self.host_mut(place);
            if host.address.is_none() && host.is_silent() {
                self.settle(now, place, HostOutcome::Unreachable, None);
            }
        }
    }

    fn reconnected(&mut self, now: Duration) {
        let Some(since) = self.down_since.take() else {
            return;
        };
        self.report(now, EventKind::Connection { state: Connection::Up });
        self.heard_since = now;
        let patience = self.patience();
        self.timers.clear();
        for (place, host) in self.hosts.iter_mut().enumerate() {
            if let State::InFlight(flight) = &mut host.state {
                flight.forgive(now, now.saturating_sub(since), patience);
                self.timers.insert((flight.due(), place));
            }
        }
        self.answers_lost(now);
    }

    /// What was said and not heard has to be said again, by hosts in flight and by those who answered the roll call.
    fn answers_lost(&mut self, now: Duration) {
        self.has_missed = true;
        for place in self.in_flight() {
            self.ask_state(now, place);
        }
        if self.roll == Roll::Calling {
            self.call_roll();
        }
    }

    /// Asks a host in flight how far it is, on its own subject: on that of the group, hosts that were not there at first
    /// would take it for an order.
    fn ask_state(&mut self, now: Duration, place: usize) {
        let named = self.named.is_some().then(|| self.order.subject.clone());
        let host = self.host_mut(place);
        let own = named.or_else(|| host.own_subject());
        if let Some(subject) = own.filter(|_| host.knows_ids && matches!(host.state, State::InFlight(_))) {
            let dispatch = self.dispatch(now, subject);
            self.effects.push_back(Effect::AskState(dispatch));
        }
    }

    fn interrupted(&mut self, now: Duration, how: Interrupt) {
        if self.interrupt >= Some(how) {
            return;
        }
        self.interrupt = Some(how);
        self.report(now, EventKind::Interrupted { how });
        if how == Interrupt::Abort {
            self.finish(now, WaveVerdict::Interrupted, Outcome::Interrupted);
        }
    }

    /// It is over when everybody who is expected is final, and it is known who is expected.
    fn conclude(&mut self, now: Duration) {
        let settled = match self.roll {
            Roll::Over => true,
            Roll::CalledAt(_) | Roll::Calling => self.named.is_some(),
        };
        if self.outcome.is_some() || !settled || !self.timers.is_empty() {
            return;
        }
        let finals = || self.hosts.iter().filter(|host| matches!(host.state, State::Final(_)));
        let done = finals().filter(|host| matches!(host.state, State::Final(HostOutcome::Completed))).count();
        let failures = finals().count() - done;
        if failures > 0 {
            let cause = Cause::TooManyFailures { failures, max_failures: 0 };
            self.finish(now, WaveVerdict::Failed(cause), Outcome::Failed);
        } else if done == 0 {
            let cause = Cause::TooFewCompleted { completed: 0, min_hosts: 1 };
            self.finish(now, WaveVerdict::Failed(cause), Outcome::Failed);
        } else {
            self.finish(now, WaveVerdict::Succeeded, Outcome::Succeeded);
        }
    }

    fn finish(&mut self, now: Duration, verdict: WaveVerdict, outcome: Outcome) {
        self.report(now, EventKind::WaveEnded { wave: WAVE, verdict });
        self.report(now, EventKind::Ended { outcome });
        self.outcome = Some(outcome);
    }

    /// Whether a host that is expected has not said anything yet.
    fn is_silent(&self) -> bool {
        self.hosts.iter().any(Host::is_silent)
    }

    /// When the roll is to be called.
    fn roll_due(&self) -> Option<Duration> {
        match self.roll {
            Roll::CalledAt(at) if self.named.is_none() || self.is_silent() => Some(at),
            Roll::CalledAt(_) | Roll::Calling | Roll::Over => None,
        }
    }

    /// The places of the hosts in flight.
    fn in_flight(&self) -> Vec<usize> {
        let hosts = self.hosts.iter().enumerate();
        hosts.filter(|(_, host)| matches!(host.state, State::InFlight(_))).map(|(place, _)| place).collect()
    }

    fn patience(&self) -> Patience {
        Patience { accept: self.order.accept_timeout, finish: self.order.timeout }
    }

    fn report(&mut self, now: Duration, kind: EventKind) {
        self.effects.push_back(Effect::Report(Event { at: self.wall_clock(now), kind }));
    }

    fn wall_clock(&self, now: Duration) -> Timestamp {
        self.epoch.saturating_add(now).unwrap_or(Timestamp::MAX)
    }
}

impl Host {
    /// A host that is not expected yet.
    fn new(name: HostName) -> Self {
        Self { name, state: State::Elsewhere, address: None, knows_ids: false, anomalies: 0 }
    }

    /// The subject that reaches it alone, where it named that.
    fn own_subject(&self) -> Option<Subject> {
        match &self.address {
            Some(Address::Own(subject)) => Some(subject.clone()),
            Some(Address::Shared(_)) | None => None,
        }
    }

    /// Whether it is expected and has not said anything yet.
    fn is_silent(&self) -> bool {
        matches!(&self.state, State::InFlight(flight) if flight.progress == Progress::Asked)
    }
}

impl Address {
    fn of(report: HostReport) -> Self {
        let own = Target::Host(report.tier, report.hostname).subject();
        if report.deploy_subjects.contains(&own) {
            Self::Own(own)
        } else {
            Self::Shared(report.deploy_subjects.into_iter().next())
        }
    }
}

impl Executor for Broadcast {
    fn handle(&mut self, now: Duration, input: Input) {
        if self.outcome.is_some() {
            return;
        }
        match input {
            Input::Response { request, response } if request == self.request => self.respond(now, response),
            // While the bus is away nothing is published, and nothing that was not heard means anything.
            Input::NoResponders { .. } | Input::RollCallOver | Input::AnswersLost if self.down_since.is_some() => {}
            Input::NoResponders { request } if request == self.request && matches!(self.roll, Roll::CalledAt(_)) => {
                self.call_roll();
            }
            Input::Present(report) => self.presence(now, *report),
            Input::RollCallOver => self.roll_call_over(now),
            Input::AnswersLost => self.answers_lost(now),
            Input::Connection(Connection::Down) if self.down_since.is_none() => {
                self.down_since = Some(now);
                self.report(now, EventKind::Connection { state: Connection::Down });
            }
            Input::Connection(Connection::Up) => self.reconnected(now),
            Input::Interrupt(how) => self.interrupted(now, how),
            Input::Response { .. }
            | Input::NoResponders { .. }
            | Input::Connection(Connection::Down)
            | Input::Answer(_)
            | Input::CheckDone(_) => {}
        }
        self.conclude(now);
    }

    fn handle_deadline(&mut self, now: Duration) {
        if self.outcome.is_some() || self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.down_since.is_some() {
            // The bus was away for as long as a whole deployment may take.
            for place in self.in_flight() {
                self.settle(now, place, HostOutcome::TimedOut, None);
            }
            if self.named.is_none() && self.roll != Roll::Over {
                // Who was to be deployed to will never be known.
                return self.finish(now, WaveVerdict::Failed(Cause::Disconnected), Outcome::Failed);
            }
        } else {
            if self.roll_due().is_some_and(|due| now >= due) {
                self.call_roll();
            }
            while let Some((_, place)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
                self.timers.pop_first();
                if let State::InFlight(flight) = &self.host_mut(place).state {
                    let outcome = flight.expired();
                    self.settle(now, place, outcome, None);
                }
            }
        }
        self.conclude(now);
    }

    fn deadline(&self) -> Option<Duration> {
        if self.outcome.is_some() {
            return None;
        }
        if let Some(since) = self.down_since {
            return Some(since + self.order.timeout);
        }
        self.roll_due().into_iter().chain(self.timers.first().map(|(due, _)| *due)).min()
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}
