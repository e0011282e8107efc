//! What a rollout has come to, as a fold of its events.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{Anomaly, Event, EventKind, HostOutcome, Interrupt, Outcome, Rollout, WaveIndex, WaveVerdict};
use crate::places::Places;
use crate::plan::Rollback;
use crate::protocol::{Commit, HostName, Phase, RequestId, Response};

/// The state of a rollout after the events that it was shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What the rollout is about; none before it has begun.
    pub rollout: Option<Arc<Rollout>>,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Every wave, in order.
    pub waves: Vec<WaveView>,
    /// Every host, in the order of the waves and of dispatch.
    pub hosts: Vec<HostView>,
    /// The hosts of the plan's groups that turned up too late to be deployed, and the waves that they would have been in.
    pub turned_up: BTreeMap<HostName, WaveIndex>,
    /// What should not be and changed nothing.
    pub anomalies: Vec<(HostName, Anomaly)>,
    /// How urgently the operator wanted to stop.
    pub interrupt: Option<Interrupt>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    places: Places<HostName>,
    completed: Vec<usize>,
}

/// The state of a wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveView {
    /// What it is at.
    pub state: WaveState,
    /// When its first request could be sent.
    pub began_at: Option<Timestamp>,
    /// When its verdict fell.
    pub ended_at: Option<Timestamp>,
}

/// What a wave is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaveState {
    /// Not begun.
    Pending,
    /// The operator is asked whether it may begin.
    AwaitingConfirmation,
    /// Requests are sent.
    Running,
    /// No more requests are sent, hosts in flight are awaited.
    Draining,
    /// Its hosts are done, and it is left running for a while.
    Baking,
    /// Its check runs.
    Checking,
    /// It is over.
    Ended(WaveVerdict),
}

/// The state of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    /// The host.
    pub name: HostName,
    /// Its wave.
    pub wave: WaveIndex,
    /// Which of the hosts of that wave it is.
    pub index: usize,
    /// What it is at.
    pub state: HostState,
    /// The request that it was sent last.
    pub request: Option<RequestId>,
    /// How many requests it was sent since it was last pending.
    pub attempts: u32,
    /// How many of its ids have come to an end that the host would only repeat: what is done anew needs another one.
    pub spent_ids: u32,
    /// When it was sent the first.
    pub sent_at: Option<Timestamp>,
    /// When it became final.
    pub ended_at: Option<Timestamp>,
    /// Its own last word, where there was one.
    pub response: Option<Arc<Response>>,
    /// How it went back to what it ran before, when it was asked to because its wave had failed.
    pub returning: Option<Box<ReturnView>>,
}

/// The return of a host to what it ran before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnView {
    /// The request that it was sent for that.
    pub request: RequestId,
    /// What came of it, once it has: it completed when it returned.
    pub outcome: Option<HostOutcome>,
    /// The host's own last word about it, where there was one.
    pub response: Option<Arc<Response>>,
}

/// What a host is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// It was not asked.
    Pending,
    /// It was asked and has not answered.
    Dispatched,
    /// It has taken the request.
    Accepted,
    /// It is at it.
    Started(Option<Phase>),
    /// It was asked in vain, with this result, and will be asked again.
    Waiting(HostOutcome),
    /// It is final.
    Final(HostOutcome),
}

/// How many hosts there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not asked yet.
    pub pending: usize,
    /// Asked and not final.
    pub in_flight: usize,
    /// Final and as they should be.
    pub completed: usize,
    /// Completed, and returned from that to what they ran before.
    pub returned: usize,
    /// Tried and failed.
    pub failed: usize,
    /// Refused.
    pub rejected: usize,
    /// Never answered.
    pub unreachable: usize,
    /// Answered and did not come to an end in time.
    pub timed_out: usize,
    /// Will not be asked.
    pub skipped: usize,
}

