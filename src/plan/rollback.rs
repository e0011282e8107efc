//! Whether hosts return to what they ran before, and how long they wait to be told that they need not.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long a host waits to be confirmed where nothing else is said.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a host may be told to wait. In less than the least, a host whose network restarts could not be heard again;
/// while it waits, nobody else can deploy to it.
const CONFIRM_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(1);

/// When a host returns to what it ran before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rollback {
    /// Never: it stays as it is.
    #[default]
    None,
    /// When its deployment fails, and when it is not heard from again after its activation.
    Auto,
    /// Then, and when its wave fails.
    Wave,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a way to roll back: there are \"none\", \"auto\" and \"wave\"")]
pub struct NotARollback(String);

/// A time in which a host cannot sensibly be confirmed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BadConfirmTimeout {
    #[error(transparent)]
    NoDuration(#[from] humantime::DurationError),
    /// Hosts count whole seconds.
    #[error("it is not a whole number of seconds")]
    NotWhole,
    #[error("it is not between 5s and 1h")]
    OutOfRange,
}

impl Rollback {
    /// Every way, from the least to the most.
    pub const ALL: [Self; 3] = [Self::None, Self::Auto, Self::Wave];

    /// The way as a plan spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Wave => "wave",
        }
    }

    /// Whether hosts stay as they are, whatever happens. What a plan that does not mention it gets.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Refuses what a host cannot keep to.
pub(super) fn confirm_timeout(duration: Duration) -> Result<Duration, BadConfirmTimeout> {
    if duration.subsec_nanos() > 0 {
        return Err(BadConfirmTimeout::NotWhole);
    }
    if !CONFIRM_TIMEOUTS.contains(&duration) {
        return Err(BadConfirmTimeout::OutOfRange);
    }
    Ok(duration)
}

/// Reads how long a host shall wait to be confirmed, as a plan or a flag says it.
pub fn parse_confirm_timeout(text: &str) -> Result<Duration, BadConfirmTimeout> {
    confirm_timeout(humantime::parse_duration(text)?)
}

impl FromStr for Rollback {
    type Err = NotARollback;
    fn from_str(text: &str) -> Result<Self, NotARollback> {
        Self::ALL.into_iter().find(|way| way.as_str() == text).ok_or_else(|| NotARollback(text.to_owned()))
    }
}

impl fmt::Display for Rollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
