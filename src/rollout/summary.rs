//! The state of a rollout, as a fold of its events.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

pub use self::view::{Counts, HostProgress, HostRollback, HostState, WaveProgress, WaveState};
use super::description::Rollout;
use super::event::{Event, EventKind, HostOutcome, Interrupt, Outcome, UnexpectedResponse, WaveIndex, WaveVerdict};
use crate::plan::Rollback;
use crate::protocol::HostName;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// `None` before the rollout has begun.
    pub rollout: Option<Arc<Rollout>>,
    pub began_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub waves: Vec<WaveProgress>,
    /// All hosts, in the order of waves and dispatch.
    pub hosts: Vec<HostProgress>,
    /// Hosts of the plan's groups that answered too late to be deployed, and the waves that they would have been in.
    pub late_hosts: BTreeMap<HostName, WaveIndex>,
    pub unexpected_responses: Vec<(HostName, UnexpectedResponse)>,
    pub interrupt: Option<Interrupt>,
    pub outcome: Option<Outcome>,
    pub(super) was_resumed: bool,
    /// Whether the staging wave, in which all hosts fetch, is not over.
    pub(super) is_staging: bool,
    places: FxHashMap<HostName, usize>,
    completed: Vec<usize>,
    /// The first wave that has not succeeded.
    current: usize,
}

