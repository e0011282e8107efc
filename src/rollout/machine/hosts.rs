//! Takes one host through its wave: from its request through responses and retries to its outcome.

use std::sync::Arc;
use std::time::Duration;

use super::contact::Timer;
use super::{CLOCK_DIFFERENCE, ConnectionState, Machine};
use crate::protocol::{ErrorCode, Request, RequestId, Response, Sender, Status};
use crate::rollout::event::{EventKind, FailureReason, HostOutcome, SkipReason, UnexpectedResponse, WaveIndex};
use crate::rollout::flight::InFlight;
use crate::rollout::host::{Instances, MAX_ANOMALIES, after_final, is_to_be_confirmed, keep, unexpected};
use crate::rollout::summary::{HostProgress, HostState};
use crate::rollout::{Dispatch, Effect};

impl Machine {
    /// Sends a host its request. On a shared subject the request goes to all hosts of the wave there.
    pub(super) fn send(&mut self, now: Duration, index: usize) {
        if self.resolved_host(index).shared_subject.is_some() {
            return self.send_together(now, index);
        }
        let HostProgress { name, used_ids, .. } = self.host(index);
        let (ids, attempt) = (&self.rollout.ids, used_ids + 1);
        let request = if self.state.is_staging { ids.fetch(name, attempt) } else { ids.id(name, attempt) };
        let dispatch = self.dispatch(now, index, request.clone());
        self.is_sent(now, index, request);
        self.effects.push_back(Effect::Send(dispatch));
    }

    /// Records that a host is about to be sent this request.
    pub(super) fn is_sent(&mut self, now: Duration, index: usize, request: RequestId) {
        if self.host(index).request.as_ref() != Some(&request) {
            let contact = self.contact_mut(index);
            contact.answers_with_ids = false;
            contact.instances = Instances::default();
        }
        self.set_timer(index, Timer::InFlight(InFlight::new(now, self.timeouts())));
        self.by_request.insert(request.clone(), index);
        let HostProgress { name, attempts, .. } = self.host(index);
        let (host, attempt) = (name.clone(), attempts + 1);
        self.record(now, EventKind::Dispatched { host, request, attempt });
    }

    pub(super) fn dispatch(&self, now: Duration, index: usize, id: RequestId) -> Dispatch {
        let wave = self.wave();
        let expires_at = self.wall_clock(now + wave.limits.accept_timeout + CLOCK_DIFFERENCE);
        let host = self.resolved_host(index);
        let per_host = host.shared_subject.is_some();
        let reply_to = if per_host { self.replies.of_all() } else { self.replies.to(host.tier, &host.hostname, &id) };
        let request = Box::new(Request {
            id: Some(id),
            expires_at: Some(expires_at),
            operator: Some(self.rollout.operator.clone()),
            rollout: Some(self.rollout.name().to_owned()),
            wave: Some(wave.name.clone()),
            confirm_timeout_s: wave.limits.rollback_confirm_timeout().map(|timeout| timeout.as_secs()),
            per_host,
            system: host.system.clone(),
            ..Request::new(wave.action, self.rollout.revision.clone(), reply_to)
        });
        Dispatch { subject: host.subject(), request }
    }

    /// Asks a host that may have been running its request since before the resume. If it never got the request, it runs
    /// it now; else it reports its state. Its listener may be restarting, as a switch makes it do.
    pub(super) fn ask_anew(&mut self, now: Duration, index: usize) {
        let Some(request) = self.host(index).request.clone() else { return };
        self.set_timer(index, Timer::InFlight(InFlight::new(now, self.timeouts())));
        self.by_request.insert(request.clone(), index);
        if !self.is_up() {
            return;
        }
        self.link = ConnectionState::Up { settled_at: now + self.timeouts().accept };
        if self.may_be_asked(index) {
            let dispatch = self.dispatch(now, index, request);
            self.effects.push_back(Effect::AskState(dispatch));
        }
    }

