//! Takes one host through its wave: from its request through responses and retries to its outcome. A rollback is a
//! request like a deployment, with an outcome of its own.
//!
//! Hosts of a wave that share a subject are sent one request together, and each responds for itself.

use std::sync::Arc;
use std::time::Duration;

use super::contact::{InFlight, Instances, Timer};
use super::{CLOCK_DIFFERENCE, ConnectionState, Machine};
use crate::protocol::{ErrorCode, HostName, Phase, Request, RequestId, Response, Sender, Status};
use crate::rollout::event::{EventKind, FailureReason, HostOutcome, SkipReason, UnexpectedResponse};
use crate::rollout::summary::{HostProgress, HostState};
use crate::rollout::{Dispatch, Effect};

/// The most unexpected responses reported for one host, so that repetition fills neither the memory nor the journal.
const MAX_UNEXPECTED: u8 = 3;

impl Machine {
    /// Sends a host its request, and with it all hosts of the wave that share its subject.
    pub(super) fn send(&mut self, now: Duration, index: usize) {
        let used_ids = self.reached_with(index).map(|host| self.host(host).used_ids).max();
        let (ids, attempt) = (&self.rollout.ids, used_ids.unwrap_or_default() + 1);
        let request = match &self.resolved_host(index).shared_subject {
            Some(subject) => ids.together(subject, attempt),
            None if self.state.is_staging => ids.fetch(&self.host(index).name, attempt),
            None => ids.id(&self.host(index).name, attempt),
        };
        let is_waiting = |host: &usize| matches!(self.host(*host).state, HostState::Pending | HostState::Waiting(_));
        let together: Vec<usize> = self.reached_with(index).filter(is_waiting).collect();
        for index in together {
            self.dispatch(now, index, request.clone());
        }
        self.publish(now, index, Effect::Send);
    }

    /// Records that a host is about to be sent this request.
    fn dispatch(&mut self, now: Duration, index: usize, request: RequestId) {
        if self.host(index).request.as_ref() != Some(&request) {
            let contact = self.contact_mut(index);
            contact.answers_with_ids = false;
            contact.instances = Instances::default();
        }
        let HostProgress { name, attempts, .. } = self.host(index);
        let (host, attempt) = (name.clone(), attempts + 1);
        self.record(now, EventKind::Dispatched { host, request, attempt });
        self.expect_response(now, index);
    }

    /// Expects the response of a host to its last request from now on.
    pub(super) fn expect_response(&mut self, now: Duration, index: usize) {
        self.by_request.extend(self.host(index).last_request().cloned().map(|request| (request, index)));
        self.set_timer(index, Timer::InFlight(InFlight::new(now, self.limits())));
    }

    /// Publishes the last request of a host.
    pub(super) fn publish(&mut self, now: Duration, index: usize, effect: fn(Dispatch) -> Effect) {
        let (wave, host, progress) = (self.wave(), self.resolved_host(index), self.host(index));
        let Some(id) = progress.last_request() else { return };
        let per_host = host.shared_subject.is_some();
        let reply_to = if per_host { self.replies.of_all() } else { self.replies.to(host.tier, &host.hostname, id) };
        let deployment = Request {
            id: Some(id.clone()),
            expires_at: Some(self.wall_clock(now + wave.limits.accept_timeout + CLOCK_DIFFERENCE)),
            operator: Some(self.rollout.operator.clone()),
            rollout: Some(self.rollout.name().to_owned()),
            wave: Some(wave.name.clone()),
            confirm_timeout_s: wave.limits.rollback_confirm_timeout().map(|timeout| timeout.as_secs()),
            per_host,
            system: host.system.clone(),
            ..Request::new(wave.action, self.rollout.revision.clone(), reply_to)
        };
        let request = if progress.is_rolling_back() {
            Request { confirm_timeout_s: None, returns: progress.request.clone(), system: None, ..deployment }
        } else {
            deployment
        };
        self.effects.push_back(effect(Dispatch { subject: host.subject(), request: Box::new(request) }));
    }

    /// Asks a host that may have been running its request since before the resume. If it never got the request, it runs
    /// it now; else it reports its state. There is no other way to ask it, even if its listener knows no ids and runs
    /// the request again. The listener may be restarting, as a switch makes it do.
    pub(super) fn ask_anew(&mut self, now: Duration, index: usize) {
        self.expect_response(now, index);
        if let ConnectionState::Up { .. } = self.connection {
            self.connection = ConnectionState::Up { reliable_from: now + self.limits().accept_timeout };
            if self.may_be_asked(index) {
                self.publish(now, index, Effect::AskState);
            }
        }
    }

