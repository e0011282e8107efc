//! The course of one host within its wave.

use std::sync::Arc;
use std::time::Duration;

use super::{CLOCK_DIFFERENCE, Link, Machine, State};
use crate::protocol::{ErrorCode, Request, RequestId, Response, Sender};
use crate::rollout::event::{Anomaly, Cause, EventKind, HostOutcome, SkipCause, WaveIndex};
use crate::rollout::host::{
    ASK_AGAIN, Flight, Instances, MAX_ANOMALIES, Progress, after_final, is_to_be_confirmed, keep, unexpected,
};
use crate::rollout::{Dispatch, Effect};

impl Machine {
    /// Sends a host its request; where it has no subject of its own, those that hear it too are sent theirs with it.
    pub(super) fn send(&mut self, now: Duration, index: usize) {
        if self.frozen(index).shared_subject.is_some() {
            return self.send_together(now, index);
        }
        let request = self.rollout.ids.id(&self.frozen(index).hostname, self.host(index).spent_ids + 1);
        let dispatch = self.dispatch(now, index, request.clone());
        self.is_sent(now, index, request);
        self.effects.push_back(Effect::Send(dispatch));
    }

    /// Notes that a host is about to be sent this request.
    pub(super) fn is_sent(&mut self, now: Duration, index: usize, request: RequestId) {
        let host = self.frozen(index).hostname.clone();
        let flight = Flight::new(now, self.patience());
        let due = flight.due();
        let state = self.host_mut(index);
        state.state = State::InFlight(flight);
        if state.request.as_ref() != Some(&request) {
            state.request = Some(request.clone());
            state.names_ids = false;
            state.instances = Instances::default();
        }
        state.attempts += 1;
        let attempt = state.attempts;
        self.by_request.insert(request.clone(), index);
        self.timers.insert((due, index));
        self.report(now, EventKind::Dispatched { host, request, attempt });
    }

    pub(super) fn dispatch(&self, now: Duration, index: usize, id: RequestId) -> Dispatch {
        let wave = self.wave();
        let expires_at = self.wall_clock(now + wave.limits.accept_timeout + CLOCK_DIFFERENCE);
        let host = self.frozen(index);
        let per_host = host.shared_subject.is_some();
        let reply_to = if per_host { self.replies.of_all() } else { self.replies.to(host.tier, &host.hostname, &id) };
        let request = Box::new(Request {
            id: Some(id),
            expires_at: Some(expires_at),
            operator: Some(self.rollout.operator.clone()),
            rollout: Some(self.rollout.name().to_owned()),
            wave: Some(wave.name.clone()),
            confirm_timeout_s: wave.limits.confirms_within().map(|timeout| timeout.as_secs()),
            per_host,
            ..Request::new(wave.action, self.rollout.revision.clone(), reply_to)
        });
        Dispatch { subject: host.subject(), request }
    }

    /// Asks a host that may be at it since before the rollout was resumed: one that never heard of the request takes it
    /// now, and one that did says how far it is.
    pub(super) fn ask_again(&mut self, now: Duration, index: usize, request: RequestId) {
        let flight = Flight::new(now, self.patience());
        self.timers.insert((flight.due(), index));
        self.by_request.insert(request.clone(), index);
        let host = self.host_mut(index);
        host.state = State::InFlight(flight);
        host.request = Some(request.clone());
        if self.may_be_asked(index) {
            let dispatch = self.dispatch(now, index, request);
            self.effects.push_back(Effect::AskState(dispatch));
        }
    }

    /// Asks a host in flight how far it is, if its listener takes that for a question and not for a new order.
    pub(super) fn ask_state(&mut self, now: Duration, index: usize) {
        let host = self.host(index);
        let is_up = matches!(self.link, Link::Up { .. });
        if let (true, true, Some(request)) = (is_up && self.may_be_asked(index), host.knows_ids, host.request.clone()) {
            let dispatch = self.dispatch(now, index, request);
            self.effects.push_back(Effect::AskState(dispatch));
        }
    }

    pub(super) fn respond(&mut self, now: Duration, from: &Sender, request: &RequestId, response: Arc<Response>) {
        let returning = self.returning.as_ref().filter(|back| back.request == *request).map(|back| back.index);
        let Some(index) = returning.or_else(|| self.by_request.place(request)) else {
            return;
        };
        let index = self.one_of_those_sharing(index, from);
        let names_ids = self.frozen(index).knows_ids || self.host(index).names_ids;
        if let Some(anomaly) = unexpected(self.frozen(index), request, from, &response, names_ids) {
            return self.anomaly(now, index, anomaly);
        }
        if returning.is_some() {
            return self.return_answered(now, response);
        }
        let host = self.host_mut(index);
        host.knows_ids |= response.id.is_some();
        if host.request.as_ref() != Some(request) {
            // The host rejected this request and was sent another since; only that one counts.
            return;
        }
        host.names_ids |= response.id.is_some();
        if host.instances.turn_out_to_be_two(&response) {
            return self.contest(now, index);
        }
        match &host.state {
            State::Final(outcome) => {
                if let Some(anomaly) = after_final(*outcome, response.status) {
                    self.anomaly(now, index, anomaly);
                }
            }
            State::Pending | State::Waiting { outcome: HostOutcome::Rejected, .. } => {}
            State::Waiting { .. } | State::InFlight(_) => match HostOutcome::of(response.status) {
                Some(outcome) => {
                    let response = keep(response, &self.frozen(index).hostname, self.host(index).request.as_ref());
                    self.ended(now, index, outcome, Some(response));
                }
                None => self.progressed(now, index, &response),
            },
        }
    }

