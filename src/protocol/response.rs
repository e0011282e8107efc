//! Responses of hosts to requests, whose fields beyond the original ones are optional and left out when they are absent,
//! and pages of logs.

use std::convert::Infallible;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ids::RequestId;
use super::names::HostName;
use super::revision::Commit;
use super::text::{self, checked_text, clean_line, empty_is_none, from_json, to_json};
use crate::text::words;

pub const MAX_LOG_TAIL_LINES: usize = 60;

/// The fields by which a deployer judges a response, besides the phase.
const JUDGED_BY: [&str; 7] = ["hostname", "status", "error", "message", "id", "instance", "rolled_back"];

/// The most bytes of a log in a response.
pub const MAX_LOG_TAIL_BYTES: usize = 16 * 1024;

/// The most bytes of a log in one page.
pub const MAX_PAGE_BYTES: usize = 32 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Accepted,
    /// The request runs; repeated while it does.
    Started,
    /// The host does not run the request. Final.
    Rejected,
    /// The host did what was requested. Final.
    Completed,
    /// The host ran the request without success. Final.
    Failed,
}

impl Status {
    /// Whether no other status follows. Success is judged on final responses only.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Rejected | Self::Completed | Self::Failed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Resolve,
    Build,
    Activate,
    Verify,
    /// The host waits to be confirmed.
    Confirm,
    Return,
}

impl Phase {
    /// Returns what the host is doing, as a word for people.
    pub const fn doing(self) -> &'static str {
        match self {
            Self::Resolve => "resolving",
            Self::Build => "building",
            Self::Activate => "activating",
            Self::Verify => "verifying",
            Self::Confirm => "confirming",
            Self::Return => "returning",
        }
    }
}

/// The kind of failure or rejection in a response. Unknown codes are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The revision is impossible, or does not exist.
    InvalidRevision,
    InvalidAction,
    AlreadyRunning,
    /// Evaluation or build failed; nothing was activated.
    BuildFailed,
    /// The run took longer than the listener allows, and was ended.
    Timeout,
    ActivationFailed,
    InvalidRequest,
    /// The host read the request after its `expires_at`.
    Expired,
    /// The host rebooted, or the run was ended from outside.
    Interrupted,
    /// The run succeeded, but the host does not run what was built.
    VerifyFailed,
    /// Nobody confirmed in time that the host could still be reached, so it rolled back.
    NotConfirmed,
    /// The system belongs to another host; nothing was activated.
    WrongHost,
    /// No cache has all of the system; nothing was activated.
    NotAvailable,
    /// A signature or hash that the host demands is missing or wrong; nothing was activated.
    Untrusted,
    Other(String),
}

impl ErrorCode {
    const NAMES: [(Self, &'static str); 14] = [
        (Self::InvalidRevision, "invalid_revision"),
        (Self::InvalidAction, "invalid_action"),
        (Self::AlreadyRunning, "already_running"),
        (Self::BuildFailed, "build_failed"),
        (Self::Timeout, "timeout"),
        (Self::ActivationFailed, "activation_failed"),
        (Self::InvalidRequest, "invalid_request"),
        (Self::Expired, "expired"),
        (Self::Interrupted, "interrupted"),
        (Self::VerifyFailed, "verify_failed"),
        (Self::NotConfirmed, "not_confirmed"),
        (Self::WrongHost, "wrong_host"),
        (Self::NotAvailable, "not_available"),
        (Self::Untrusted, "untrusted"),
    ];

    /// Whether the host failed before it activated anything.
    pub const fn is_before_activation(&self) -> bool {
        use ErrorCode::{AlreadyRunning, Expired, InvalidAction, InvalidRequest, InvalidRevision};
        matches!(self, InvalidRevision | InvalidAction | InvalidRequest | AlreadyRunning | Expired)
            || matches!(self, Self::BuildFailed | Self::WrongHost | Self::NotAvailable | Self::Untrusted)
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(code) => code,
            known => Self::NAMES.iter().find(|(code, _)| code == known).map_or("", |(_, name)| *name),
        }
    }
}

impl FromStr for ErrorCode {
    type Err = Infallible;

    fn from_str(code: &str) -> Result<Self, Infallible> {
        let known = Self::NAMES.into_iter().find(|(_, name)| *name == code).map(|(known, _)| known);
        Ok(known.unwrap_or_else(|| Self::Other(clean_line(code))))
    }
}

