//! The observations of one host.

use std::time::Duration;

use crate::plan::ResolvedHost;
use crate::protocol::{ErrorCode, RequestId, Response, Sender, Status};
use crate::rollout::HostOutcome;

/// The observations of a host.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "it is a record of what was seen")]
pub(super) struct ObservedHost<'a> {
    pub(super) host: &'a ResolvedHost,
    pub(super) wave: usize,
    /// The wave in which it is deployed; while it fetches, `wave` is the staging wave.
    pub(super) own_wave: usize,
    /// The outcome of fetching, if it had to, and the requests for that.
    pub(super) fetched: Option<HostOutcome>,
    pub(super) fetches: Vec<RequestId>,
    /// Every request since it was last pending; the last one counts.
    pub(super) sent: Vec<(Duration, RequestId)>,
    /// Its responses to the last request while that was in flight.
    pub(super) said: Vec<Response>,
    /// When the last of them came.
    pub(super) said_at: Duration,
    /// How long it could not be heard since the request, and since when it could.
    pub(super) unheard_for: Duration,
    pub(super) heard_since: Duration,
    /// When it was asked again since then.
    pub(super) asked_again: Vec<Duration>,
    /// Whether the server reported since then that nobody is subscribed.
    pub(super) nobody: bool,
    pub(super) supports_ids: bool,
    pub(super) supports_rollback: bool,
    pub(super) supports_system: bool,
    /// Since when it waits for a retry.
    pub(super) waiting_since: Option<Duration>,
    pub(super) outcome: Option<(Duration, HostOutcome)>,
    /// The request that it may run, or that it completed.
    pub(super) may_run: Option<RequestId>,
    /// The requests that it rejected, failed or rolled rollback from.
    pub(super) ended: Vec<RequestId>,
    pub(super) rollback: Option<ObservedRollback>,
}

/// The observations of a host's rollback.
#[derive(Debug)]
pub(super) struct ObservedRollback {
    pub(super) request: RequestId,
    /// When the current process recorded, sent or found it.
    pub(super) sent_at: Duration,
    pub(super) was_sent_by_this_process: bool,
    pub(super) said: Vec<Response>,
    pub(super) unheard_for: Duration,
    pub(super) heard_since: Duration,
    pub(super) outcome: Option<HostOutcome>,
}

impl<'a> ObservedHost<'a> {
    pub(super) fn new(host: &'a ResolvedHost, wave: usize) -> Self {
        Self {
            host,
            wave,
            own_wave: wave,
            fetched: None,
            fetches: Vec::new(),
            sent: Vec::new(),
            said: Vec::new(),
            said_at: Duration::ZERO,
            unheard_for: Duration::ZERO,
            heard_since: Duration::ZERO,
            asked_again: Vec::new(),
            nobody: false,
            supports_ids: host.supports_ids,
            supports_rollback: host.supports_rollback,
            supports_system: host.supports_system,
            waiting_since: None,
            outcome: None,
            may_run: None,
            ended: Vec::new(),
            rollback: None,
        }
    }

    /// Makes the host pending in its own wave. What is known of its listener stays known.
    pub(super) fn has_fetched(&mut self) {
        let fetches = std::mem::take(&mut self.sent).into_iter().map(|(_, id)| id).chain(self.ended.drain(..));
        *self = ObservedHost {
            fetched: self.outcome.map(|(_, outcome)| outcome),
            fetches: fetches.chain(self.may_run.take()).collect(),
            supports_ids: self.supports_ids,
            supports_rollback: self.supports_rollback,
            supports_system: self.supports_system,
            ..ObservedHost::new(self.host, self.own_wave)
        };
    }

    pub(super) fn is_completed(&self) -> bool {
        matches!(self.outcome, Some((_, HostOutcome::Completed)))
    }

    /// Whether it was asked to roll rollback and has not finished.
    pub(super) fn is_rolling_back(&self) -> bool {
        self.rollback.as_ref().is_some_and(|rollback| rollback.outcome.is_none())
    }

    pub(super) fn rolls_back_by(&self, request: &RequestId) -> bool {
        self.rollback.as_ref().is_some_and(|rollback| rollback.request == *request)
    }

    /// Whether the host was ever sent this id.
    pub(super) fn ever_knew(&self, request: &RequestId) -> bool {
        let known = self.ended.iter().chain(&self.may_run);
        self.ever_sent(request) || self.rolls_back_by(request) || known.into_iter().any(|known| known == request)
    }

