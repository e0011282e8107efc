//! Keeps what the journal does not record of a host: its timer, and what its answers tell of its listener.

use std::sync::Arc;
use std::time::Duration;

use crate::plan::ResolvedHost;
use crate::protocol::Response;
use crate::rollout::flight::InFlight;
use crate::rollout::host::Instances;

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "it is a record of what is known of a host")]
pub(super) struct Contact {
    pub(super) timer: Timer,
    pub(super) supports_ids: bool,
    /// Whether its listener is known to support rollback requests.
    pub(super) supports_rollback: bool,
    /// Whether its listener is known to accept systems that were built elsewhere.
    pub(super) supports_system: bool,
    /// Whether a response to its last request named that request's id, so that all further ones must.
    pub(super) answers_with_ids: bool,
    pub(super) instances: Instances,
    pub(super) anomalies: u8,
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

impl Contact {
    pub(super) fn new(resolved: &ResolvedHost) -> Self {
        Self {
            timer: Timer::Off,
            supports_ids: resolved.supports_ids,
            supports_rollback: resolved.supports_rollback,
            supports_system: resolved.supports_system,
            answers_with_ids: false,
            instances: Instances::default(),
            anomalies: 0,
        }
    }

    pub(super) fn is_to_be_asked(&self, now: Duration) -> bool {
        self.flight().is_some_and(|flight| flight.is_to_be_asked(now))
    }

    pub(super) const fn flight(&self) -> Option<&InFlight> {
        if let Timer::InFlight(flight) = &self.timer { Some(flight) } else { None }
    }
}

impl Timer {
    pub(super) fn due(&self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::InFlight(flight) => Some(flight.due()),
            Self::Retry { at, .. } => Some(*at),
        }
    }
}