impl Summary {
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut summary = Self::default();
        events.into_iter().for_each(|event| summary.apply(event));
        summary
    }

    pub fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Begun(rollout) => self.begin(event.at, rollout),
            EventKind::Resumed => self.resume(),
            EventKind::AwaitingConfirmation { wave } => self.wave_is(*wave, WaveState::AwaitingConfirmation),
            EventKind::WaveStarted { wave } => {
                self.wave_is(*wave, WaveState::Running);
                if let Some(view) = self.waves.get_mut(wave.0) {
                    view.began_at = Some(event.at);
                }
            }
            EventKind::Dispatched { host, request, attempt } => self.change(host, |view| {
                view.state = HostState::Dispatched;
                view.request = Some(request.clone());
                view.attempts = *attempt;
                view.sent_at.get_or_insert(event.at);
            }),
            EventKind::Accepted { host } => self.change(host, |view| view.state = HostState::Accepted),
            EventKind::Started { host, phase } => self.change(host, |view| view.state = HostState::Started(*phase)),
            EventKind::Retrying { host, outcome, .. } => self.change(host, |view| {
                view.state = HostState::Waiting(*outcome);
                view.spend_id(*outcome);
            }),
            EventKind::Final { host, outcome, response } => {
                self.change(host, |view| {
                    view.state = HostState::Final(*outcome);
                    view.ended_at = Some(event.at);
                    view.response.clone_from(response);
                    view.spend_id(*outcome);
                });
                if *outcome == HostOutcome::Completed {
                    self.completed.extend(self.place(host));
                }
            }
            EventKind::RollingBack { host, request } => self.change(host, |view| {
                let back = HostRollback { request: request.clone(), outcome: None, response: None };
                view.rollback = Some(Box::new(back));
                // Under the old id the host would repeat that it completed.
                view.used_ids += 1;
            }),
            EventKind::RollbackEnded { host, outcome, response } => self.change(host, |view| {
                if let Some(back) = &mut view.rollback {
                    back.outcome = Some(*outcome);
                    back.response.clone_from(response);
                }
            }),
            EventKind::Draining { wave, .. } => self.wave_is(*wave, WaveState::Draining),
            EventKind::Baking { wave, .. } => self.wave_is(*wave, WaveState::Baking),
            EventKind::Checking { wave } => self.wave_is(*wave, WaveState::Checking),
            EventKind::WaveEnded { wave, verdict } => {
                self.wave_is(*wave, WaveState::Ended(verdict.clone()));
                if let Some(view) = self.waves.get_mut(wave.0) {
                    view.ended_at = Some(event.at);
                }
                if *verdict == WaveVerdict::Succeeded {
                    self.current = wave.0 + 1;
                }
            }
            EventKind::Staged => self.leave_stage(),
            EventKind::Interrupted { how } => self.interrupt = self.interrupt.max(Some(*how)),
            EventKind::Connection { .. } | EventKind::HookFailed { .. } => {}
            EventKind::Resolved { revision, .. } => {
                if let Some(rollout) = &mut self.rollout {
                    Arc::make_mut(rollout).revision = revision.clone().into();
                }
            }
            EventKind::AnsweredLate { host, wave } => _ = self.late_hosts.insert(host.clone(), *wave),
            EventKind::UnexpectedResponse { host, anomaly } => {
                self.unexpected_responses.push((host.clone(), anomaly.clone()));
                if *anomaly == UnexpectedResponse::TwoMachines {
                    self.take_back(host);
                }
            }
            EventKind::Ended { outcome } => {
                self.outcome = Some(*outcome);
                self.ended_at = Some(event.at);
            }
        }
    }

    pub fn host(&self, name: &HostName) -> Option<&HostProgress> {
        self.place(name).and_then(|place| self.hosts.get(place))
    }

    pub fn place(&self, name: &HostName) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Returns the hosts of one wave, in the order of dispatch.
    pub fn hosts_of(&self, wave: WaveIndex) -> impl Iterator<Item = &HostProgress> {
        self.hosts.iter().filter(move |host| host.wave == wave)
    }

    /// Returns the first wave that has not succeeded, or the number of waves.
    pub const fn current(&self) -> usize {
        self.current
    }

    /// Returns the indices of the completed hosts, in the order in which they completed.
    pub(super) fn completed(&self) -> &[usize] {
        &self.completed
    }

    /// Returns the failed wave whose rollback is not finished, if any.
    pub fn unfinished_rollback(&self) -> Option<WaveIndex> {
        let waves = &self.rollout.as_ref()?.plan.waves;
        let is_it = |index: &usize| {
            let failed = matches!(
                self.waves.get(*index),
                Some(WaveProgress { state: WaveState::Ended(WaveVerdict::Failed(_)), .. })
            );
            failed && self.hosts_of(WaveIndex(*index)).any(HostProgress::is_to_return)
        };
        let returning = waves.iter().enumerate().filter(|(_, wave)| wave.limits.rollback == Rollback::Wave);
        returning.map(|(index, _)| index).find(is_it).map(WaveIndex)
    }

    /// Counts the hosts of the whole rollout by state.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.hosts)
    }

    fn begin(&mut self, at: Timestamp, rollout: &Arc<Rollout>) {
        self.began_at = Some(at);
        self.hosts.reserve_exact(rollout.plan.hosts().count());
        self.is_staging = rollout.plan.stage;
        for (wave, resolved) in rollout.plan.waves.iter().enumerate() {
            self.waves.push(WaveProgress::PENDING);
            // The staging wave has the hosts of all others.
            let are_known = self.is_staging && wave > 0;
            for (index, host) in resolved.hosts.iter().enumerate().filter(|_| !are_known) {
                self.places.insert(host.hostname.clone(), self.hosts.len());
                self.hosts.push(HostProgress::new(host.hostname.clone(), WaveIndex(wave), index));
            }
        }
        self.rollout = Some(Arc::clone(rollout));
    }

    /// Ends staging: each host becomes pending in its own wave.
    fn leave_stage(&mut self) {
        self.is_staging = false;
        let Some(rollout) = self.rollout.clone() else { return };
        let places = rollout
            .plan
            .deploying_waves()
            .flat_map(|(wave, resolved)| (0..resolved.hosts.len()).map(move |index| (WaveIndex(wave), index)));
        for (host, (wave, index)) in self.hosts.iter_mut().zip(places) {
            *host = HostProgress::new(host.name.clone(), wave, index);
        }
        self.completed.clear();
    }

    /// Makes hosts pending again that are neither completed nor in flight, except in waves that are over. A wave that
    /// succeeded although a host failed is over: its barrier was passed, and hosts of later waves may have been sent
    /// requests. A failed wave with an unfinished rollback stays failed; only a resume after its rollback runs it again.
    fn resume(&mut self) {
        self.was_resumed = true;
        self.outcome = None;
        self.ended_at = None;
        self.interrupt = None;
        self.current = self.waves.iter().take_while(|wave| wave.succeeded()).count();
        let returns = self.unfinished_rollback();
        let is_behind = |index: WaveIndex, wave: &WaveProgress| wave.succeeded() || returns == Some(index);
        let mut behind = Vec::with_capacity(self.waves.len());
        for (index, wave) in self.waves.iter_mut().enumerate() {
            behind.push(is_behind(WaveIndex(index), wave));
            if !is_behind(WaveIndex(index), wave) {
                wave.state = WaveState::Pending;
                wave.ended_at = None;
            }
        }
        for place in 0..self.hosts.len() {
            self.change_at(place, |host| {
                let is_behind = behind.get(host.wave.0).is_some_and(|behind| *behind);
                if host.state.is_in_flight() {
                    host.state = HostState::Dispatched;
                } else if !is_behind && !host.runs_what_was_asked() {
                    *host = host.anew();
                }
            });
        }
        let hosts = &self.hosts;
        self.completed.retain(|place| hosts.get(*place).is_some_and(|host| host.state != HostState::Pending));
    }

    /// Fails a completed host that turned out to be two machines.
    fn take_back(&mut self, name: &HostName) {
        let is_completed = |host: &HostProgress| host.state == HostState::Final(HostOutcome::Completed);
        let Some(place) = self.place(name).filter(|place| self.hosts.get(*place).is_some_and(is_completed)) else {
            return;
        };
        self.change_at(place, |host| {
            host.state = HostState::Final(HostOutcome::Failed);
            host.spend_id(HostOutcome::Failed);
        });
        self.completed.retain(|completed| *completed != place);
    }

    fn change(&mut self, name: &HostName, change: impl FnOnce(&mut HostProgress)) {
        if let Some(place) = self.place(name) {
            self.change_at(place, change);
        }
    }

    /// Changes a host, and the counts of its wave with it.
    fn change_at(&mut self, place: usize, change: impl FnOnce(&mut HostProgress)) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        let plan = self.rollout.as_ref().map(|rollout| &rollout.plan);
        let is_excused =
            |host: &HostProgress| plan.is_some_and(|plan| plan.ignores_silence_of(host.wave.0, &host.name));
        let Some(wave) = self.waves.get_mut(host.wave.0) else { return };
        if let Some(count) = wave.count_of(host, is_excused) {
            *count -= 1;
        }
        change(host);
        if let Some(count) = wave.count_of(host, is_excused) {
            *count += 1;
        }
    }

    fn wave_is(&mut self, wave: WaveIndex, state: WaveState) {
        if let Some(view) = self.waves.get_mut(wave.0) {
            view.state = state;
        }
    }
}
