//! Observes both sides of a machine, and shares no code with it.

use std::time::Duration;

use super::observed_host::{ObservedHost, ObservedRollback};
use super::rollback::waits_to_be_confirmed;
use super::sim::Entry;
use super::world::World;
use crate::plan::{ResolvedWave, Rollback};
use crate::protocol::{Feature, HostName, RequestId, Revision, Tier};
use crate::rollout::{
    Confirmation, Connection, Dispatch, Effect, Event, EventKind, HostOutcome, Input, Interrupt, Outcome, WaveVerdict,
};

/// The observations of a rollout so far.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "it is a record of what was seen")]
pub(super) struct Ledger<'a> {
    pub(super) waves: Vec<ObservedWave<'a>>,
    pub(super) hosts: Vec<ObservedHost<'a>>,
    pub(super) events: Vec<Event>,
    pub(super) down_since: Option<Duration>,
    /// From when on a report that nobody is subscribed counts: after a reconnect listeners need a while too.
    pub(super) settled_at: Duration,
    /// Whether the connection was ever down or responses were ever lost.
    pub(super) was_disturbed: bool,
    pub(super) interrupt: Option<Interrupt>,
    pub(super) outcome: Option<Outcome>,
    /// The previous effect, if no input came since.
    pub(super) last: Option<Effect>,
    /// The requests whose state must be asked for before anything else happens.
    pub(super) to_be_asked: Vec<RequestId>,
    /// The request of the last dispatch event, until it is sent.
    pub(super) announced: Option<RequestId>,
    /// The revision that every request must carry.
    pub(super) revision: &'a Revision,
    /// The late hosts that were reported, and those that must be.
    pub(super) named: Vec<HostName>,
    pub(super) to_be_named: Vec<HostName>,
    /// When the current process began.
    pub(super) begun_at: Duration,
    /// The hosts that completed, in that order.
    pub(super) completions: Vec<HostName>,
    /// The requests that must be confirmed before anything else happens.
    pub(super) to_be_confirmed: Vec<RequestId>,
    /// When this process last called the roll.
    pub(super) rolled_at: Option<Duration>,
    /// Whether the plan's `is_current` still holds.
    pub(super) knows_current: bool,
    /// Whether the rollout has a staging wave, and whether that still runs.
    pub(super) stages: bool,
    pub(super) is_staging: bool,
}