checked_text!(ErrorCode);

words!(
    Status: Accepted = "accepted", Started = "started", Rejected = "rejected", Completed = "completed", Failed = "failed",
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyWith {
    /// The request's id, or its reply subject if it has none.
    #[serde(deserialize_with = "text::line")]
    pub id: String,
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub hostname: HostName,
    pub status: Status,
    #[serde(default, deserialize_with = "empty_is_none")]
    pub error: Option<ErrorCode>,
    /// The result in words.
    #[serde(default, deserialize_with = "text::text_or_null")]
    pub message: String,
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// The boot of the machine, which tells two machines with the same name apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// When the host sent it, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The phase of the run, on `started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_revision: Option<Commit>,
    /// The new generation of the system profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The store path of the system that was built.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether the deployed system takes effect only after a reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_required: Option<bool>,
    /// Whether the host rolled back; `false` if it tried and could not. `generation` and `system` are then those that
    /// run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<bool>,
    #[serde(default, deserialize_with = "text::lines", skip_serializing_if = "Vec::is_empty")]
    pub failed_units: Vec<String>,
    /// The last lines of the log, on `failed`: at most [`MAX_LOG_TAIL_LINES`] and [`MAX_LOG_TAIL_BYTES`].
    #[serde(default, deserialize_with = "text::lines", skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// What keeps the host busy, on `rejected` with `already_running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Box<BusyWith>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAnswer {
    pub log: LogPage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    pub id: RequestId,
    /// Where the page begins: later than requested if the host no longer has that part.
    pub offset: u64,
    /// The text as the run wrote it. Clean it before a terminal shows it.
    pub data: String,
    pub next: u64,
    /// Whether the run has ended and this is its last page.
    pub end: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NoLog>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoLog {
    UnknownRun,
    /// The host knows the run but has no log of it.
    NotKept,
}

impl Response {
    pub fn new(hostname: HostName, status: Status, message: impl Into<String>) -> Self {
        Self {
            hostname,
            status,
            message: message.into(),
            error: None,
            id: None,
            instance: None,
            at: None,
            phase: None,
            revision: None,
            previous_revision: None,
            generation: None,
            system: None,
            reboot_required: None,
            rolled_back: None,
            failed_units: Vec::new(),
            log_tail: Vec::new(),
            holder: None,
        }
    }

    /// Parses a response; unknown fields are ignored. If an optional field is unreadable, as of another version, only the fields
    /// are kept by which a deployer judges: neither the outcome of the run nor the wait for a confirmation must be lost.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        from_json(bytes).or_else(|error| {
            let mut fields: Map<String, Value> = from_json(bytes)?;
            fields.retain(|name, value| match name.as_str() {
                "phase" => Phase::deserialize(&*value).is_ok(),
                name => JUDGED_BY.contains(&name),
            });
            from_json(&to_json(&fields)).map_err(|_: serde_json::Error| error)
        })
    }

    /// Returns JSON of at most `max_bytes`: first the oldest log lines are dropped, then failed units and the end of
    /// the message. What a deployer judges by is never cut.
    pub fn to_bytes(&self, max_bytes: usize) -> Vec<u8> {
        let mut fitting = self.clone();
        fitting.log_tail = bounded_tail(&self.log_tail);
        let mut bytes = to_json(&fitting);
        while bytes.len() > max_bytes && !fitting.log_tail.is_empty() {
            let half = fitting.log_tail.len().div_ceil(2);
            fitting.log_tail.drain(..half);
            bytes = to_json(&fitting);
        }
        while bytes.len() > max_bytes && !(fitting.message.is_empty() && fitting.failed_units.is_empty()) {
            fitting.failed_units.clear();
            let keep = fitting.message.floor_char_boundary(fitting.message.len() / 2);
            fitting.message.truncate(keep);
            bytes = to_json(&fitting);
        }
        bytes
    }
}

impl LogAnswer {
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        from_json(bytes)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// Returns the last lines that fit the bounds of a log tail.
pub fn bounded_tail(lines: &[String]) -> Vec<String> {
    let mut bytes = 0;
    let kept = lines.iter().rev().take(MAX_LOG_TAIL_LINES).take_while(|line| {
        bytes += line.len() + 1;
        bytes <= MAX_LOG_TAIL_BYTES
    });
    let mut tail: Vec<String> = kept.cloned().collect();
    tail.reverse();
    tail
}
