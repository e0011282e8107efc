//! What a record does not say of a host: when something is due about it, and who was heard.

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
    /// Whether its listener is known to return to what it ran before when it is asked to.
    pub(super) supports_rollback: bool,
    /// Whether its listener is known to take systems that were built elsewhere.
    pub(super) supports_system: bool,
    /// Whether an answer to its last request named that, so that all have to.
    pub(super) answers_with_ids: bool,
    pub(super) instances: Instances,
    pub(super) anomalies: u8,
}

/// What happens to a host when nothing else does.
#[derive(Debug, Clone)]
pub(super) enum Timer {
    Off,
    /// It is in flight: it is asked again, and given up in the end.
    InFlight(InFlight),
    /// It was asked in vain, which stands when it is not asked again.
    Retry {
        at: Duration,
        response: Option<Arc<Response>>,
    },
}

impl Contact {
    pub(super) fn new(frozen: &ResolvedHost) -> Self {
        Self {
            timer: Timer::Off,
            supports_ids: frozen.supports_ids,
            supports_rollback: frozen.supports_rollback,
            supports_system: frozen.supports_system,
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
