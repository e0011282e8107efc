//! The messages. Fields after the original ones are optional in both directions, and left out when they are absent.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::ids::RequestId;
use super::names::{Action, HostName, Tier};
use super::revision::{Commit, Revision};
use super::subject::ReplySubject;
use super::text::{self, checked_text, clean_line};

/// The largest request that a listener reads, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Most messages are shorter than this, in bytes.
const USUAL_BYTES: usize = 512;

/// The most lines of a log that a response carries.
pub const MAX_LOG_TAIL_LINES: usize = 60;

/// The most bytes of a log that a response carries.
pub const MAX_LOG_TAIL_BYTES: usize = 16 * 1024;

/// The longest that a host may take to return to what it ran before. Nothing is evaluated or built for that.
pub const RETURN_WITHIN: Duration = Duration::from_mins(5);

/// Asks the hosts that hear it to deploy a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What `nixos-rebuild` shall do.
    pub action: Action,
    /// What to deploy.
    pub revision: Revision,
    /// Where the answers go.
    pub reply_to: ReplySubject,
    /// The same id is never run twice. Without one, `reply_to` is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// A listener that reads the request later than this refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who asks, as `user@machine`; for logs and for telling others who is at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The name of the rollout that this request is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// The name of the wave that this request is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,
    /// A host that has activated what was asked for waits this long, in seconds, to be told that it was heard from
    /// again; then, and when the activation fails, it returns to what it ran before. Absent: it stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_timeout_s: Option<u64>,
    /// The same request once more, to say that the host was heard from after its activation and shall stay as it is.
    /// Never a reason to run anything.
    #[serde(skip_serializing_if = "is_false")]
    pub confirmed: bool,
    /// Instead of a deployment: return to what ran before the run of this id, which must be the host's last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns: Option<RequestId>,
    /// Several hosts hear this request, whose `reply_to` is `deploy.responses.<rollout>`. Each answers on
    /// `deploy.responses.<tier>.<host>.<rollout>.<id>`; a listener that does not know this field answers on `reply_to`.
    #[serde(skip_serializing_if = "is_false")]
    pub per_host: bool,
}

/// Why a message on a deploy subject is not a request that could be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadRequest {
    /// Nobody can be told: there is no acceptable place to answer to. It is logged and dropped.
    #[error("{0}")]
    Unanswerable(String),
    /// The sender is told.
    #[error("{message}")]
    Rejected {
        /// Where to.
        reply_to: ReplySubject,
        /// The id of the request, when it had one.
        id: Option<RequestId>,
        /// Whether each host that hears the request answers on a subject of its own.
        per_host: bool,
        /// What kind of mistake it is.
        error: ErrorCode,
        /// What is wrong, in words.
        message: String,
    },
}

impl Request {
    /// A request of which nothing but the original fields is given.
    pub const fn new(action: Action, revision: Revision, reply_to: ReplySubject) -> Self {
        Self {
            action,
            revision,
            reply_to,
            id: None,
            expires_at: None,
            operator: None,
            rollout: None,
            wave: None,
            confirm_timeout_s: None,
            confirmed: false,
            returns: None,
            per_host: false,
        }
    }

    /// Reads a request as tolerantly as is safe: unknown fields are ignored, `reply_to` is not negotiable.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRequest> {
        if bytes.len() > MAX_REQUEST_BYTES {
            // Reading it to find out whom to tell is the very work that the bound is there to spare.
            let message = format!("a request of {} bytes is over the bound of {MAX_REQUEST_BYTES}", bytes.len());
            return Err(BadRequest::Unanswerable(message));
        }
        let fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|e| BadRequest::Unanswerable(clean_line(&format!("the request is not a JSON object: {e}"))))?;
        let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let line = |key: &str| text(key).map(clean_line).filter(|line| !line.is_empty());
        let reply_to = text("reply_to")
            .ok_or_else(|| BadRequest::Unanswerable("the request has no reply_to".to_owned()))?
            .parse::<ReplySubject>()
            .map_err(|e| BadRequest::Unanswerable(format!("reply_to is refused: {e}")))?;

        let id = text("id").map(str::parse::<RequestId>);
        let known_id = id.clone().and_then(Result::ok);
        let per_host = fields.get("per_host") == Some(&Value::Bool(true));
        let reject = |error, message: String| BadRequest::Rejected {
            reply_to: reply_to.clone(),
            id: known_id.clone(),
            per_host,
            error,
            message,
        };
        if let Some(Err(e)) = id {
            return Err(reject(ErrorCode::InvalidRequest, e.to_string()));
        }
        let action = text("action")
            .unwrap_or_default()
            .parse::<Action>()
            .map_err(|e| reject(ErrorCode::InvalidAction, e.to_string()))?;
        let revision = text("revision")
            .unwrap_or_default()
            .parse::<Revision>()
            .map_err(|e| reject(ErrorCode::InvalidRevision, e.to_string()))?;
        let expires_at = text("expires_at").map(str::parse::<Timestamp>).transpose().map_err(|_| {
            reject(ErrorCode::InvalidRequest, "expires_at is not a time like 2026-11-23T10:00:00Z".to_owned())
        })?;
        let confirm_timeout_s = fields.get("confirm_timeout_s").filter(|value| !value.is_null());
        let confirm_timeout_s = confirm_timeout_s.map(|value| value.as_u64().filter(|&seconds| seconds > 0));
        let confirm_timeout_s = confirm_timeout_s
            .map(|seconds| seconds.ok_or_else(|| "confirm_timeout_s is not a number of seconds above 0".to_owned()))
            .transpose()
            .map_err(|message| reject(ErrorCode::InvalidRequest, message))?;
        let returns = text("returns")
            .map(str::parse::<RequestId>)
            .transpose()
            .map_err(|e| reject(ErrorCode::InvalidRequest, format!("returns: {e}")))?;
        Ok(Self {
            id: known_id,
            expires_at,
            operator: line("operator"),
            rollout: line("rollout"),
            wave: line("wave"),
            confirm_timeout_s,
            confirmed: fields.get("confirmed") == Some(&Value::Bool(true)),
            returns,
            per_host,
            ..Self::new(action, revision, reply_to)
        })
    }

    /// What makes two deliveries the same request: the id, or the reply subject of a sender that knows no ids.
    pub fn key(&self) -> &str {
        self.id.as_ref().map_or(self.reply_to.as_str(), RequestId::as_str)
    }

    /// The message as JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Where this host answers: on `reply_to`, or, where several hosts hear the request, on a subject of its own below which
    /// no other host may publish.
    pub fn reply_subject(&self, tier: Tier, host: &HostName) -> ReplySubject {
        reply_subject(&self.reply_to, self.id.as_ref().filter(|_| self.per_host), tier, host)
    }
}