    /// Asks a host in flight for its state, if its listener does not take a repeated id for a new request.
    pub(super) fn ask_state(&mut self, now: Duration, index: usize) {
        self.change_flight(index, |flight| flight.asked(now));
        let supports_ids = self.contact(index).supports_ids && self.may_be_asked(index);
        if self.is_up() && (supports_ids || self.host(index).is_rolling_back()) {
            self.publish(now, index, Effect::AskState);
        }
    }

    /// Whether a request may be repeated: every listener on it must support ids. The first host in flight asks for all.
    fn may_be_asked(&self, index: usize) -> bool {
        let first = self.sent_with(index).find(|host| self.contact(*host).flight().is_some());
        self.sent_with(index).count() == 1
            || (first == Some(index) && self.sent_with(index).all(|host| self.contact(host).supports_ids))
    }

    /// Returns the hosts of the wave that a first request to this one reaches.
    pub(super) fn reached_with(&self, index: usize) -> impl Iterator<Item = usize> {
        let subject = self.resolved_host(index).shared_subject.as_ref();
        let hosts = if subject.is_some() { self.range() } else { index..index + 1 };
        hosts.filter(move |other| self.resolved_host(*other).shared_subject.as_ref() == subject)
    }

    /// Returns the hosts that were sent the same request as this one.
    fn sent_with(&self, index: usize) -> impl Iterator<Item = usize> {
        let request = self.host(index).request.as_ref();
        let is_shared = self.resolved_host(index).shared_subject.is_some();
        let hosts = if is_shared { 0..self.contacts.len() } else { index..index + 1 };
        hosts.filter(move |other| self.host(*other).request.as_ref() == request)
    }

    pub(super) fn on_response(&mut self, now: Duration, from: &Sender, request: &RequestId, response: Arc<Response>) {
        let Some(&index) = self.by_request.get(request) else { return };
        let is_sender = |index: &usize| {
            let host = self.resolved_host(*index);
            host.tier == from.tier && host.hostname == from.host
        };
        let index = self.sent_with(index).find(is_sender).unwrap_or(index);
        if let Some(anomaly) = self.unexpected(index, request, from, &response) {
            return self.report_unexpected(now, index, Some(anomaly));
        }
        let host = self.host(index);
        if let Some(rollback) = host.rollback.as_ref().filter(|rollback| rollback.request == *request) {
            return match (rollback.outcome, rollback_outcome(&response)) {
                (Some(outcome), _) => {
                    self.report_unexpected(now, index, after_final(outcome, None, response.status));
                }
                (None, Some(outcome)) => self.end_request(now, index, outcome, Some(response)),
                (None, None) => self.change_flight(index, |flight| flight.heard(now)),
            };
        }
        if host.request.as_ref() != Some(request) {
            // The host has been sent another request since; only that one counts.
            return;
        }
        let contact = self.contact_mut(index);
        contact.supports_ids |= response.id.is_some();
        contact.answers_with_ids |= response.id.is_some();
        if contact.instances.prove_two_machines(&response) {
            return self.fail_as_two_machines(now, index);
        }
        let said = HostOutcome::of(response.status);
        match (self.host(index).state, said) {
            (HostState::Final(outcome), _) => {
                self.report_unexpected(now, index, after_final(outcome, said, response.status));
            }
            (HostState::Pending | HostState::Waiting(HostOutcome::Rejected), _) => {}
            (_, Some(outcome)) => {
                let host = self.host(index);
                let response = share_texts(response, &host.name, host.request.as_ref());
                self.end_request(now, index, outcome, Some(response));
            }
            (_, None) => self.on_progress(now, index, &response),
        }
    }

    /// Handles a response whose subject names no host: it counts for a host that shares a subject and has no ids.
    pub(super) fn on_old_response(&mut self, now: Duration, response: Arc<Response>) {
        let is_excused = |index: &usize| {
            let (host, contact) = (self.resolved_host(*index), self.contact(*index));
            host.shared_subject.is_some() && !contact.supports_ids && host.hostname == response.hostname
        };
        let Some(index) = (0..self.contacts.len()).find(is_excused).filter(|_| response.id.is_none()) else { return };
        let from = Sender { tier: self.resolved_host(index).tier, host: response.hostname.clone() };
        if let Some(request) = self.host(index).request.clone() {
            self.on_response(now, &from, &request, response);
        }
    }