impl Summary {
    /// The summary of these events.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut summary = Self::default();
        events.into_iter().for_each(|event| summary.apply(event));
        summary
    }

    /// Takes one more event into account.
    pub fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Begun(rollout) => self.begin(event.at, rollout),
            EventKind::Resumed => self.resume(),
            EventKind::AwaitingConfirmation { wave } => self.wave_is(*wave, WaveState::AwaitingConfirmation),
            EventKind::WaveStarted { wave } => {
                self.wave_is(*wave, WaveState::Running);
                if let Some(view) = self.wave_mut(*wave) {
                    view.began_at = Some(event.at);
                }
            }
            EventKind::Dispatched { host, request, attempt } => {
                if let Some(view) = self.host_mut(host) {
                    view.state = HostState::Dispatched;
                    view.request = Some(request.clone());
                    view.attempts = *attempt;
                    view.sent_at.get_or_insert(event.at);
                }
            }
            EventKind::Accepted { host } => self.host_is(host, HostState::Accepted),
            EventKind::Started { host, phase } => self.host_is(host, HostState::Started(*phase)),
            EventKind::Retrying { host, outcome, .. } => {
                if let Some(view) = self.host_mut(host) {
                    view.state = HostState::Waiting(*outcome);
                    view.spend_id(*outcome);
                }
            }
            EventKind::Final { host, outcome, response } => {
                if let Some(view) = self.host_mut(host) {
                    view.state = HostState::Final(*outcome);
                    view.ended_at = Some(event.at);
                    view.response.clone_from(response);
                    view.spend_id(*outcome);
                }
                if *outcome == HostOutcome::Completed {
                    self.completed.extend(self.place(host));
                }
            }
            EventKind::Returning { host, request } => {
                if let Some(view) = self.host_mut(host) {
                    let back = ReturnView { request: request.clone(), outcome: None, response: None };
                    view.returning = Some(Box::new(back));
                    // It would say that it has completed what it goes back from.
                    view.spent_ids += 1;
                }
            }
            EventKind::Returned { host, outcome, response } => {
                if let Some(view) = self.host_mut(host).and_then(|view| view.returning.as_mut()) {
                    view.outcome = Some(*outcome);
                    view.response.clone_from(response);
                }
            }
            EventKind::Draining { wave, .. } => self.wave_is(*wave, WaveState::Draining),
            EventKind::Baking { wave, .. } => self.wave_is(*wave, WaveState::Baking),
            EventKind::Checking { wave } => self.wave_is(*wave, WaveState::Checking),
            EventKind::WaveEnded { wave, verdict } => {
                self.wave_is(*wave, WaveState::Ended(verdict.clone()));
                if let Some(view) = self.wave_mut(*wave) {
                    view.ended_at = Some(event.at);
                }
            }
            EventKind::Interrupted { how } => self.interrupt = self.interrupt.max(Some(*how)),
            EventKind::Connection { .. } => {}
            EventKind::Resolved { revision, .. } => {
                if let Some(rollout) = &mut self.rollout {
                    Arc::make_mut(rollout).revision = revision.clone().into();
                }
            }
            EventKind::TurnedUp { host, wave } => _ = self.turned_up.insert(host.clone(), *wave),
            EventKind::Anomaly { host, anomaly } => {
                self.anomalies.push((host.clone(), anomaly.clone()));
                if *anomaly == Anomaly::TwoMachines {
                    self.take_back(host);
                }
            }
            EventKind::Ended { outcome } => {
                self.outcome = Some(*outcome);
                self.ended_at = Some(event.at);
            }
        }
    }

    /// The view of one host.
    pub fn host(&self, name: &HostName) -> Option<&HostView> {
        self.place(name).and_then(|place| self.hosts.get(place))
    }

    /// The place of one host among the hosts.
    pub fn place(&self, name: &HostName) -> Option<usize> {
        self.places.place(name)
    }

    /// The hosts of one wave, in the order of dispatch.
    pub fn hosts_of(&self, wave: WaveIndex) -> impl Iterator<Item = &HostView> {
        self.hosts.iter().filter(move |host| host.wave == wave)
    }

    /// The places among the hosts of those that completed, in the order in which they did.
    pub(super) fn completed(&self) -> &[usize] {
        &self.completed
    }

    /// The wave that failed and whose hosts were to return, while not all of them have come to the end of that.
    pub fn failed_and_returns(&self) -> Option<WaveIndex> {
        let waves = &self.rollout.as_ref()?.plan.waves;
        let is_it = |index: &usize| {
            let failed = matches!(
                self.waves.get(*index),
                Some(WaveView { state: WaveState::Ended(WaveVerdict::Failed(_)), .. })
            );
            failed && self.hosts_of(WaveIndex(*index)).any(HostView::is_to_return)
        };
        let returning = waves.iter().enumerate().filter(|(_, wave)| wave.limits.rollback == Rollback::Wave);
        returning.map(|(index, _)| index).find(is_it).map(WaveIndex)
    }

    /// How many hosts of the whole rollout are of each kind.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.hosts)
    }

    fn begin(&mut self, at: Timestamp, rollout: &Arc<Rollout>) {
        self.began_at = Some(at);
        self.hosts.reserve_exact(rollout.plan.hosts().count());
        for (index, wave) in rollout.plan.waves.iter().enumerate() {
            self.waves.push(WaveView { state: WaveState::Pending, began_at: None, ended_at: None });
            for (place, host) in wave.hosts.iter().enumerate() {
                self.add(host.hostname.clone(), WaveIndex(index), place);
            }
        }
        self.rollout = Some(Arc::clone(rollout));
    }

    fn add(&mut self, name: HostName, wave: WaveIndex, index: usize) {
        self.places.insert(name.clone(), self.hosts.len());
        self.hosts.push(HostView {
            name,
            wave,
            index,
            state: HostState::Pending,
            request: None,
            attempts: 0,
            spent_ids: 0,
            sent_at: None,
            ended_at: None,
            response: None,
            returning: None,
        });
    }

    /// What is not completed and not in flight is to be done anew, in the waves that are not behind: a wave that
    /// succeeded in spite of a host that failed has had its barrier, and hosts of later waves may have been asked since.
    /// A wave that failed and whose hosts were on their way back is behind once they all are; only who then resumes the
    /// rollout once more has it done anew.
    fn resume(&mut self) {
        self.outcome = None;
        self.ended_at = None;
        self.interrupt = None;
        let returns = self.failed_and_returns();
        let is_behind = |index: WaveIndex, wave: &WaveView| wave.succeeded() || returns == Some(index);
        for (index, wave) in self.waves.iter_mut().enumerate() {
            if !is_behind(WaveIndex(index), wave) {
                wave.state = WaveState::Pending;
                wave.ended_at = None;
            }
        }
        for host in &mut self.hosts {
            let is_behind = self.waves.get(host.wave.0).is_some_and(|wave| is_behind(host.wave, wave));
            if host.state.is_in_flight() {
                host.state = HostState::Dispatched;
            } else if !is_behind && !host.runs_what_was_asked() {
                host.state = HostState::Pending;
                host.attempts = 0;
                host.sent_at = None;
                host.ended_at = None;
                host.response = None;
                host.returning = None;
            }
        }
        let hosts = &self.hosts;
        self.completed.retain(|place| hosts.get(*place).is_some_and(|host| host.state != HostState::Pending));
    }

    /// A host that had completed turned out to be two machines.
    fn take_back(&mut self, name: &HostName) {
        let Some(place) = self.place(name) else { return };
        if let Some(view) = self.hosts.get_mut(place)
            && view.state == HostState::Final(HostOutcome::Completed)
        {
            view.state = HostState::Final(HostOutcome::Failed);
            view.spend_id(HostOutcome::Failed);
            self.completed.retain(|completed| *completed != place);
        }
    }

    fn host_mut(&mut self, name: &HostName) -> Option<&mut HostView> {
        self.place(name).and_then(|place| self.hosts.get_mut(place))
    }

    fn host_is(&mut self, name: &HostName, state: HostState) {
        if let Some(view) = self.host_mut(name) {
            view.state = state;
        }
    }

    fn wave_mut(&mut self, wave: WaveIndex) -> Option<&mut WaveView> {
        self.waves.get_mut(wave.0)
    }

    fn wave_is(&mut self, wave: WaveIndex, state: WaveState) {
        if let Some(view) = self.wave_mut(wave) {
            view.state = state;
        }
    }
}

