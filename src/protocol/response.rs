//! What a host says about a request. Fields after the original ones are optional, and left out when they are absent.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ids::RequestId;
use super::names::HostName;
use super::revision::Commit;
use super::text::{self, checked_text, clean_line, empty_is_none, from_json, to_json};

pub const MAX_LOG_TAIL_LINES: usize = 60;

/// The fields that cannot be done without where they are there.
const JUDGED_BY: [&str; 7] = ["hostname", "status", "error", "message", "id", "instance", "rolled_back"];

/// The most bytes of a log that a response carries.
pub const MAX_LOG_TAIL_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Accepted,
    /// It runs. Repeated while it does.
    Started,
    /// The host will not run it. Final.
    Rejected,
    /// It ran and did what was asked. Final.
    Completed,
    /// It ran and did not do what was asked. Final.
    Failed,
}

impl Status {
    /// Whether nothing comes after it. Success is judged on final responses only.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Rejected | Self::Completed | Self::Failed)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Started => "started",
            Self::Rejected => "rejected",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Resolve,
    Build,
    Activate,
    Verify,
    /// Waiting to be told that it was heard from.
    Confirm,
    Return,
}

impl Phase {
    /// What the host is doing, as a word for people.
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

/// What kind of failure or refusal a response reports. Codes that are not known here are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The revision is impossible, or does not exist.
    InvalidRevision,
    InvalidAction,
    AlreadyRunning,
    /// Evaluation or build failed; nothing was activated.
    BuildFailed,
    /// It took longer than the listener allows, and was ended.
    Timeout,
    ActivationFailed,
    InvalidRequest,
    /// The request was older than its sender wanted it to become.
    Expired,
    /// The host rebooted or the run was ended from outside.
    Interrupted,
    /// It ended well, and the host does not run what was built.
    VerifyFailed,
    /// Nobody confirmed in time that the host could still be reached, so it returned to what it ran before.
    NotConfirmed,
    /// The system is that of another host; nothing was activated.
    WrongHost,
    /// No cache has all of the system; nothing was activated.
    NotAvailable,
    /// A signature or a hash that the host demands is missing or wrong; nothing was activated.
    Untrusted,
    Other(String),
}

impl ErrorCode {
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidRevision => "invalid_revision",
            Self::InvalidAction => "invalid_action",
            Self::AlreadyRunning => "already_running",
            Self::BuildFailed => "build_failed",
            Self::Timeout => "timeout",
            Self::ActivationFailed => "activation_failed",
            Self::InvalidRequest => "invalid_request",
            Self::Expired => "expired",
            Self::Interrupted => "interrupted",
            Self::VerifyFailed => "verify_failed",
            Self::NotConfirmed => "not_confirmed",
            Self::WrongHost => "wrong_host",
            Self::NotAvailable => "not_available",
            Self::Untrusted => "untrusted",
            Self::Other(code) => code,
        }
    }
}

impl FromStr for ErrorCode {
    type Err = Infallible;

    fn from_str(code: &str) -> Result<Self, Infallible> {
        let known = [
            Self::InvalidRevision,
            Self::InvalidAction,
            Self::AlreadyRunning,
            Self::BuildFailed,
            Self::Timeout,
            Self::ActivationFailed,
            Self::InvalidRequest,
            Self::Expired,
            Self::Interrupted,
            Self::VerifyFailed,
            Self::NotConfirmed,
            Self::WrongHost,
            Self::NotAvailable,
            Self::Untrusted,
        ];
        Ok(known.into_iter().find(|known| known.as_str() == code).unwrap_or_else(|| Self::Other(clean_line(code))))
    }
}

checked_text!(ErrorCode);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyWith {
    /// Its id, or its reply subject when it has none.
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
    /// The same in words.
    #[serde(default, deserialize_with = "text::text_or_null")]
    pub message: String,
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// The boot of the machine that says it: tells two machines apart that go by the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// When the host said it, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What the run is at; on `started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_revision: Option<Commit>,
    /// The generation of the system profile that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The store path of the system that was built.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether what was deployed takes effect only after a reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_required: Option<bool>,
    /// Whether the host returned to what it ran before; `false` when it tried and could not. `generation` and `system`
    /// are then what it runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<bool>,
    #[serde(default, deserialize_with = "text::lines", skip_serializing_if = "Vec::is_empty")]
    pub failed_units: Vec<String>,
    /// The last lines of the log, on `failed`: at most [`MAX_LOG_TAIL_LINES`] and [`MAX_LOG_TAIL_BYTES`].
    #[serde(default, deserialize_with = "text::lines", skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// What the host is busy with, on `rejected` with `already_running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Box<BusyWith>>,
}

impl Response {
    /// A response without any of the optional parts.
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

    /// Reads a response; fields that are not known are ignored. Where another version spells one of the optional parts in a way that
    /// is not known here, only what a deployer judges by is read: how a run ended is not lost over that.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        from_json(bytes).or_else(|error| {
            let mut fields: Map<String, Value> = from_json(bytes)?;
            fields.retain(|name, _| JUDGED_BY.contains(&name.as_str()));
            from_json(&to_json(&fields)).map_err(|_: serde_json::Error| error)
        })
    }

    /// The message as JSON of at most `max_bytes`: first the oldest lines of the log go, then all but the beginning of
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

/// The last lines that together keep within the bounds of a log tail.
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