    /// Tells a host that it was heard from after its activation, and so shall stay as it is. It says that it waits for this
    /// until it is told; what is lost on the way is said again.
    fn confirm(&mut self, now: Duration, index: usize) {
        if let (Link::Up { .. }, Some(request)) = (self.link, self.host(index).request.clone()) {
            let Dispatch { subject, mut request } = self.dispatch(now, index, request);
            request.confirmed = true;
            self.effects.push_back(Effect::Confirm(Dispatch { subject, request }));
        }
    }

    fn progressed(&mut self, now: Duration, index: usize, response: &Response) {
        let Some(progress) = Progress::of(response.status) else {
            return;
        };
        let patience = self.patience();
        let was_due = self.host(index).due();
        let state = &mut self.host_mut(index).state;
        if matches!(state, State::Waiting { .. }) {
            // It was given up and spoke after all, in time to be taken back instead of asked again.
            *state = State::InFlight(Flight::new(now, patience));
        }
        let State::InFlight(flight) = state else {
            return;
        };
        let news = flight.heard(response.hostname.clone(), progress, response.phase, patience);
        let due = flight.due();
        self.move_timer(index, was_due, due);
        if let Some(news) = news {
            self.report(now, news);
        }
        if is_to_be_confirmed(response) {
            self.confirm(now, index);
        }
    }

    /// A request came to its end: it is asked again, or the host is final.
    fn ended(&mut self, now: Duration, index: usize, outcome: HostOutcome, response: Option<Arc<Response>>) {
        if !self.may_retry(index, outcome, response.as_deref()) {
            return self.settle(now, index, outcome, response);
        }
        self.cancel_timer(index);
        let delay = self.wave().limits.retry_delay;
        let host = self.host_mut(index);
        host.spent_ids += u32::from(outcome == HostOutcome::Rejected);
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
        // Others that hear its requests may have completed theirs.
        let is_alone = self.frozen(index).shared_subject.is_none();
        is_alone && untouched && worth_it && host.attempts <= self.wave().limits.retries && !self.sends_no_more()
    }

    /// Makes a host final.
    pub(super) fn settle(
        &mut self,
        now: Duration,
        index: usize,
        outcome: HostOutcome,
        response: Option<Arc<Response>>,
    ) {
        let limits = &self.wave().limits;
        let max_failures = limits.max_failures;
        // A host that has rejected a request has answered, and fell silent afterwards.
        let never_answered = outcome == HostOutcome::Unreachable && self.host(index).spent_ids == 0;
        let is_remembered = self.rollout.plan.remembered.contains(&self.frozen(index).hostname);
        let excused = (limits.ignore_unreachable || is_remembered) && never_answered;
        self.cancel_timer(index);
        self.host_mut(index).state = State::Final(outcome);
        let host = self.frozen(index).hostname.clone();
        self.report(now, EventKind::Final { host, outcome, response });

        let tally = &mut self.tally;
        tally.in_flight -= 1;
        tally.last_final_at = now;
        if outcome == HostOutcome::Completed {
            self.completed.push(index);
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

    pub(super) fn halt(&mut self, now: Duration, skip: SkipCause, cause: Cause) {
        self.tally.halted = Some(skip);
        if self.tally.in_flight > 0 {
            self.report(now, EventKind::Draining { wave: WaveIndex(self.wave), cause });
        }
        self.settle_waiting(now);
    }

    /// Hosts that were to be asked again are not, now that nothing is sent any more.
    pub(super) fn settle_waiting(&mut self, now: Duration) {
        for index in self.range() {
            if let State::Waiting { outcome, response, .. } = &mut self.host_mut(index).state {
                let (outcome, response) = (*outcome, response.take());
                self.settle(now, index, outcome, response);
            }
        }
    }

    pub(super) fn due(&mut self, now: Duration, index: usize) {
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

    pub(super) fn no_responders(&mut self, now: Duration, request: &RequestId) {
        if self.is_way_back(request) {
            return self.nobody_returns(now);
        }
        let Some(index) = self.by_request.place(request) else {
            return;
        };
        for index in self.all_sharing(index) {
            self.nobody_listens(now, index, request);
        }
    }

    fn nobody_listens(&mut self, now: Duration, index: usize, request: &RequestId) {
        if self.host(index).request.as_ref() != Some(request) {
            // It comes late, about a request that the host has answered and that was replaced since.
            return;
        }
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

    pub(super) fn anomaly(&mut self, now: Duration, index: usize, anomaly: Anomaly) {
        let host = self.host_mut(index);
        if host.anomalies < MAX_ANOMALIES {
            host.anomalies += 1;
            let host = self.frozen(index).hostname.clone();
            self.report(now, EventKind::Anomaly { host, anomaly });
        }
    }
}
