//! Keeps what the journal does not record of a host: when it is due, what its listener supports, and who answers.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::plan::{Limits, ResolvedHost};
use crate::protocol::Response;
use crate::rollout::event::HostOutcome;

/// After how much silence the request of a host that has never responded is repeated: it may have been lost.
const REPEATS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];

/// How long a host that has responded may be silent before it is asked again: its last response may have been lost. A
/// listener repeats `started` every 30 s while it works.
const QUIET: Duration = Duration::from_secs(75);

/// The delay before a request without subscribers is repeated: the listener may be reconnecting or restarting.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The most instances that are remembered. A machine reboots less often while it is deployed.
const MAX_INSTANCES: usize = 4;

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "it is a record of what is known of a host")]
pub(super) struct Contact {
    pub(super) timer: Timer,
    pub(super) supports_ids: bool,
    pub(super) supports_rollback: bool,
    /// Whether its listener accepts systems that were built elsewhere.
    pub(super) supports_system: bool,
    /// Whether a response to its last request named that request's id, so that all further ones must.
    pub(super) answers_with_ids: bool,
    pub(super) instances: Instances,
    /// How many unexpected responses were reported.
    pub(super) unexpected: u8,
}

/// The next thing due for a host.
#[derive(Debug, Clone)]
pub(super) enum Timer {
    Off,
    /// Ask the host again, or give it up.
    InFlight(InFlight),
    /// Send a new request. Without one, `response` becomes the final response.
    Retry {
        at: Duration,
        response: Option<Arc<Response>>,
    },
}

/// The timing of a request that the host has not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlight {
    accept_timeout: Duration,
    finish_timeout: Duration,
    /// When the request was sent, plus the outages since: a host is judged by the time in which it could be heard.
    sent_at: Duration,
    /// When the host's silence began: at the request, or at the last reconnect.
    silent_since: Duration,
    pub(super) is_heard: bool,
    asked_at: Duration,
    /// When to ask the host again.
    ask_at: Option<Duration>,
}

/// The instances that responded to one request: a machine has a new instance after each boot.
///
/// A machine that reboots never responds as an earlier instance again. So an instance that responds again after another
/// one did is a second machine of the same name, and so is one whose final response differs.
#[derive(Debug, Clone, Default)]
pub(super) struct Instances {
    latest: Option<Uuid>,
    earlier: Vec<Uuid>,
    final_by: Option<(Uuid, Arc<Response>)>,
    are_two_machines: bool,
}

impl Contact {
    pub(super) fn new(resolved: &ResolvedHost) -> Self {
        Self {
            timer: Timer::Off,
            supports_ids: resolved.supports_ids,
            supports_rollback: resolved.supports_rollback,
            supports_system: resolved.supports_system,
            answers_with_ids: false,
            instances: Instances::default(),
            unexpected: 0,
        }
    }

    pub(super) const fn flight(&self) -> Option<&InFlight> {
        if let Timer::InFlight(flight) = &self.timer { Some(flight) } else { None }
    }
}

impl Timer {
    pub(super) fn due(&self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::InFlight(flight) => Some(flight.ask_at.map_or(flight.deadline(), |at| at.min(flight.deadline()))),
            Self::Retry { at, .. } => Some(*at),
        }
    }
}

impl InFlight {
    /// Returns the timing of a request that is sent now.
    pub(super) fn new(now: Duration, limits: &Limits) -> Self {
        let mut flight = Self {
            accept_timeout: limits.accept_timeout,
            finish_timeout: limits.finish_timeout(),
            sent_at: now,
            silent_since: now,
            is_heard: false,
            asked_at: now,
            ask_at: None,
        };
        flight.asked(now);
        flight
    }

    /// Returns when the host is given up. After an outage the accept timeout begins anew: the request may be lost.
    pub(super) fn deadline(&self) -> Duration {
        if self.is_heard {
            self.sent_at + self.finish_timeout
        } else {
            self.silent_since + self.accept_timeout.min(self.finish_timeout)
        }
    }

    /// Returns the outcome of a host whose deadline has passed.
    pub(super) const fn expired(&self) -> HostOutcome {
        if self.is_heard { HostOutcome::TimedOut } else { HostOutcome::Unreachable }
    }

    /// Notes that the host is asked now, and schedules the next repeat in case it stays silent.
    pub(super) fn asked(&mut self, now: Duration) {
        self.asked_at = now;
        let mut repeats = REPEATS.into_iter().map(|after| self.silent_since + after);
        self.ask_at = if self.is_heard { Some(now + QUIET) } else { repeats.find(|at| *at > now) };
    }

    /// Notes that nobody was subscribed when the host was asked.
    pub(super) fn missed(&mut self, now: Duration) {
        let again = now + ASK_AGAIN;
        self.ask_at = Some(self.ask_at.map_or(again, |ask_at| ask_at.min(again)));
    }

    /// Notes a response that is not final.
    pub(super) fn heard(&mut self, now: Duration) {
        self.is_heard = true;
        self.ask_at = Some(now + QUIET);
    }

    /// Extends the deadline by an outage, during which the host could not be heard.
    pub(super) fn extend_by_outage(&mut self, now: Duration, outage: Duration) {
        self.sent_at += outage;
        self.silent_since = now;
    }

    /// Whether to ask a silent host again now that a roll call found it. Its response may still be on the way.
    pub(super) fn is_to_be_asked(&self, now: Duration) -> bool {
        !self.is_heard && now >= self.asked_at + ASK_AGAIN
    }
}

impl Instances {
    /// Notes a response, and returns whether it is the first proof that two machines respond.
    pub(super) fn prove_two_machines(&mut self, response: &Arc<Response>) -> bool {
        let Some(instance) = response.instance.filter(|_| !self.are_two_machines) else { return false };
        let came_back = self.earlier.contains(&instance);
        if let Some(before) = self.latest.replace(instance).filter(|before| *before != instance) {
            self.earlier.truncate(MAX_INSTANCES - 1);
            self.earlier.insert(0, before);
        }
        let disagree = response.status.is_final() && {
            let (first, said) = self.final_by.get_or_insert_with(|| (instance, Arc::clone(response)));
            *first != instance && !is_same_final(said, response)
        };
        self.are_two_machines = came_back || disagree;
        self.are_two_machines
    }
}

/// Whether a final response only repeats another one. A listener may repeat it with another time and another log tail.
fn is_same_final(one: &Response, other: &Response) -> bool {
    let content = |response: &Response| Response { instance: None, at: None, log_tail: Vec::new(), ..response.clone() };
    content(one) == content(other)
}
