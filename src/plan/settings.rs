//! What the keys of a plan say beside names and hosts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Spanned;
use crate::protocol::Action;

/// How long a host waits to be confirmed where nothing else is said.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a host may be told to wait. In less than the least, a host whose network restarts could not be heard again;
/// while it waits, nobody else can deploy to it.
const CONFIRM_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(1);

/// What `[defaults]` and a wave can both say; `schema` has the meaning of each key. The default is what holds where neither
/// says anything.
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
    /// `None` where the plan does not say, as is the next: then the command line may.
    pub rollback: Option<Spanned<Rollback>>,
    pub confirm_timeout: Option<Duration>,
}

/// The most hosts in flight at once, as the plan says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// So many hosts; at least 1.
    Hosts(usize),
    /// A share of the wave's hosts, 1 to 100.
    Percent(u8),
}

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

/// A program and its arguments for each moment that somebody may want to hear of; no shell reads them.
pub type Hooks = BTreeMap<Hook, Vec<String>>;

/// The moment that a program is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// The rollout begins or goes on.
    OnStart,
    /// A wave fails.
    OnHalt,
    /// The rollout is over, however it ended.
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
    /// How many hosts of a wave of `hosts` that is: never none, and never more than there are.
    pub fn of(self, hosts: usize) -> usize {
        let share = match self {
            Self::Hosts(count) => count.min(hosts),
            Self::Percent(percent) => hosts.saturating_mul(percent.into()) / 100,
        };
        share.max(1)
    }
}

impl Rollback {
    /// Every way, from the least to the most.
    pub const ALL: [Self; 3] = [Self::None, Self::Auto, Self::Wave];

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

impl Hook {
    pub const ALL: [Self; 3] = [Self::OnStart, Self::OnHalt, Self::OnFinish];

    /// The moment as a plan spells it.
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
