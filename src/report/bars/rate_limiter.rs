//! Limits how often a display is drawn.

use std::time::Duration;

use jiff::Timestamp;

use crate::report::format::DisplayDuration;

/// Draws per second, on average.
pub(super) const PER_SECOND: u8 = 20;

/// How much of that average may be used at once: a burst of one second's draws.
const BURST: Duration = Duration::from_secs(1);

/// A leaky bucket that limits the average rate and still draws a few changes in a row at once. Its level is stored as
/// the moment at which it will be empty.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RateLimiter {
    dry_at: Timestamp,
}

impl RateLimiter {
    /// Whether to draw now. A `true` counts as a draw.
    pub(super) fn allows(&mut self, now: Timestamp) -> bool {
        let dry_at = self.dry_at.max(now);
        let allows = DisplayDuration::between(now, dry_at) < DisplayDuration(BURST);
        if allows {
            self.dry_at = dry_at.checked_add(BURST / u32::from(PER_SECOND)).unwrap_or(dry_at);
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_drawn_as_often_as_anybody_can_read() {
        let mut pace = RateLimiter::default();
        let millis = |millis| Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap();
        let drawn =
            |pace: &mut RateLimiter, times: std::ops::Range<i64>| times.filter(|at| pace.allows(millis(*at))).count();
        assert_eq!(drawn(&mut pace, 0..10), 10, "a few events at once are all drawn");
        assert_eq!(drawn(&mut pace, 10..5_000), 110, "a burst at first, and then so many a second");
        assert_eq!(drawn(&mut pace, 60_000..60_020), 20, "after a silence there is room for another burst");
    }
}