impl WaveView {
    /// Whether it is over and its hosts are as they should be.
    pub fn succeeded(&self) -> bool {
        self.state == WaveState::Ended(WaveVerdict::Succeeded)
    }
}

impl HostView {
    /// A host that rejected or failed a request will say so again. One that was given up may still complete it.
    fn spend_id(&mut self, outcome: HostOutcome) {
        self.spent_ids += u32::from(matches!(outcome, HostOutcome::Rejected | HostOutcome::Failed));
    }

    /// What it ran before the request, by its own last word or by the roll call.
    pub fn ran_before<'a>(&'a self, rollout: &'a Rollout) -> Option<&'a Commit> {
        let said = self.response.as_deref().and_then(|response| response.previous_revision.as_ref());
        said.or_else(|| rollout.plan.waves.get(self.wave.0)?.hosts.get(self.index)?.revision.as_ref())
    }

    /// Whether it completed and was not asked to go back from that. One that was asked and could not may run anything.
    fn runs_what_was_asked(&self) -> bool {
        self.state == HostState::Final(HostOutcome::Completed) && self.returning.is_none()
    }

    /// Whether it completed, and has not come to an end of returning from that.
    fn is_to_return(&self) -> bool {
        self.runs_what_was_asked() || self.is_returning()
    }

