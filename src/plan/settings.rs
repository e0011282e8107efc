//! The settings of a plan and its waves, besides names and hosts.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Spanned;
use super::value::{self, MAX_RETRIES, Parallel};
use crate::protocol::{Action, ParseError};
use crate::text::words;

/// The defaults of every wave. A wave that has the same key overrides it as a whole.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
#[expect(clippy::doc_markdown, reason = "the schema shows these comments to people as they are")]
pub struct Settings {
    /// What nixos-rebuild does on each host: switch to the new system now, boot it next time, test it until the next
    /// boot, or only show what it would do.
    #[schemars(with = "String", extend("enum" = Action::ALL))]
    pub action: Action,
    /// The most hosts in flight at the same time: a number, or a share of the wave such as "25%", rounded down, but at
    /// least one host.
    #[schemars(schema_with = "value::parallel_schema", extend("default" = "100%"))]
    pub max_parallel: Parallel,
    /// The wave fails once more hosts than this have failed. Then no further host is sent a request, and the hosts in
    /// flight are awaited. A host that did not complete has failed.
    pub max_failures: usize,
    /// With fewer hosts the plan is refused, and if fewer complete, the wave has failed. 0 allows an empty wave.
    pub min_hosts: usize,
    /// Whether a host that never answers is reported without counting as a failure. A host that began and fell silent
    /// always counts.
    pub ignore_unreachable: bool,
    /// How long a host may take to answer its request; after that it is unreachable. Shorter than `timeout`.
    #[schemars(schema_with = "value::timeout_schema", extend("default" = "15s"))]
    pub accept_timeout: Spanned<Duration>,
    /// How long a host may take from the request to its final response; after that it has timed out.
    #[schemars(schema_with = "value::timeout_schema", extend("default" = "30m"))]
    pub timeout: Spanned<Duration>,
    /// How long the hosts run the new system, from the end of the last one, before the wave counts as good. After the
    /// last wave only when it has a `check`.
    #[schemars(with = "String", regex(pattern = value::DURATION), extend("default" = "0s"))]
    pub bake_time: Duration,
    /// A program and its arguments, run after the bake on the machine of the operator, without a shell. An exit code
    /// other than 0 fails the wave. It finds HOMELAB_DEPLOY_ROLLOUT, HOMELAB_DEPLOY_WAVE, HOMELAB_DEPLOY_REVISION and
    /// HOMELAB_DEPLOY_HOSTS in its environment.
    #[schemars(schema_with = "value::command_schema")]
    pub check: Option<Vec<String>>,
    /// How long `check` may take; after that it is killed, and the wave has failed.
    #[schemars(schema_with = "value::timeout_schema", extend("default" = "1m"))]
    pub check_timeout: Duration,
    /// Whether to ask before the first host of the wave; only `yes` continues.
    pub confirm: bool,
    /// How often to send the request again to a host that was unreachable, or busy with another deployment. A failed
    /// deployment is never repeated.
    #[schemars(range(max = MAX_RETRIES))]
    pub retries: u32,
    /// How long to wait before the request is sent again.
    #[schemars(with = "String", regex(pattern = value::DURATION), extend("default" = "30s"))]
    pub retry_delay: Duration,
    /// When a host rolls back to what it ran before. "none": never; "auto": when its deployment fails, or when it
    /// cannot be reached after its activation; "wave": also when its wave fails, newest first. After `boot` no
    /// confirmation is awaited, and after `dry-activate` there is nothing to undo.
    // Like `confirm_timeout`, `None` if the plan does not set it; then the command line may.
    #[schemars(with = "String", extend("enum" = Rollback::ALL, "default" = Rollback::None))]
    pub rollback: Option<Spanned<Rollback>>,
    /// With `rollback`: how long a host may be out of reach after its activation, from 5 seconds to an hour. After that
    /// it rolls back.
    #[schemars(schema_with = "value::timeout_schema", extend("default" = "1m"))]
    pub confirm_timeout: Option<Duration>,
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

impl Rollback {
    /// All policies, from the weakest to the strongest.
    pub const ALL: [Self; 3] = [Self::None, Self::Auto, Self::Wave];

    /// Whether hosts never roll back, which is the default.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl FromStr for Rollback {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let policy = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        policy.ok_or_else(|| ParseError::new(text, "a rollback policy", "the policies are none, auto and wave"))
    }
}

words!(Rollback: None = "none", Auto = "auto", Wave = "wave");

impl Hook {
    pub const ALL: [Self; 3] = [Self::OnStart, Self::OnHalt, Self::OnFinish];
}

words!(Hook: OnStart = "on_start", OnHalt = "on_halt", OnFinish = "on_finish");