    /// Asks a host in flight for its state, if its listener does not take a repeated id for a new request.
    pub(super) fn ask_state(&mut self, now: Duration, index: usize) {
        self.change_flight(index, |flight| flight.asked(now));
        let is_question = self.is_up() && self.contact(index).supports_ids && self.may_be_asked(index);
        if let Some(request) = self.host(index).request.clone().filter(|_| is_question) {
            let dispatch = self.dispatch(now, index, request);
            self.effects.push_back(Effect::AskState(dispatch));
        }
    }

    pub(super) fn respond(&mut self, now: Duration, from: &Sender, request: &RequestId, response: Arc<Response>) {
        let returning = self.returning.as_ref().map(|back| back.index).filter(|_| self.is_rollback_request(request));
        let Some(index) = returning.or_else(|| self.by_request.get(request).copied()) else { return };
        let index = self.one_of_those_sharing(index, from);
        let answers_with_ids = self.resolved_host(index).supports_ids || self.contact(index).answers_with_ids;
        if let Some(anomaly) = unexpected(self.resolved_host(index), request, from, &response, answers_with_ids) {
            return self.anomaly(now, index, anomaly);
        }
        if returning.is_some() {
            return self.return_answered(now, response);
        }
        let is_current = self.host(index).request.as_ref() == Some(request);
        if !is_current {
            // The host has been sent another request since; only that one counts.
            return;
        }
        let contact = self.contact_mut(index);
        contact.supports_ids |= response.id.is_some();
        contact.answers_with_ids |= response.id.is_some();
        if contact.instances.turn_out_to_be_two(&response) {
            return self.fail_as_two_machines(now, index);
        }
        match self.host(index).state {
            HostState::Final(outcome) => {
                if let Some(anomaly) = after_final(outcome, response.status) {
                    self.anomaly(now, index, anomaly);
                }
            }
            HostState::Pending | HostState::Waiting(HostOutcome::Rejected) => {}
            _ => match HostOutcome::of(response.status) {
                Some(outcome) => {
                    let host = self.host(index);
                    let response = keep(response, &host.name, host.request.as_ref());
                    self.ended(now, index, outcome, Some(response));
                }
                None => self.progressed(now, index, &response),
            },
        }
    }

    /// Confirms a host after its activation, so that it does not roll back. The host repeats that it waits until it is
    /// confirmed, so a lost confirmation is sent again.
    fn confirm(&mut self, now: Duration, index: usize) {
        if let Some(request) = self.host(index).request.clone().filter(|_| self.is_up()) {
            let Dispatch { subject, mut request } = self.dispatch(now, index, request);
            request.confirmed = true;
            self.effects.push_back(Effect::Confirm(Dispatch { subject, request }));
        }
    }

    fn progressed(&mut self, now: Duration, index: usize, response: &Response) {
        let timeouts = self.timeouts();
        if self.contact(index).flight().is_none() {
            // The host waited for a retry and responded after all: it keeps its request instead of getting a new one.
            self.set_timer(index, Timer::InFlight(InFlight::new(now, timeouts)));
        }
        self.change_flight(index, |flight| flight.heard(now, timeouts));
        let HostProgress { name, state, .. } = self.host(index);
        let (host, phase) = (name.clone(), response.phase);
        match (response.status, state) {
            (Status::Started, HostState::Started(_)) if phase.is_none() => {}
            (Status::Started, _) => self.record(now, EventKind::Started { host, phase }),
            (_, HostState::Accepted | HostState::Started(_)) => {}
            (_, _) => self.record(now, EventKind::Accepted { host }),
        }
        if is_to_be_confirmed(response) {
            self.confirm(now, index);
        }
    }

    /// Handles the end of a request: schedules a retry, or makes the host final.
    fn ended(&mut self, now: Duration, index: usize, outcome: HostOutcome, response: Option<Arc<Response>>) {
        if !self.may_retry(index, outcome, response.as_deref()) {
            return self.settle(now, index, outcome, response);
        }
        let delay = self.wave().limits.retry_delay;
        self.set_timer(index, Timer::Retry { at: now + delay, response });
        let host = self.host(index).name.clone();
        self.record(now, EventKind::Retrying { host, outcome, delay });
    }

