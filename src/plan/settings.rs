//! The settings of a plan and its waves, besides names and hosts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Spanned;
use crate::protocol::Action;

/// The default time that an activated host waits for its confirmation.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_mins(1);

/// The allowed range. A host whose network restarts needs the minimum to reconnect; while it waits, no operator can
/// deploy to it, hence the maximum.
const CONFIRM_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(1);

/// The settings that `[defaults]` and waves share; `schema` describes them. The default is for keys that neither sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub action: Action,
    pub max_parallel: Parallel,
    pub max_failures: usize,
    pub min_hosts: usize,
    pub ignore_unreachable: bool,
    pub accept_timeout: Spanned<Duration>,
    pub timeout: Spanned<Duration>,
    pub bake_time: Duration,
    pub check: Option<Vec<String>>,
    pub check_timeout: Duration,
    pub confirm: bool,
    pub retries: u32,
    pub retry_delay: Duration,
    /// Like `confirm_timeout`, `None` if the plan does not set it; then the command line may.
    pub rollback: Option<Spanned<Rollback>>,
    pub confirm_timeout: Option<Duration>,
}

/// The most hosts in flight at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// A number of hosts; at least 1.
    Hosts(usize),
    /// A percentage of the wave's hosts, 1 to 100.
    Percent(u8),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rollback {
    /// A host never rolls back.
    #[default]
    None,
    /// A host rolls back if its deployment fails, or if it is unreachable after its activation.
    Auto,
    /// A host rolls back as with `Auto`, and also if its wave fails.
    Wave,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a way to roll back: there are \"none\", \"auto\" and \"wave\"")]
pub struct NotARollback(String);

#[derive(Debug, Clone, PartialEq, Error)]
pub enum BadConfirmTimeout {
    #[error(transparent)]
    NoDuration(#[from] humantime::DurationError),
    /// Hosts count in whole seconds.
    #[error("it is not a whole number of seconds")]
    NotWhole,
    #[error("it is not between 5s and 1h")]
    OutOfRange,
}

/// The program and its arguments for each hook, run without a shell.
pub type Hooks = BTreeMap<Hook, Vec<String>>;

/// An event that runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// The rollout begins or is resumed.
    OnStart,
    /// A wave fails.
    OnHalt,
    /// The rollout ends, with any outcome.
    OnFinish,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            action: Action::Switch,
            max_parallel: Parallel::Percent(100),
            max_failures: 0,
            min_hosts: 1,
            ignore_unreachable: false,
            accept_timeout: Spanned::nowhere(Duration::from_secs(15)),
            timeout: Spanned::nowhere(Duration::from_mins(30)),
            bake_time: Duration::ZERO,
            check: None,
            check_timeout: Duration::from_mins(1),
            confirm: false,
            retries: 0,
            retry_delay: Duration::from_secs(30),
            rollback: None,
            confirm_timeout: None,
        }
    }
}

impl Parallel {
    /// Returns the number for a wave of `hosts` hosts: at least 1.
    pub fn of(self, hosts: usize) -> usize {
        let share = match self {
            Self::Hosts(count) => count.min(hosts),
            Self::Percent(percent) => hosts.saturating_mul(percent.into()) / 100,
        };
        share.max(1)
    }
}

impl Rollback {
    /// All policies, from the weakest to the strongest.
    pub const ALL: [Self; 3] = [Self::None, Self::Auto, Self::Wave];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Wave => "wave",
        }
    }

    /// Whether hosts never roll back, which is the default.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Refuses a timeout that is not whole seconds or out of range.
pub(super) fn confirm_timeout(duration: Duration) -> Result<Duration, BadConfirmTimeout> {
    if duration.subsec_nanos() > 0 {
        return Err(BadConfirmTimeout::NotWhole);
    }
    if !CONFIRM_TIMEOUTS.contains(&duration) {
        return Err(BadConfirmTimeout::OutOfRange);
    }
    Ok(duration)
}

/// Parses the confirm timeout in a plan or a flag.
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

impl Hook {
    pub const ALL: [Self; 3] = [Self::OnStart, Self::OnHalt, Self::OnFinish];

    /// Returns the key of the hook in a plan.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnStart => "on_start",
            Self::OnHalt => "on_halt",
            Self::OnFinish => "on_finish",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