/// The observations of a wave.
#[derive(Debug)]
pub(super) struct ObservedWave<'a> {
    pub(super) wave: &'a ResolvedWave,
    pub(super) asked_at: Option<Duration>,
    pub(super) answered: Option<(Duration, Confirmation)>,
    pub(super) started_at: Option<Duration>,
    pub(super) is_baking: bool,
    pub(super) runs_check: bool,
    pub(super) check: Option<Result<(), String>>,
    pub(super) verdict: Option<WaveVerdict>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let waves = &world.waves;
        let hosts = waves.iter().enumerate().skip(usize::from(world.stages));
        let hosts = hosts.flat_map(|(number, wave)| wave.hosts.iter().map(move |host| ObservedHost::new(host, number)));
        let hosts = hosts.map(|seen| ObservedHost { wave: if world.stages { 0 } else { seen.wave }, ..seen });
        Self {
            waves: waves.iter().map(ObservedWave::new).collect(),
            hosts: hosts.collect(),
            events: Vec::new(),
            down_since: None,
            settled_at: Duration::ZERO,
            was_disturbed: false,
            interrupt: None,
            outcome: None,
            last: None,
            to_be_asked: Vec::new(),
            announced: None,
            revision: &world.revision,
            named: Vec::new(),
            to_be_named: Vec::new(),
            begun_at: Duration::ZERO,
            completions: Vec::new(),
            to_be_confirmed: Vec::new(),
            rolled_at: None,
            knows_current: true,
            stages: world.stages,
            is_staging: world.stages,
        }
    }

    pub(super) fn hosts_of(&self, wave: usize) -> impl Iterator<Item = &ObservedHost<'a>> {
        self.hosts.iter().filter(move |seen| seen.wave == wave)
    }

    pub(super) fn host(&self, name: &HostName) -> &ObservedHost<'a> {
        self.hosts.iter().find(|seen| seen.host.hostname == *name).expect("events are about hosts of the plan")
    }

    /// Returns the host that a request goes to.
    pub(super) fn addressee(&self, dispatch: &Dispatch) -> Option<&ObservedHost<'a>> {
        self.hosts.iter().find(|seen| seen.host.subject() == dispatch.subject)
    }

    /// Counts the hosts of a wave that count against its budget.
    pub(super) fn charged(&self, wave: usize) -> usize {
        let is_charged = |seen: &&ObservedHost| match seen.outcome {
            None | Some((_, HostOutcome::Completed | HostOutcome::Current | HostOutcome::Skipped(_))) => false,
            // A host that rejected or failed a request did respond.
            Some((_, HostOutcome::Unreachable)) => {
                !self.waves[seen.own_wave].wave.limits.ignore_unreachable || !seen.ended.is_empty()
            }
            Some((_, HostOutcome::Failed | HostOutcome::Rejected | HostOutcome::TimedOut)) => true,
        };
        self.hosts_of(wave).filter(is_charged).count()
    }

    pub(super) fn note(&mut self, at: Duration, entry: &Entry) {
        match entry {
            Entry::Told(input) => {
                self.told(at, input);
                self.last = None;
            }
            Entry::Woken => self.last = None,
            Entry::Restarted => self.restarted(at),
            Entry::Did(effect) => {
                self.did(at, effect);
                self.last = Some(effect.clone());
            }
        }
    }

    fn told(&mut self, at: Duration, input: &Input) {
        match input {
            Input::Response { from, request, response } => {
                if let Some(seen) = self.hosts.iter_mut().find(|seen| seen.ever_sent(request)) {
                    let runs_it = seen.answered(at, from, request, response) && self.down_since.is_none();
                    if runs_it && waits_to_be_confirmed(response) {
                        self.to_be_confirmed.push(request.clone());
                    }
                }
                if let Some(seen) = self.hosts.iter_mut().find(|seen| seen.rolls_back_by(request)) {
                    seen.answered_rollback(from, request, response);
                }
            }
            Input::OldResponse(_) => {}
            Input::NoResponders { request } => {
                let is_believed = self.down_since.is_none() && self.settled_at <= at;
                if let Some(seen) = self.hosts.iter_mut().find(|seen| seen.is_open() && seen.last_sent(request)) {
                    seen.nobody |= is_believed && seen.said.is_empty();
                }
            }
            Input::ResponsesLost => {
                self.was_disturbed = true;
                self.all_have_to_be_asked();
            }
            Input::Connection(Connection::Down) => {
                self.was_disturbed = true;
                self.down_since.get_or_insert(at);
            }
            Input::Connection(Connection::Up) => {
                if let Some(since) = self.down_since.take() {
                    self.came_back(since, at);
                    self.all_have_to_be_asked();
                }
            }
            Input::Confirmation(answer) => {
                let asked = self.waves.iter_mut().rfind(|progress| progress.asked_at.is_some());
                if let Some(progress) = asked {
                    progress.answered = Some((at, *answer));
                }
            }
            Input::CheckDone(result) => {
                let checking = self.waves.iter_mut().rfind(|progress| progress.runs_check);
                if let Some(progress) = checking {
                    progress.check = Some(result.clone());
                }
            }
            Input::Interrupt(how) => self.interrupt = self.interrupt.max(Some(*how)),
            Input::Discovered(report) => {
                let host = &report.hostname;
                if let Some(seen) = self.hosts.iter_mut().find(|seen| seen.host.hostname == *host) {
                    seen.supports_rollback |= report.has(&Feature::Rollback);
                    seen.supports_system |= report.has(&Feature::System);
                }
                let of_plan = self.hosts.iter().any(|seen| seen.host.hostname == *host);
                let belongs = self.has_groups() && report.tier == Tier::Prod;
                if !of_plan && belongs && !self.named.contains(host) {
                    self.to_be_named.push(host.clone());
                }
            }
        }
    }

    /// Whether a wave targets all prod hosts; the tests have no other group.
    pub(super) fn has_groups(&self) -> bool {
        self.waves.iter().any(|progress| !progress.wave.groups.is_empty())
    }

    /// Notes a reconnect: hosts are not charged for the time of the outage.
    fn came_back(&mut self, since: Duration, at: Duration) {
        self.settled_at = at + self.accept_timeout();
        for seen in self.hosts.iter_mut().filter(|seen| seen.is_open()) {
            seen.unheard_for += at.saturating_sub(since);
            seen.heard_since = at;
            seen.asked_again.clear();
        }
        for seen in self.hosts.iter_mut().filter(|seen| seen.is_rolling_back()) {
            seen.rollback = seen.rollback.take().map(|rollback| ObservedRollback {
                unheard_for: rollback.unheard_for + at.saturating_sub(since),
                heard_since: at,
                ..rollback
            });
        }
    }

    /// Notes that responses may have been lost: every host in flight that supports ids must be asked for its state.
    fn all_have_to_be_asked(&mut self) {
        if self.down_since.is_none() {
            let understanding = self.hosts.iter().filter(|seen| seen.is_open() && seen.supports_ids);
            self.to_be_asked = understanding.filter_map(|seen| seen.sent.last()).map(|(_, id)| id.clone()).collect();
            self.to_be_asked.extend(self.rollback_requests());
        }
    }

    /// Returns the rollback requests whose hosts have not finished.
    fn rollback_requests(&self) -> Vec<RequestId> {
        let returning = self.hosts.iter().filter(|seen| seen.is_rolling_back());
        returning.filter_map(|seen| seen.rollback.as_ref()).map(|rollback| rollback.request.clone()).collect()
    }

    /// Returns the failed waves whose rollback is not finished.
    fn rolling_back(&self) -> Vec<usize> {
        let has_failed = |number: &usize| matches!(self.waves[*number].verdict, Some(WaveVerdict::Failed(_)));
        let rolls_back = |number: &usize| self.waves[*number].wave.limits.rollback == Rollback::Wave;
        let is_left = |seen: &ObservedHost| {
            seen.is_completed() && seen.rollback.as_ref().is_none_or(|rollback| rollback.outcome.is_none())
        };
        let waves = (0..self.waves.len()).filter(has_failed).filter(rolls_back);
        waves.filter(|number| self.hosts_of(*number).any(is_left)).collect()
    }

    /// Notes a restart: the new process has only the journal. Hosts that neither completed nor are in flight begin anew
    /// in the waves that have not succeeded; hosts in flight must be asked, with timeouts from now on.
    fn restarted(&mut self, at: Duration) {
        self.events.retain(|event| event.kind.is_fact());
        self.begun_at = at;
        self.to_be_named.clear();
        (self.down_since, self.interrupt, self.outcome, self.last) = (None, None, None, None);
        self.to_be_confirmed.clear();
        self.rolled_at = None;
        self.knows_current &= self.events.len() == 1;
        let rolling_back = self.rolling_back();
        let waves = self.waves.iter_mut().enumerate().filter(|(number, _)| !rolling_back.contains(number));
        for (_, progress) in waves.filter(|(_, progress)| progress.verdict != Some(WaveVerdict::Succeeded)) {
            *progress = ObservedWave {
                started_at: progress.started_at,
                answered: progress.answered.filter(|_| progress.started_at.is_some()),
                ..ObservedWave::new(progress.wave)
            };
        }
        let announced = self.announced.take();
        for seen in &mut self.hosts {
            if announced.is_some() && seen.may_run == announced {
                seen.was_sent(at, seen.may_run.clone().expect("it was compared"));
            }
            if rolling_back.contains(&seen.wave) {
                seen.was_found_rolling_back(at);
                continue;
            }
            if seen.rollback.is_some() {
                // The host has rolled rollback from its request, or may have.
                seen.ended.extend(seen.may_run.take());
            }
            let succeeded = self.waves[seen.wave].verdict == Some(WaveVerdict::Succeeded);
            let is_current = matches!(seen.outcome, Some((_, HostOutcome::Current)));
            let completed = is_current || (seen.is_completed() && seen.rollback.is_none());
            if seen.is_in_flight() && seen.may_run.is_some() {
                seen.was_found_in_flight(at);
            } else if !succeeded && !completed {
                let (may_run, ended) = (seen.may_run.take(), std::mem::take(&mut seen.ended));
                let (wave, fetched, asked) = (seen.wave, seen.fetched, std::mem::take(&mut seen.fetches));
                *seen = ObservedHost {
                    wave,
                    fetched,
                    fetches: asked,
                    may_run,
                    ended,
                    ..ObservedHost::new(seen.host, seen.own_wave)
                };
            } else if self.is_staging {
                // The host will be sent a new request by a process that has not heard it.
                seen.supports_ids = seen.host.supports_ids;
                seen.supports_rollback = seen.host.supports_rollback;
                seen.supports_system = seen.host.supports_system;
            }
        }
        let in_flight = self.hosts.iter().filter(|seen| seen.is_open());
        self.to_be_asked = in_flight.filter_map(|seen| seen.may_run.clone()).collect();
        self.to_be_asked.extend(self.rollback_requests());
        let hosts = &self.hosts;
        self.completions.retain(|name| hosts.iter().any(|seen| seen.host.hostname == *name && seen.is_completed()));
        self.settled_at = if self.to_be_asked.is_empty() { at } else { at + self.accept_timeout() };
    }

    /// Returns the accept timeout of the current wave.
    fn accept_timeout(&self) -> Duration {
        let under_way = self.waves.iter().find(|progress| progress.verdict.is_none());
        under_way.map_or(Duration::ZERO, |progress| progress.wave.limits.accept_timeout)
    }

    fn did(&mut self, at: Duration, effect: &Effect) {
        match effect {
            Effect::Send(dispatch) => {
                self.announced = None;
                let index = self.hosts.iter().position(|seen| seen.host.subject() == dispatch.subject);
                if let (Some(index), Some(id)) = (index, &dispatch.request.id) {
                    match &mut self.hosts[index].rollback {
                        Some(rollback) if dispatch.request.returns.is_some() => {
                            rollback.was_sent_by_this_process = true;
                        }
                        _ => self.hosts[index].was_sent(at, id.clone()),
                    }
                }
            }
            Effect::Ask(wave) => self.waves[wave.0].asked_at = Some(at),
            Effect::RunCheck(wave) => self.waves[wave.0].runs_check = true,
            Effect::Confirm(dispatch) => {
                self.to_be_confirmed.retain(|id| dispatch.request.id.as_ref() != Some(id));
            }
            Effect::AskState(dispatch) => {
                self.to_be_asked.retain(|id| dispatch.request.id.as_ref() != Some(id));
                let seen = self.hosts.iter_mut().find(|seen| seen.host.subject() == dispatch.subject);
                if let Some(seen) = seen.filter(|_| dispatch.request.returns.is_none()) {
                    seen.asked_again.push(at);
                }
            }
            Effect::CallRoll => self.rolled_at = Some(at),
            Effect::Report(event) => {
                self.reported(at, &event.kind);
                self.events.push(event.clone());
            }
        }
    }

    fn reported(&mut self, at: Duration, event: &EventKind) {
        match event {
            EventKind::WaveStarted { wave } => self.waves[wave.0].started_at = Some(at),
            EventKind::Baking { wave, .. } => self.waves[wave.0].is_baking = true,
            EventKind::WaveEnded { wave, verdict } => self.waves[wave.0].verdict = Some(verdict.clone()),
            EventKind::Dispatched { host, request, .. } => {
                self.announced = Some(request.clone());
                self.host_mut(host).may_run = Some(request.clone());
            }
            EventKind::Retrying { host, outcome, .. } => {
                let seen = self.host_mut(host);
                seen.waiting_since = Some(at);
                seen.note_outcome(*outcome);
            }
            EventKind::RollingBack { host, request } => {
                self.announced = Some(request.clone());
                self.host_mut(host).rollback = Some(ObservedRollback::new(at, request.clone()));
            }
            EventKind::RollbackEnded { host, outcome, .. } => {
                self.host_mut(host).rollback.iter_mut().for_each(|rollback| rollback.outcome = Some(*outcome));
            }
            EventKind::Final { host, outcome, .. } => {
                if *outcome == HostOutcome::Completed {
                    self.completions.push(host.clone());
                }
                let seen = self.host_mut(host);
                seen.outcome = Some((at, *outcome));
                seen.note_outcome(*outcome);
            }
            EventKind::Staged => {
                self.is_staging = false;
                self.completions.clear();
                self.hosts.iter_mut().for_each(ObservedHost::has_fetched);
            }
            EventKind::Ended { outcome } => self.outcome = Some(*outcome),
            EventKind::AnsweredLate { host, .. } => {
                self.to_be_named.retain(|named| named != host);
                self.named.push(host.clone());
            }
            EventKind::Begun(_)
            | EventKind::Resumed
            | EventKind::AwaitingConfirmation { .. }
            | EventKind::Accepted { .. }
            | EventKind::Started { .. }
            | EventKind::Draining { .. }
            | EventKind::Checking { .. }
            | EventKind::Interrupted { .. }
            | EventKind::Connection { .. }
            | EventKind::Resolved { .. }
            | EventKind::UnexpectedResponse { .. }
            | EventKind::HookFailed { .. } => {}
        }
    }

    fn host_mut(&mut self, name: &HostName) -> &mut ObservedHost<'a> {
        self.hosts.iter_mut().find(|seen| seen.host.hostname == *name).expect("events are about hosts of the plan")
    }
}

impl<'a> ObservedWave<'a> {
    fn new(wave: &'a ResolvedWave) -> Self {
        Self {
            wave,
            asked_at: None,
            answered: None,
            started_at: None,
            is_baking: false,
            runs_check: false,
            check: None,
            verdict: None,
        }
    }
}