    /// Whether the host gets a new request. Only one that never answered or was busy does: a real failure is final.
    fn may_retry(&self, index: usize, outcome: HostOutcome, response: Option<&Response>) -> bool {
        let host = self.host(index);
        let untouched = host.state == HostState::Dispatched;
        let busy = response.is_some_and(|response| response.error == Some(ErrorCode::AlreadyRunning));
        let worth_it = outcome == HostOutcome::Unreachable || (outcome == HostOutcome::Rejected && busy);
        // Other hosts on the same subject may have completed their request.
        let is_alone = self.resolved_host(index).shared_subject.is_none();
        is_alone && untouched && worth_it && host.attempts <= self.wave().limits.retries && !self.sends_no_more()
    }

    /// Makes a host final, and halts the wave if too many hosts failed.
    pub(super) fn settle(
        &mut self,
        now: Duration,
        index: usize,
        outcome: HostOutcome,
        response: Option<Arc<Response>>,
    ) {
        self.set_timer(index, Timer::Off);
        let host = self.host(index).name.clone();
        self.record(now, EventKind::Final { host, outcome, response });
        self.progress.last_final_at = now;
        if let Some(cause) = self.too_many_failures()
            && self.progress.halted.is_none()
        {
            self.halt(now, SkipReason::WaveHalted, cause);
        }
    }

    pub(super) fn halt(&mut self, now: Duration, skip: SkipReason, cause: FailureReason) {
        self.progress.halted = Some(skip);
        if self.counts().in_flight > 0 {
            self.record(now, EventKind::Draining { wave: WaveIndex(self.state.current()), cause });
        }
        self.settle_waiting(now);
    }

    /// Makes the hosts final that wait for a retry, since no further request is sent.
    pub(super) fn settle_waiting(&mut self, now: Duration) {
        for index in self.range() {
            if let HostState::Waiting(outcome) = self.host(index).state {
                let response = match &mut self.contact_mut(index).timer {
                    Timer::Retry { response, .. } => response.take(),
                    Timer::Off | Timer::InFlight(_) => None,
                };
                self.settle(now, index, outcome, response);
            }
        }
    }

    pub(super) fn due(&mut self, now: Duration, index: usize) {
        match self.contact(index).timer {
            Timer::InFlight(flight) if now >= flight.deadline => self.ended(now, index, flight.expired(), None),
            Timer::InFlight(_) => self.ask_state(now, index),
            Timer::Retry { .. } => self.send(now, index),
            Timer::Off => {}
        }
    }

    pub(super) fn no_responders(&mut self, now: Duration, request: &RequestId) {
        if self.is_rollback_request(request) {
            return self.nobody_returns(now);
        }
        let Some(index) = self.by_request.get(request).copied() else { return };
        for index in self.all_sharing(index) {
            self.nobody_listens(now, index, request);
        }
    }

    fn nobody_listens(&mut self, now: Duration, index: usize, request: &RequestId) {
        if self.host(index).request.as_ref() != Some(request) {
            // This is about a request that the host answered and that has been replaced since.
            return;
        }
        let settled = matches!(self.link, ConnectionState::Up { settled_at } if now >= settled_at);
        // A host that has answered is there: its listener restarts, as a switch makes it do.
        if self.contact(index).flight().is_none_or(|flight| flight.is_heard) {
            return;
        }
        if settled {
            self.ended(now, index, HostOutcome::Unreachable, None);
        } else {
            self.change_flight(index, |flight| flight.missed(now));
        }
    }

    pub(super) fn anomaly(&mut self, now: Duration, index: usize, anomaly: UnexpectedResponse) {
        let contact = self.contact_mut(index);
        if contact.anomalies < MAX_ANOMALIES {
            contact.anomalies += 1;
            let host = self.host(index).name.clone();
            self.record(now, EventKind::UnexpectedResponse { host, anomaly });
        }
    }
}
