//! What a tool answers when it did not do what was asked: a code, what is wrong, and what to do next.

use miette::Diagnostic;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};

use crate::bus::BusError;
use crate::operator::FleetError;
use crate::operator::journal::JournalError;
use crate::operator::plan_file::PlanFileError;
use crate::operator::plan_file::SystemsFileError;
use crate::operator::prepare::{PreflightError, PrepareError};
use crate::plan::PlanErrors;
use crate::text::safe;

/// An error that the assistant can do something about. It is text only: clients that find structured content beside it do
/// not show the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolError {
    /// The kind of error, in snake case; the same kind always has the same code.
    pub code: &'static str,
    /// What is wrong, as a fragment without a full stop.
    pub what: String,
    pub next: Option<String>,
}

impl ToolError {
    pub fn new(code: &'static str, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), next: None }
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// An error of another module in its own words.
    pub fn told(code: &'static str, error: &dyn Diagnostic) -> Self {
        Self { code, what: error.to_string(), next: error.help().map(|help| help.to_string()) }
    }

    pub(super) fn broke_off() -> Self {
        Self::new("internal_error", "the tool panicked, which is a bug of homelab-deploy")
            .next("check with rollout_status what was done before you try again")
    }

    pub(super) fn into_response(self) -> CallToolResponse {
        CallToolResult::error(vec![ContentBlock::text(self.text())]).into()
    }

    pub fn text(&self) -> String {
        let lines = self.what.lines().map(safe).collect::<Vec<_>>().join("\n");
        match &self.next {
            Some(next) => format!("{}: {lines}. Next: {}.", self.code, safe(next)),
            None => format!("{}: {lines}", self.code),
        }
    }
}

impl From<BusError> for ToolError {
    /// Does not name the files of keys and certificates: an assistant need not know where they are.
    fn from(error: BusError) -> Self {
        let unusable = |code, what| {
            Self::new(code, what).next("ask the person who started this server to check the files that its flags name")
        };
        match &error {
            BusError::Unreachable(_) => Self::told("bus_unreachable", &error)
                .next("nothing was sent; check that nats-server runs, then call the tool again"),
            BusError::Refused { .. } => Self::told("key_refused", &error),
            BusError::SeedUnreadable(..) | BusError::NotAUserSeed(_) | BusError::SeedReadable(_) => {
                unusable("key_unusable", "the key that this tool connects with cannot be used")
            }
            BusError::TlsFile(..) | BusError::NotPem { .. } => {
                unusable("tls_unusable", "a file that the TLS connection needs cannot be read")
            }
            BusError::WithoutTls { .. } => {
                Self::new("tls_unusable", "TLS is required, and a server address does not use it")
                    .next("ask the person who started this server to check its flags")
            }
        }
    }
}

impl From<FleetError> for ToolError {
    fn from(error: FleetError) -> Self {
        match &error {
            FleetError::Refused(_) | FleetError::NotForTier { .. } | FleetError::OfListener => {
                Self::told("permission_denied", &error)
            }
            FleetError::Disconnected => Self::told("bus_unreachable", &error),
        }
    }
}

impl From<PrepareError> for ToolError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Plan(mistakes) => Self::from(mistakes),
            PrepareError::Selection(_) => Self::told("invalid_plan", &error),
            PrepareError::Fleet(error) => Self::from(error),
            PrepareError::Flake(_) => Self::told("flake_not_accepted", &error),
            PrepareError::Lookup(_) => Self::told("revision_not_found", &error),
            PrepareError::Nix(_) | PrepareError::NoFlake => Self::told("nix_failed", &error),
            PrepareError::TwoMachines(_) => Self::told("two_machines", &error),
        }
    }
}

impl From<PlanErrors> for ToolError {
    /// All mistakes at once, each with what to do about it.
    fn from(mistakes: PlanErrors) -> Self {
        let told = mistakes.iter().map(|mistake| match mistake.help() {
            Some(help) => format!("{mistake} ({help})"),
            None => mistake.to_string(),
        });
        Self::new("invalid_plan", told.collect::<Vec<_>>().join("; "))
    }
}

impl From<SystemsFileError> for ToolError {
    fn from(error: SystemsFileError) -> Self {
        Self::told("systems_unreadable", &error)
    }
}

impl From<PlanFileError> for ToolError {
    fn from(error: PlanFileError) -> Self {
        match error {
            PlanFileError::Mistakes(mistakes) => Self::from(mistakes),
            PlanFileError::Unreadable(..) | PlanFileError::TooLarge(_) => Self::told("plan_unreadable", &error),
        }
    }
}

impl From<PreflightError> for ToolError {
    fn from(error: PreflightError) -> Self {
        match &error {
            PreflightError::AnotherRollout(_) => Self::new("another_rollout", error.to_string())
                .next("nothing was sent; wait until it is over, then call again"),
            PreflightError::Downgrade { .. } => Self::new("downgrade", error.to_string())
                .next("nothing was sent; deploy a later commit, or call deploy with allow_downgrade: true or rollback where going back is meant"),
        }
    }
}

impl From<JournalError> for ToolError {
    fn from(error: JournalError) -> Self {
        match &error {
            JournalError::Unknown { .. } | JournalError::Ambiguous { .. } => Self::new("unknown_id", error.to_string())
                .next("rollout_status with list: true shows the rollouts on record"),
            JournalError::Io(..)
            | JournalError::Folder(_)
            | JournalError::Corrupt { .. }
            | JournalError::Running(_) => Self::told("journal_unusable", &error),
        }
    }
}
