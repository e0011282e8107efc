//! A request that is on its way or under way at a host.

use std::time::Duration;

use super::event::HostOutcome;

/// How long after a request a silent host is asked again: the request may have been lost on the way.
const REPEATS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];

/// How long a host that has answered may say nothing until it is asked again: its last word may have been lost on the way. A
/// host at work says so every 30 s.
const QUIET: Duration = Duration::from_secs(75);

/// How long after a reconnect a host is asked again that nobody seemed to be there for: its listener is reconnecting too.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When something is to be done about a host that was asked and is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlight {
    /// When the request was sent, moved on by every outage since: the host is judged by the time it could be heard.
    sent_at: Duration,
    pub(super) is_heard: bool,
    /// When it is given up.
    pub(super) deadline: Duration,
    /// Since when it was silent, as far as it could be heard.
    silent_since: Duration,
    /// When it was asked last.
    asked_at: Duration,
    /// When to ask it again.
    ask_at: Option<Duration>,
}

/// The patience that a host is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the request to the first status.
    pub(super) accept: Duration,
    /// From the request to the final status.
    pub(super) finish: Duration,
}

impl InFlight {
    /// The flight of a host that is sent a request now.
    pub(super) fn new(now: Duration, timeouts: Timeouts) -> Self {
        let deadline = now + timeouts.accept.min(timeouts.finish);
        Self { sent_at: now, is_heard: false, deadline, silent_since: now, asked_at: now, ask_at: None }.asked(now)
    }

    /// When something is to be done about it.
    pub(super) fn due(&self) -> Duration {
        self.ask_at.map_or(self.deadline, |ask_at| ask_at.min(self.deadline))
    }

    /// Takes notice that the host is asked, and settles when it is asked again if it stays silent.
    pub(super) fn asked(mut self, now: Duration) -> Self {
        self.asked_at = now;
        let repeats = REPEATS.map(|after| self.silent_since + after);
        let repeats = repeats.into_iter().find(|at| *at > now);
        self.ask_at = if self.is_heard { Some(now + QUIET) } else { repeats };
        self
    }

    /// Whether to ask the host again, now that it is seen to be there and says nothing. Its answer may still be on the way.
    pub(super) fn is_to_be_asked(&self, now: Duration) -> bool {
        !self.is_heard && now >= self.asked_at + ASK_AGAIN
    }

    /// Takes notice that nobody listened when the host was asked.
    pub(super) fn missed(mut self, now: Duration) -> Self {
        let again = now + ASK_AGAIN;
        self.ask_at = Some(self.ask_at.map_or(again, |ask_at| ask_at.min(again)));
        self
    }

    /// Takes notice of an answer that is not final.
    pub(super) fn heard(mut self, now: Duration, timeouts: Timeouts) -> Self {
        self.is_heard = true;
        self.deadline = self.sent_at + timeouts.finish;
        self.ask_at = Some(now + QUIET);
        self
    }

    /// Gives back the time during which the host could not be heard.
    pub(super) fn forgiven(mut self, now: Duration, outage: Duration, timeouts: Timeouts) -> Self {
        self.sent_at += outage;
        self.silent_since = now;
        self.deadline = if self.is_heard {
            self.sent_at + timeouts.finish
        } else {
            // Whether the request got through is not known: the host may take its whole time once more.
            now + timeouts.accept.min(timeouts.finish)
        };
        self
    }

    /// What it means that the deadline has come.
    pub(super) const fn expired(&self) -> HostOutcome {
        if self.is_heard { HostOutcome::TimedOut } else { HostOutcome::Unreachable }
    }
}