    /// Whether it was asked to return and has not come to an end of that.
    pub fn is_returning(&self) -> bool {
        self.returning.as_ref().is_some_and(|back| back.outcome.is_none())
    }

    /// Whether it was asked to return and did.
    pub fn has_returned(&self) -> bool {
        self.returning.as_ref().is_some_and(|back| back.outcome == Some(HostOutcome::Completed))
    }
}

impl HostState {
    /// Whether the host was asked and may be at it. One that was silent and will be asked again may have heard it.
    pub const fn is_in_flight(self) -> bool {
        matches!(self, Self::Dispatched | Self::Accepted | Self::Started(_) | Self::Waiting(HostOutcome::Unreachable))
    }
}

impl Counts {
    /// How many of these hosts are of each kind.
    pub fn of<'a>(hosts: impl IntoIterator<Item = &'a HostView>) -> Self {
        let mut counts = Self::default();
        for host in hosts {
            *match host.state {
                HostState::Pending => &mut counts.pending,
                HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => {
                    &mut counts.in_flight
                }
                HostState::Final(HostOutcome::Completed) if host.has_returned() => &mut counts.returned,
                HostState::Final(HostOutcome::Completed) => &mut counts.completed,
                HostState::Final(HostOutcome::Failed) => &mut counts.failed,
                HostState::Final(HostOutcome::Rejected) => &mut counts.rejected,
                HostState::Final(HostOutcome::Unreachable) => &mut counts.unreachable,
                HostState::Final(HostOutcome::TimedOut) => &mut counts.timed_out,
                HostState::Final(HostOutcome::Skipped(_)) => &mut counts.skipped,
            } += 1;
        }
        counts
    }

    /// All hosts.
    pub const fn total(&self) -> usize {
        self.pending
            + self.in_flight
            + self.completed
            + self.returned
            + self.failed
            + self.rejected
            + self.unreachable
            + self.timed_out
            + self.skipped
    }
}
