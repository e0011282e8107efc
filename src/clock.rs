//! The one place where wall-clock time enters; everything else is told what time it is.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The time by this machine's clock, to the millisecond, which is enough for every reader.
#[expect(clippy::disallowed_methods, reason = "this is the one place that the rule points to")]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// The zone in which a person here reads times: that of `TZ`, else this machine's, else UTC.
pub fn zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// A moment as a person in this zone reads it: `2026-11-23 11:00:00 CET`.
pub fn local(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}
