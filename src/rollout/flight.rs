//! Times a request in flight: when to ask its host again and when to give the host up.

use std::time::Duration;

use super::event::HostOutcome;

/// How long a host is silent before each repeat of its request, which may have been lost.
const REPEATS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];

/// How long a host that has responded may be silent before it is asked again: its last response may have been lost. A
/// listener repeats `started` every 30 s while it works.
const QUIET: Duration = Duration::from_secs(75);

/// The delay before a request without subscribers is repeated: the listener may be reconnecting or restarting.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The timing of a request to a host that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlight {
    /// When the request was sent, plus the outages since: a host is judged by the time in which it could be heard.
    sent_at: Duration,
    pub(super) is_heard: bool,
    /// When the host is given up.
    pub(super) deadline: Duration,
    /// When the host's silence began: at the request, or at the last reconnect.
    silent_since: Duration,
    asked_at: Duration,
    /// When to ask the host again.
    ask_at: Option<Duration>,
}

/// The timeouts of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the request to the first status.
    pub(super) accept: Duration,
    /// From the request to the final status.
    pub(super) finish: Duration,
}

impl InFlight {
    /// Returns the timing of a request that is sent now.
    pub(super) fn new(now: Duration, timeouts: Timeouts) -> Self {
        let deadline = now + timeouts.accept.min(timeouts.finish);
        Self { sent_at: now, is_heard: false, deadline, silent_since: now, asked_at: now, ask_at: None }.asked(now)
    }

    /// Returns when the host is to be asked again or given up, whichever comes first.
    pub(super) fn due(&self) -> Duration {
        self.ask_at.map_or(self.deadline, |ask_at| ask_at.min(self.deadline))
    }

    /// Records that the host is asked now, and schedules the next repeat in case it stays silent.
    pub(super) fn asked(mut self, now: Duration) -> Self {
        self.asked_at = now;
        let repeats = REPEATS.map(|after| self.silent_since + after);
        let repeats = repeats.into_iter().find(|at| *at > now);
        self.ask_at = if self.is_heard { Some(now + QUIET) } else { repeats };
        self
    }

    /// Whether to ask a silent host again now that a roll call found it. Its response may still be on the way.
    pub(super) fn is_to_be_asked(&self, now: Duration) -> bool {
        !self.is_heard && now >= self.asked_at + ASK_AGAIN
    }

    /// Records that nobody was subscribed when the host was asked.
    pub(super) fn missed(mut self, now: Duration) -> Self {
        let again = now + ASK_AGAIN;
        self.ask_at = Some(self.ask_at.map_or(again, |ask_at| ask_at.min(again)));
        self
    }

    /// Records a response that is not final.
    pub(super) fn heard(mut self, now: Duration, timeouts: Timeouts) -> Self {
        self.is_heard = true;
        self.deadline = self.sent_at + timeouts.finish;
        self.ask_at = Some(now + QUIET);
        self
    }

    /// Extends the deadline by an outage, during which the host could not be heard.
    pub(super) fn forgiven(mut self, now: Duration, outage: Duration, timeouts: Timeouts) -> Self {
        self.sent_at += outage;
        self.silent_since = now;
        self.deadline = if self.is_heard {
            self.sent_at + timeouts.finish
        } else {
            // The request may have been lost in the outage, so the accept timeout begins anew.
            now + timeouts.accept.min(timeouts.finish)
        };
        self
    }

    /// Returns the outcome of a host whose deadline has passed.
    pub(super) const fn expired(&self) -> HostOutcome {
        if self.is_heard { HostOutcome::TimedOut } else { HostOutcome::Unreachable }
    }
}
