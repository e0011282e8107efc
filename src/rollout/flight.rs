//! A request that is on its way or under way at a host.

use std::time::Duration;

use super::event::HostOutcome;

/// How long after a reconnect a host is asked again that nobody seemed to be there for: its listener is reconnecting too.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When something is to be done about a host that was asked and is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    /// When the request was sent, moved on by every outage since: the host is judged by the time it could be heard.
    sent_at: Duration,
    /// Whether the host has answered.
    pub(super) is_heard: bool,
    /// When it is given up.
    pub(super) deadline: Duration,
    /// When to ask it again for its state.
    pub(super) ask_at: Option<Duration>,
}

/// The patience that a host is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// From the request to the first status.
    pub(super) accept: Duration,
    /// From the request to the final status.
    pub(super) finish: Duration,
}

impl Flight {
    /// The flight of a host that is sent a request now.
    pub(super) fn new(now: Duration, patience: Patience) -> Self {
        let deadline = now + patience.accept.min(patience.finish);
        Self { sent_at: now, is_heard: false, deadline, ask_at: None }
    }

    /// When something is to be done about it.
    pub(super) fn due(&self) -> Duration {
        self.ask_at.map_or(self.deadline, |ask_at| ask_at.min(self.deadline))
    }

    /// Takes notice of an answer that is not final.
    pub(super) fn hear(&mut self, patience: Patience) {
        self.is_heard = true;
        self.deadline = self.sent_at + patience.finish;
        self.ask_at = None;
    }

    /// Gives back the time during which the host could not be heard.
    pub(super) fn forgive(&mut self, now: Duration, outage: Duration, patience: Patience) {
        self.sent_at += outage;
        self.ask_at = None;
        self.deadline = if self.is_heard {
            self.sent_at + patience.finish
        } else {
            // Whether the request got through is not known: the host may take its whole time once more.
            now + patience.accept.min(patience.finish)
        };
    }

    /// What it means that the deadline has come.
    pub(super) const fn expired(&self) -> HostOutcome {
        if self.is_heard { HostOutcome::TimedOut } else { HostOutcome::Unreachable }
    }
}