impl BadRequest {
    /// The same with the place where this host answers, as in [`Request::reply_subject`].
    #[must_use]
    pub fn answered_by(self, tier: Tier, host: &HostName) -> Self {
        match self {
            Self::Rejected { reply_to, id, per_host, error, message } => {
                let reply_to = reply_subject(&reply_to, id.as_ref().filter(|_| per_host), tier, host);
                Self::Rejected { reply_to, id, per_host, error, message }
            }
            Self::Unanswerable(why) => Self::Unanswerable(why),
        }
    }
}

/// Where a host answers; `shared` is the id of a request that several hosts hear.
fn reply_subject(reply_to: &ReplySubject, shared: Option<&RequestId>, tier: Tier, host: &HostName) -> ReplySubject {
    shared.and_then(|id| reply_to.of_one_host(tier, host, id)).unwrap_or_else(|| reply_to.clone())
}

/// Whether this is what a `JetStream` stream says to whoever published: `{"stream": …, "seq": …}`. It goes to the reply
/// subject of what the stream has stored, so it arrives where answers and requests do, and is neither.
pub fn is_acknowledgement(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Acknowledgement {
        #[serde(rename = "stream")]
        _stream: String,
        #[serde(rename = "seq")]
        _seq: u64,
    }
    bytes.len() <= MAX_REQUEST_BYTES && serde_json::from_slice::<Acknowledgement>(bytes).is_ok()
}

/// How far a host is with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The host will run it.
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

    /// The status as the wire spells it.
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

/// What a running deployment is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Finding the commit.
    Resolve,
    /// Evaluating and building.
    Build,
    /// Activating what was built.
    Activate,
    /// Checking what runs now.
    Verify,
    /// Waiting to be told that it was heard from.
    Confirm,
    /// Returning to what ran before.
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
    /// The action is none of [`Action`].
    InvalidAction,
    /// The host is busy with another request.
    AlreadyRunning,
    /// Evaluation or build failed; nothing was activated.
    BuildFailed,
    /// It took longer than the listener allows, and was ended.
    Timeout,
    /// It was built, and activating it failed.
    ActivationFailed,
    /// The request cannot be understood.
    InvalidRequest,
    /// The request was older than its sender wanted it to become.
    Expired,
    /// The host rebooted or the run was ended from outside.
    Interrupted,
    /// It ended well, and the host does not run what was built.
    VerifyFailed,
    /// Nobody confirmed in time that the host could still be reached, so it returned to what it ran before.
    NotConfirmed,
    /// A code of another version.
    Other(String),
}

impl ErrorCode {
    /// The code as the wire spells it.
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

/// The request that keeps a host busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its id, or its reply subject when it has none.
    #[serde(deserialize_with = "text::line")]
    pub id: String,
    /// Who asked for it.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Since when the host is at it.
    pub since: Timestamp,
}

/// What one host says about one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Who says it.
    pub hostname: HostName,
    /// How far it is.
    pub status: Status,
    /// What kind of failure or refusal it is.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub error: Option<ErrorCode>,
    /// The same in words.
    #[serde(default, deserialize_with = "text::text_or_null")]
    pub message: String,
    /// The id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// The commit that was deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    /// The commit that ran before.
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
    /// The units that failed because of this run.
    #[serde(default, deserialize_with = "text::lines", skip_serializing_if = "Vec::is_empty")]
    pub failed_units: Vec<String>,
    /// The last lines of the log, on `failed`: at most [`MAX_LOG_TAIL_LINES`] and [`MAX_LOG_TAIL_BYTES`].
    #[serde(default, deserialize_with = "text::lines", skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// What the host is busy with, on `rejected` with `already_running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Box<Holder>>,
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

    /// Reads a response; fields that are not known are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        from_json(bytes)
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

/// Reads a message. The text is checked once as a whole, as serde would otherwise check each string in it by itself.
pub(super) fn from_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, serde_json::Error> {
    let read = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        // What is wrong may be in a field that nobody reads.
        Err(_) => serde_json::from_slice(bytes),
    };
    // What is wrong is told with the words of the message.
    read.map_err(|error| serde::de::Error::custom(clean_line(&error.to_string())))
}

pub(super) fn to_json(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut bytes, message)
        .expect("messages have string keys only, so serializing one to memory cannot fail");
    bytes
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(super) const fn is_false(value: &bool) -> bool {
    !*value
}

/// Other programs write an absent text as `""`.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse()).transpose().map_err(serde::de::Error::custom)
}

#[cfg(test)]
pub(super) mod tests;
