//! Which server is tried next, and after what pause.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::{ReconnectToServer, Server};

/// The pause after the first round of failures; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Goes round the servers; the first round has no pauses, each later one has longer ones.
///
/// A series of attempts ends by itself: an attempt that comes long after the last one begins anew. Neither success nor
/// the client's own count of failures ends it. A server that accepts a connection only to close it would be met in a
/// tight loop by the one, and a name that cannot be resolved, which the client does not count, by the other.
pub(super) struct Backoff {
    longest: Duration,
    // The client's callback is shared, so the counting needs a lock; nothing waits while it is held.
    series: Mutex<Series>,
}

#[derive(Default)]
struct Series {
    /// Where the next attempt goes, counted on and on.
    position: usize,
    /// Attempts since the series began.
    attempts: usize,
    /// When the last attempt was to be made.
    last: Option<Instant>,
}

/// The next attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Which server, by its position in the pool.
    pub(super) server: usize,
    /// How long to wait before.
    pub(super) pause: Duration,
}

impl Backoff {
    pub(super) fn new(longest: Duration) -> Self {
        Self::starting_at(0, longest)
    }

    /// Begins with the server at this position.
    pub(super) fn starting_at(position: usize, longest: Duration) -> Self {
        Self { longest, series: Mutex::new(Series { position, ..Series::default() }) }
    }

    /// The next attempt, with this many servers to choose from.
    pub(super) fn next(&self, servers: usize) -> Next {
        self.next_at(Instant::now(), servers.max(1))
    }

    fn next_at(&self, now: Instant, servers: usize) -> Next {
        let mut series = self.series.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let over = |last: Instant| now.saturating_duration_since(last) > 2 * self.longest;
        if series.last.is_none_or(over) {
            series.attempts = 0;
        }
        let pause = self.pause(series.attempts / servers);
        let server = series.position % servers;
        series.position += 1;
        series.attempts += 1;
        series.last = Some(now + pause);
        Next { server, pause }
    }

    /// The pause before each attempt of a round, counted from 0.
    fn pause(&self, round: usize) -> Duration {
        let Some(doublings) = round.checked_sub(1) else {
            // The client would sleep before its very first attempt as well, if only for a millisecond.
            return Duration::ZERO;
        };
        let factor = u32::try_from(doublings).ok().and_then(|n| 2_u32.checked_pow(n)).unwrap_or(u32::MAX);
        FIRST_PAUSE.saturating_mul(factor).min(self.longest)
    }

    /// The answer to the client, which asks before each attempt.
    pub(super) fn choose(&self, pool: &[Server]) -> Option<ReconnectToServer> {
        let Next { server, pause } = self.next(pool.len());
        pool.get(server).map(|server| ReconnectToServer { addr: server.addr.clone(), delay: Some(pause) })
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
            let next = backoff.next_at(now, 3);
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
    fn a_series_ends_with_time_and_not_with_success() {
        let backoff = Backoff::new(LONGEST);
        let start = Instant::now();
        // Accepted and thrown out at once, over and over: this must not become a tight loop.
        let pauses: Vec<_> = (0..4).map(|_| backoff.next_at(start, 1).pause.as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400]);
        assert_eq!(backoff.next_at(start + Duration::from_hours(1), 1).pause, Duration::ZERO);
    }
}
