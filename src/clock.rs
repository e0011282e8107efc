//! Reads the wall clock, in this one place. The pure modules get the time as an argument.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Returns the time of this machine's clock, in whole milliseconds.
#[expect(clippy::disallowed_methods, reason = "this is the one place that the rule points to")]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Returns the time zone of the user: that of `TZ`, else this machine's, else UTC.
pub fn zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// Formats a time for a person in this zone: `2026-11-23 11:00:00 CET`.
pub fn local(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}