    pub(super) fn was_found_rolling_back(&mut self, at: Duration) {
        if let Some(rollback) = self.rollback.take_if(|rollback| rollback.outcome.is_none()) {
            self.rollback = Some(ObservedRollback::new(at, rollback.request));
        }
    }

    pub(super) fn answered_rollback(&mut self, from: &Sender, request: &RequestId, response: &Response) {
        let is_genuine = self.is_genuine(from, request, response);
        if let Some(rollback) = self.rollback.as_mut().filter(|rollback| rollback.outcome.is_none())
            && is_genuine
        {
            rollback.said.push(response.clone());
        }
    }

    pub(super) fn is_in_flight(&self) -> bool {
        !self.sent.is_empty() && self.outcome.is_none()
    }

    /// Whether a response to its last request is awaited, and no retry.
    pub(super) fn is_open(&self) -> bool {
        self.is_in_flight() && self.waiting_since.is_none()
    }

    pub(super) fn last_sent(&self, request: &RequestId) -> bool {
        self.sent.last().is_some_and(|(_, last)| last == request)
    }

    pub(super) fn last_sent_at(&self) -> Duration {
        self.sent.last().map_or(Duration::MAX, |(at, _)| *at)
    }

    /// Returns the first final response to the last request. Later ones change nothing.
    pub(super) fn first_final(&self) -> Option<&Response> {
        self.said.iter().find(|response| response.status.is_final())
    }

    pub(super) fn ever_sent(&self, request: &RequestId) -> bool {
        self.sent.iter().map(|(_, sent)| sent).chain(&self.fetches).any(|sent| sent == request)
    }

    pub(super) fn was_sent(&mut self, at: Duration, request: RequestId) {
        self.sent.push((at, request));
        self.said.clear();
        self.unheard_for = Duration::ZERO;
        self.heard_since = at;
        self.asked_again.clear();
        self.nobody = false;
        self.waiting_since = None;
    }

    /// Notes that a new process, which knows nothing else of the host, found it in flight.
    pub(super) fn was_found_in_flight(&mut self, at: Duration) {
        if let Some((_, last)) = self.sent.pop() {
            self.was_sent(at, last);
        }
        self.supports_ids = self.host.supports_ids;
    }

    pub(super) fn note_outcome(&mut self, outcome: HostOutcome) {
        if matches!(outcome, HostOutcome::Rejected | HostOutcome::Failed) {
            self.ended.extend(self.may_run.take());
        }
    }

    /// Whether only this host can have sent a response, and the response is about this request.
    pub(super) fn is_genuine(&self, from: &Sender, request: &RequestId, response: &Response) -> bool {
        let is_proved = (from.tier, &from.host) == (self.host.tier, &self.host.hostname);
        let agrees = response.hostname == from.host;
        let named_before = self.last_sent(request) && self.said.iter().any(|response| response.id.is_some());
        let is_about_it = match &response.id {
            Some(id) => id == request,
            None => !self.host.supports_ids && !named_before,
        };
        is_proved && agrees && is_about_it
    }

    /// Notes a response, and returns whether the host runs the request and has not finished it.
    pub(super) fn answered(&mut self, at: Duration, from: &Sender, request: &RequestId, response: &Response) -> bool {
        if !self.is_genuine(from, request, response) {
            return false;
        }
        if !self.last_sent(request) {
            return false;
        }
        self.supports_ids |= response.id.is_some();
        if !self.is_in_flight() {
            return false;
        }
        self.said.push(response.clone());
        self.said_at = at;
        let runs_it = !response.status.is_final() && self.first_final().is_none();
        if runs_it {
            // The host may have waited for a retry, which is dropped.
            self.waiting_since = None;
        }
        runs_it
    }
}

impl ObservedRollback {
    pub(super) fn new(at: Duration, request: RequestId) -> Self {
        Self {
            request,
            sent_at: at,
            was_sent_by_this_process: false,
            said: Vec::new(),
            unheard_for: Duration::ZERO,
            heard_since: at,
            outcome: None,
        }
    }

    pub(super) fn first_final(&self) -> Option<&Response> {
        self.said.iter().find(|response| response.status.is_final())
    }
}

/// Whether the host runs another request.
pub(super) fn is_busy(response: &Response) -> bool {
    response.status == Status::Rejected && response.error == Some(ErrorCode::AlreadyRunning)
}
