//! The state of a rollout, as a fold of its events.

mod progress;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

pub use self::progress::{Counts, HostProgress, HostRollback, HostState, WaveProgress, WaveState};
use super::description::Rollout;
use super::event::{Event, EventKind, HostOutcome, Interrupt, Outcome, UnexpectedResponse, WaveIndex, WaveVerdict};
use crate::plan::{ResolvedWave, Rollback};
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
    /// The first wave that has not succeeded, or the number of waves.
    pub current_wave: WaveIndex,
    /// The indices of the completed hosts, in the order in which they completed.
    pub(super) completed: Vec<usize>,
    /// Whether the staging wave, in which all hosts fetch, is not over.
    pub(super) is_staging: bool,
    /// Whether the plan's `is_current` still holds: hosts may have changed before a resume.
    pub(super) knows_current: bool,
    was_resumed: bool,
    indices: FxHashMap<HostName, usize>,
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
            EventKind::AwaitingConfirmation { wave } => self.set_wave_state(*wave, WaveState::AwaitingConfirmation),
            EventKind::WaveStarted { wave } => {
                self.set_wave_state(*wave, WaveState::Running);
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
                view.use_up_id(*outcome);
            }),
            EventKind::Final { host, outcome, response } => {
                self.change(host, |view| {
                    view.state = HostState::Final(*outcome);
                    view.ended_at = Some(event.at);
                    view.response.clone_from(response);
                    view.use_up_id(*outcome);
                });
                if *outcome == HostOutcome::Completed {
                    self.completed.extend(self.index_of(host));
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
            EventKind::Draining { wave, .. } => self.set_wave_state(*wave, WaveState::Draining),
            EventKind::Baking { wave, .. } => self.set_wave_state(*wave, WaveState::Baking),
            EventKind::Checking { wave } => self.set_wave_state(*wave, WaveState::Checking),
            EventKind::WaveEnded { wave, verdict } => {
                self.set_wave_state(*wave, WaveState::Ended(verdict.clone()));
                if let Some(view) = self.waves.get_mut(wave.0) {
                    view.ended_at = Some(event.at);
                }
                if *verdict == WaveVerdict::Succeeded {
                    self.current_wave = WaveIndex(wave.0 + 1);
                }
            }
            EventKind::Staged => self.end_staging(),
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
                    self.fail_completed(host);
                }
            }
            EventKind::Ended { outcome } => {
                self.outcome = Some(*outcome);
                self.ended_at = Some(event.at);
            }
        }
    }

    pub fn host(&self, name: &HostName) -> Option<&HostProgress> {
        self.index_of(name).and_then(|index| self.hosts.get(index))
    }

    pub fn index_of(&self, name: &HostName) -> Option<usize> {
        self.indices.get(name).copied()
    }

    /// Returns the hosts of one wave, in the order of dispatch.
    pub fn hosts_of(&self, wave: WaveIndex) -> impl Iterator<Item = &HostProgress> {
        self.hosts.iter().filter(move |host| host.wave == wave)
    }

    /// Returns the failed wave whose rollback is not finished, if any.
    pub fn unfinished_rollback(&self) -> Option<WaveIndex> {
        let mut waves = self.rollout.as_ref()?.plan.waves.iter().zip(&self.waves).enumerate();
        let rolls_back = waves.position(|(index, (wave, progress))| {
            wave.limits.rollback == Rollback::Wave
                && matches!(progress.state, WaveState::Ended(WaveVerdict::Failed(_)))
                && self.hosts_of(WaveIndex(index)).any(|host| host.has_completed() || host.is_rolling_back())
        });
        rolls_back.map(WaveIndex)
    }

    /// Counts the hosts of the whole rollout by state.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.hosts)
    }

    fn begin(&mut self, at: Timestamp, rollout: &Arc<Rollout>) {
        let plan = &rollout.plan;
        self.began_at = Some(at);
        self.is_staging = plan.stage;
        self.knows_current = true;
        self.waves = vec![WaveProgress::PENDING; plan.waves.len()];
        self.hosts.reserve_exact(plan.hosts().count());
        // The staging wave has the hosts of all others.
        let with_own_hosts = if plan.stage { 1 } else { plan.waves.len() };
        self.hosts.extend(pending(plan.waves.iter().enumerate().take(with_own_hosts)));
        self.indices = self.hosts.iter().enumerate().map(|(index, host)| (host.name.clone(), index)).collect();
        self.rollout = Some(Arc::clone(rollout));
    }

    /// Ends staging: each host becomes pending in its own wave.
    fn end_staging(&mut self) {
        self.is_staging = false;
        self.completed.clear();
        if let Some(rollout) = &self.rollout {
            self.hosts.clear();
            self.hosts.extend(pending(rollout.plan.deploying_waves()));
        }
    }

    /// Makes hosts pending again that are neither completed nor in flight, except in waves that are over. A wave that
    /// succeeded although a host failed is over: its barrier was passed, and hosts of later waves may have been sent
    /// requests. A failed wave with an unfinished rollback stays failed; only a resume after its rollback runs it again.
    fn resume(&mut self) {
        let has_begun = self.waves.iter().any(|wave| wave.state != WaveState::Pending);
        self.knows_current = !(has_begun || self.was_resumed || self.outcome.is_some());
        self.was_resumed = true;
        self.outcome = None;
        self.ended_at = None;
        self.interrupt = None;
        self.current_wave = WaveIndex(self.waves.iter().take_while(|wave| wave.succeeded()).count());
        let rolls_back = self.unfinished_rollback();
        for (index, wave) in self.waves.iter_mut().enumerate() {
            if !wave.succeeded() && rolls_back != Some(WaveIndex(index)) {
                wave.state = WaveState::Pending;
                wave.ended_at = None;
            }
        }
        let is_over: Vec<bool> = self.waves.iter().map(|wave| wave.state != WaveState::Pending).collect();
        for index in 0..self.hosts.len() {
            self.change_at(index, |host| {
                if host.state.is_in_flight() {
                    host.state = HostState::Dispatched;
                } else if is_over.get(host.wave.0) != Some(&true) && !host.runs_what_was_asked() {
                    *host = host.anew();
                }
            });
        }
        let hosts = &self.hosts;
        self.completed.retain(|index| hosts.get(*index).is_some_and(|host| host.state != HostState::Pending));
    }

    /// Fails a completed host that turned out to be two machines.
    fn fail_completed(&mut self, name: &HostName) {
        let is_completed = |host: &HostProgress| host.state == HostState::Final(HostOutcome::Completed);
        let Some(index) = self.index_of(name).filter(|index| self.hosts.get(*index).is_some_and(is_completed)) else {
            return;
        };
        self.change_at(index, |host| {
            host.state = HostState::Final(HostOutcome::Failed);
            host.use_up_id(HostOutcome::Failed);
        });
        self.completed.retain(|completed| *completed != index);
    }

    fn change(&mut self, name: &HostName, change: impl FnOnce(&mut HostProgress)) {
        if let Some(index) = self.index_of(name) {
            self.change_at(index, change);
        }
    }

    /// Changes a host, and the counts of its wave with it.
    fn change_at(&mut self, index: usize, change: impl FnOnce(&mut HostProgress)) {
        let Some(host) = self.hosts.get_mut(index) else { return };
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

    fn set_wave_state(&mut self, wave: WaveIndex, state: WaveState) {
        if let Some(view) = self.waves.get_mut(wave.0) {
            view.state = state;
        }
    }
}

/// Returns the hosts of these waves, in the order of dispatch.
fn pending<'a>(waves: impl Iterator<Item = (usize, &'a ResolvedWave)>) -> impl Iterator<Item = HostProgress> {
    waves.flat_map(|(wave, resolved)| {
        let hosts = resolved.hosts.iter().enumerate();
        hosts.map(move |(index, host)| HostProgress::new(host.hostname.clone(), WaveIndex(wave), index))
    })
}