    /// Returns what is wrong with a response to this host's request.
    ///
    /// The subject proves who sent a response, and its content must agree. A listener without request ids need not name
    /// one until it named one in a response to this request.
    fn unexpected(
        &self,
        index: usize,
        request: &RequestId,
        from: &Sender,
        response: &Response,
    ) -> Option<UnexpectedResponse> {
        let asked = self.resolved_host(index);
        let answers_with_ids = asked.supports_ids || self.contact(index).answers_with_ids;
        let wrong_host = |said: &HostName| {
            let tier = (from.tier != asked.tier).then_some(from.tier);
            Some(UnexpectedResponse::WrongHost { said: said.clone(), tier })
        };
        if from.tier != asked.tier || from.host != asked.hostname {
            return wrong_host(&from.host);
        }
        if response.hostname != asked.hostname {
            return wrong_host(&response.hostname);
        }
        let is_about_it = response.id.as_ref().map_or(!answers_with_ids, |id| id == request);
        (!is_about_it).then_some(UnexpectedResponse::AnotherRequest)
    }

    fn report_unexpected(&mut self, now: Duration, index: usize, anomaly: Option<UnexpectedResponse>) {
        let contact = self.contact_mut(index);
        if let Some(anomaly) = anomaly.filter(|_| contact.unexpected < MAX_UNEXPECTED) {
            contact.unexpected += 1;
            let host = self.host(index).name.clone();
            self.record(now, EventKind::UnexpectedResponse { host, anomaly });
        }
    }

    /// Fails a host that turned out to be two machines of one name, as a cloned machine has it: what one reports is not
    /// true of the other. If the host had completed, its wave may be over; then the rollout ends with the current wave.
    fn fail_as_two_machines(&mut self, now: Duration, index: usize) {
        let HostProgress { name: host, state, .. } = self.host(index).clone();
        let anomaly = UnexpectedResponse::TwoMachines;
        self.record(now, EventKind::UnexpectedResponse { host: host.clone(), anomaly });
        match state {
            HostState::Final(HostOutcome::Completed) if self.range().contains(&index) => {
                if let Some(cause) = self.too_many_failures() {
                    self.fail_wave(now, SkipReason::WaveHalted, cause);
                }
            }
            HostState::Final(HostOutcome::Completed) => {
                self.fail_wave(now, SkipReason::EarlierWave, FailureReason::TwoMachines { host });
            }
            HostState::Pending | HostState::Final(_) => {}
            _ => self.finish_host(now, index, HostOutcome::Failed, None),
        }
    }

    fn on_progress(&mut self, now: Duration, index: usize, response: &Response) {
        if self.contact(index).flight().is_none() {
            // The host waited for a retry and responded after all: it keeps its request instead of getting a new one.
            self.set_timer(index, Timer::InFlight(InFlight::new(now, self.limits())));
        }
        self.change_flight(index, |flight| flight.heard(now));
        let HostProgress { name, state, .. } = self.host(index);
        let (host, phase) = (name.clone(), response.phase);
        match (response.status, state) {
            (Status::Started, HostState::Started(_)) if phase.is_none() => {}
            (Status::Started, _) => self.record(now, EventKind::Started { host, phase }),
            (_, HostState::Accepted | HostState::Started(_)) => {}
            (_, _) => self.record(now, EventKind::Accepted { host }),
        }
        // Unless it is confirmed, the host rolls back. It repeats that it waits, so a lost confirmation is sent again.
        if response.status == Status::Started && phase == Some(Phase::Confirm) && self.is_up() {
            self.publish(now, index, |mut dispatch| {
                dispatch.request.confirmed = true;
                Effect::Confirm(dispatch)
            });
        }
    }

    /// Handles the end of a request: schedules a retry, or makes the host final. A rollback is over in either case.
    pub(super) fn end_request(
        &mut self,
        now: Duration,
        index: usize,
        outcome: HostOutcome,
        response: Option<Arc<Response>>,
    ) {
        let host = self.host(index).name.clone();
        if self.host(index).is_rolling_back() {
            self.set_timer(index, Timer::Off);
            self.record(now, EventKind::RollbackEnded { host, outcome, response });
        } else if self.may_retry(index, outcome, response.as_deref()) {
            let delay = self.limits().retry_delay;
            self.set_timer(index, Timer::Retry { at: now + delay, response });
            self.record(now, EventKind::Retrying { host, outcome, delay });
        } else {
            self.finish_host(now, index, outcome, response);
        }
    }

