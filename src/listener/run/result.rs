//! How a run ended, as its supervisor and its unit note it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::listener::snapshot::SystemSnapshot;
use crate::protocol::{ErrorCode, Status};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    pub verdict: Verdict,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    /// What was so on the host at that time.
    pub after: SystemSnapshot,
    /// The last lines of the output, cleaned: the disk may have had no room for them.
    #[serde(default)]
    pub tail: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `completed` or `failed`.
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorCode>,
    pub message: String,
    /// Whether what was deployed takes effect only after a reboot; unknown where nothing can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_required: Option<bool>,
    /// The units that failed because of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_units: Vec<String>,
    /// Whether the host returned to what it ran before; `false` when it tried and could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<bool>,
}

/// How the unit of a run ended, in the words that systemd has for its `ExecStopPost=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitEnd {
    /// `$SERVICE_RESULT`: `success`, `signal`, `oom-kill` and so on.
    pub result: String,
    /// `$EXIT_CODE`: `exited`, `killed` or `dumped`.
    pub code: String,
    /// `$EXIT_STATUS`: the exit code, or the name of the signal.
    pub status: String,
}

impl Verdict {
    pub(in crate::listener) fn completed(message: String) -> Self {
        let (error, reboot_required, rolled_back) = (None, None, None);
        Self { status: Status::Completed, error, message, reboot_required, failed_units: Vec::new(), rolled_back }
    }

    /// The same, and something more to say of it.
    pub(in crate::listener) fn with(mut self, addition: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(addition);
        self
    }

    pub(in crate::listener) fn failed(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: Status::Failed, error: Some(error), ..Self::completed(message.into()) }
    }

    pub(in crate::listener) fn lost(why: String) -> Self {
        Self::failed(ErrorCode::Interrupted, why)
    }
}
