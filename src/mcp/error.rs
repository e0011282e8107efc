//! What a tool says when it did not do what was asked: a code, a sentence, and what to do next.

use miette::Diagnostic;
use rmcp::ErrorData;
use rmcp::handler::server::tool::IntoCallToolResult;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};

use super::policy::RevisionNotAllowed;
use crate::bus::BusError;
use crate::operator::FleetError;
use crate::text::safe;

/// An error that the assistant is told, and can do something about.
///
/// It is text only: clients that find structured content beside it do not show the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolError {
    /// What kind of error it is, in snake case; the same kind always has the same code.
    pub code: &'static str,
    /// What is wrong: a fragment without a full stop, as errors are elsewhere.
    pub what: String,
    /// What to do next.
    pub next: Option<String>,
}

impl ToolError {
    /// An error without advice.
    pub fn new(code: &'static str, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), next: None }
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// An error of another module in its own words.
    pub fn told(code: &'static str, error: &dyn Diagnostic) -> Self {
        Self { code, what: error.to_string(), next: error.help().map(|help| help.to_string()) }
    }

    /// The whole of it, as the assistant reads it.
    pub fn text(&self) -> String {
        let lines = self.what.lines().map(safe).collect::<Vec<_>>().join("\n");
        match &self.next {
            Some(next) => format!("{}: {lines}. Next: {}.", self.code, safe(next)),
            None => format!("{}: {lines}", self.code),
        }
    }
}

impl From<BusError> for ToolError {
    /// The files of keys and certificates are not named: where they are is nothing for an assistant to know.
    fn from(error: BusError) -> Self {
        match &error {
            BusError::Unreachable(_) => Self::told("bus_unreachable", &error)
                .next("nothing was sent; check that nats-server runs, then call the tool again"),
            BusError::Refused { .. } => Self::told("key_refused", &error),
            BusError::SeedUnreadable(..) | BusError::NotAUserSeed(_) | BusError::SeedReadable(_) => {
                Self::new("key_unusable", "the key that this tool connects with cannot be used")
                    .next("ask whoever started this server to check the files that its flags name")
            }
            BusError::TlsFile(..) => Self::new("tls_unusable", "a file that the TLS connection needs cannot be read")
                .next("ask whoever started this server to check the files that its flags name"),
        }
    }
}

impl From<RevisionNotAllowed> for ToolError {
    fn from(refused: RevisionNotAllowed) -> Self {
        Self::new("revision_not_allowed", refused.to_string())
            .next("nothing was done; choose one that is allowed, or ask whoever started this server for --allow-ref")
    }
}

impl From<FleetError> for ToolError {
    fn from(error: FleetError) -> Self {
        match &error {
            FleetError::Refused(_) => Self::told("permission_denied", &error),
            FleetError::Disconnected => Self::told("bus_unreachable", &error),
        }
    }
}

impl IntoCallToolResult for ToolError {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        Ok(CallToolResult::error(vec![ContentBlock::text(self.text())]).into())
    }
}