    /// Whether the host gets a new request. Only one that never answered or was busy does: a real failure is final.
    fn may_retry(&self, index: usize, outcome: HostOutcome, response: Option<&Response>) -> bool {
        let host = self.host(index);
        let untouched = host.state == HostState::Dispatched;
        let busy = response.is_some_and(|response| response.error == Some(ErrorCode::AlreadyRunning));
        let worth_it = outcome == HostOutcome::Unreachable || (outcome == HostOutcome::Rejected && busy);
        // Other hosts on the same subject may have completed their request.
        let is_alone = self.resolved_host(index).shared_subject.is_none();
        is_alone && untouched && worth_it && host.attempts <= self.limits().retries && !self.sends_no_more()
    }

    /// Makes a host final, and halts the wave if too many hosts failed.
    pub(super) fn finish_host(
        &mut self,
        now: Duration,
        index: usize,
        outcome: HostOutcome,
        response: Option<Arc<Response>>,
    ) {
        self.set_timer(index, Timer::Off);
        let host = self.host(index).name.clone();
        self.record(now, EventKind::Final { host, outcome, response });
        self.current.last_final_at = now;
        if let Some(cause) = self.too_many_failures()
            && self.current.halted.is_none()
        {
            self.halt(now, SkipReason::WaveHalted, cause);
        }
    }

    pub(super) fn on_timer(&mut self, now: Duration, index: usize) {
        match self.contact(index).timer {
            Timer::InFlight(flight) if now >= flight.deadline() => self.end_request(now, index, flight.expired(), None),
            Timer::InFlight(_) => self.ask_state(now, index),
            Timer::Retry { .. } => self.send(now, index),
            Timer::Off => {}
        }
    }

    /// Handles a request without subscribers. A host that has answered it is there, and so is one that rolls back: its
    /// listener restarts, as a switch makes it do.
    pub(super) fn on_no_responders(&mut self, now: Duration, request: &RequestId) {
        let Some(&index) = self.by_request.get(request) else { return };
        let is_settled = matches!(self.connection, ConnectionState::Up { reliable_from } if now >= reliable_from);
        let hosts: Vec<usize> = self.sent_with(index).collect();
        for index in hosts {
            let host = self.host(index);
            let is_silent = self.contact(index).flight().is_some_and(|flight| !flight.is_heard);
            if host.last_request() != Some(request) || !is_silent {
                continue;
            }
            if is_settled && !host.is_rolling_back() {
                self.end_request(now, index, HostOutcome::Unreachable, None);
            } else {
                self.change_flight(index, |flight| flight.missed(now));
            }
        }
    }
}

/// Returns what is wrong with a response after the host's outcome, which it cannot change. A repeated final response is
/// harmless, and so is an earlier status that was overtaken on its way.
fn after_final(outcome: HostOutcome, said: Option<HostOutcome>, status: Status) -> Option<UnexpectedResponse> {
    match outcome {
        HostOutcome::Completed | HostOutcome::Failed | HostOutcome::Rejected => {
            said.filter(|said| *said != outcome).map(|_| UnexpectedResponse::Conflict { status })
        }
        HostOutcome::Current => None,
        HostOutcome::Unreachable | HostOutcome::TimedOut | HostOutcome::Skipped(_) => {
            Some(UnexpectedResponse::Late { status })
        }
    }
}

/// Returns the outcome of a rollback by the host's response, if that is final.
fn rollback_outcome(response: &Response) -> Option<HostOutcome> {
    match HostOutcome::of(response.status) {
        // A host that completed without rolling back did something else.
        Some(HostOutcome::Completed) if response.rolled_back != Some(true) => Some(HostOutcome::Failed),
        outcome => outcome,
    }
}

/// Lets a final response, which is kept, share the host name and request id that are in memory already.
fn share_texts(mut response: Arc<Response>, host: &HostName, request: Option<&RequestId>) -> Arc<Response> {
    if let Some(own) = Arc::get_mut(&mut response) {
        own.hostname.clone_from(host);
        if own.id.as_ref() == request {
            own.id = request.cloned();
        }
    }
    response
}
