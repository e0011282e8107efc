//! Decides which server to try next, after what pause, and when a service gives up.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{ReconnectToServer, Server};

/// The pause after the first round of failures. It doubles with every further round.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection must last to reset the backoff.
const STOOD: Duration = Duration::from_secs(5);

/// Cycles through the servers. The first round has no pauses; each later round has longer ones.
///
/// A connect alone does not reset the backoff, or a server that accepts and closes each connection would cause a tight
/// loop. A connection that lasts for a while does.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
    // The client's callback is shared, so this needs a lock. Nothing blocks while it is held.
    series: Mutex<Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// The position of the last attempt, or of the first one to make. Not reduced to the number of servers.
    position: usize,
    attempts: usize,
    /// The time scheduled for the last attempt.
    last: Option<Instant>,
    /// Whether the next attempt replaces a working connection.
    on_purpose: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Next {
    /// The index of the server in the pool.
    server: usize,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Connected,
    Failed,
}

impl Backoff {
    pub(super) fn starting_at(position: usize, longest: Duration) -> Self {
        Self { longest, series: Mutex::new(Series { position, ..Series::default() }) }
    }

    /// Makes the next attempt immediate, to the current server, and not counted as a failure.
    pub(super) fn reconnect_on_purpose(&self) {
        self.series().on_purpose = true;
    }

    /// Returns the pause before the next attempt after a failure.
    pub(super) fn next_pause(&self) -> Duration {
        self.next(Instant::now(), 1, Last::Failed).pause
    }

    /// Chooses the server and pause for the client, which calls this before each attempt.
    pub(super) fn choose(&self, pool: &[Server]) -> Option<ReconnectToServer> {
        let last = pool.get(self.series().position % pool.len().max(1));
        let last = if last.is_some_and(|server| server.failed_attempts == 0) { Last::Connected } else { Last::Failed };
        let Next { server, pause } = self.next(Instant::now(), pool.len().max(1), last);
        pool.get(server).map(|server| ReconnectToServer { addr: server.addr.clone(), delay: Some(pause) })
    }

    fn next(&self, now: Instant, servers: usize, last: Last) -> Next {
        let mut series = self.series();
        let stood = series.last.is_some_and(|at| last == Last::Connected && now.saturating_duration_since(at) >= STOOD);
        let on_purpose = std::mem::take(&mut series.on_purpose);
        if stood || on_purpose {
            series.attempts = 0;
        }
        if series.last.is_some() && !on_purpose {
            series.position += 1;
        }
        let pause = self.pause(series.attempts / servers);
        series.attempts += usize::from(!on_purpose);
        series.last = Some(now + pause);
        Next { server: series.position % servers, pause }
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the pause before each attempt of a round, counted from 0.
    fn pause(&self, round: usize) -> Duration {
        let Some(doublings) = round.checked_sub(1) else {
            // Not even a millisecond: the client would also sleep before its very first attempt.
            return Duration::ZERO;
        };
        let factor = u32::try_from(doublings).ok().and_then(|n| 2_u32.checked_pow(n)).unwrap_or(u32::MAX);
        FIRST_PAUSE.saturating_mul(factor).min(self.longest)
    }
}

/// How long a service's key may be refused before it exits: systemd hands over a new key only at a start.
const REFUSED_FOR: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub struct Lockout {
    since: Option<tokio::time::Instant>,
}

impl Lockout {
    /// Records a refusal. Returns whether the key has been refused for too long.
    pub fn refused(&mut self) -> bool {
        self.since.get_or_insert_with(tokio::time::Instant::now).elapsed() >= REFUSED_FOR
    }

    /// Records that the server accepted the key.
    pub fn over(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn every_server_is_tried_before_the_first_pause_and_pauses_grow_to_the_longest() {
        let backoff = Backoff::starting_at(1, LONGEST);
        let mut now = Instant::now();
        let mut next = || {
            let next = backoff.next(now, 3, Last::Failed);
            now += next.pause;
            (next.server, next.pause.as_millis())
        };
        assert_eq!([next(), next(), next()], [(1, 0), (2, 0), (0, 0)]);
        assert_eq!([next(), next(), next()], [(1, 100), (2, 100), (0, 100)]);
        assert_eq!(next(), (1, 200));
        let longest = (0..1_000).map(|_| next().1).max();
        assert_eq!(longest, Some(30_000));
    }

    #[test]
    fn a_connection_that_stood_begins_anew_and_one_that_was_closed_at_once_does_not() {
        let backoff = Backoff::starting_at(0, LONGEST);
        let start = Instant::now();
        let pause = |after: Duration, last| backoff.next(start + after, 1, last).pause.as_millis();
        // Connections that are accepted and closed at once must not cause a tight loop.
        let closed = [0; 4].map(|_| pause(Duration::ZERO, Last::Connected));
        assert_eq!(closed, [0, 100, 200, 400]);
        // An attempt that hangs for a while is not a connection that lasted.
        assert_eq!(pause(Duration::from_secs(10), Last::Failed), 800);
        assert_eq!(pause(Duration::from_secs(15), Last::Connected), 1_600);
        assert_eq!(pause(Duration::from_secs(22), Last::Connected), 0);
    }

    #[test]
    fn the_hundredth_reconnect_on_purpose_is_as_quick_as_the_first_and_goes_to_the_same_server() {
        let backoff = Backoff::starting_at(1, LONGEST);
        let now = Instant::now();
        let next = |last| backoff.next(now, 2, last);
        assert_eq!(next(Last::Failed), Next { server: 1, pause: Duration::ZERO });
        for _ in 0..100 {
            backoff.reconnect_on_purpose();
            assert_eq!(next(Last::Connected), Next { server: 1, pause: Duration::ZERO });
        }
        // After such an attempt fails, a whole round has no pauses.
        let rounds = [0; 3].map(|_| next(Last::Failed)).map(|next| (next.server, next.pause.as_millis()));
        assert_eq!(rounds, [(0, 0), (1, 0), (0, 100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_given_up_after_a_minute_in_which_it_was_never_taken() {
        let mut lockout = Lockout::default();
        assert!(!lockout.refused());
        tokio::time::advance(REFUSED_FOR / 2).await;
        assert!(!lockout.refused());
        tokio::time::advance(REFUSED_FOR / 2).await;
        assert!(lockout.refused());
        lockout.over();
        assert!(!lockout.refused());
    }
}
