//! The one place where wall-clock time enters; everything else is told what time it is.

use jiff::Timestamp;

/// The time by this machine's clock, to the millisecond, which is enough for every reader.
#[expect(clippy::disallowed_methods, reason = "this is the one place that the rule points to")]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
