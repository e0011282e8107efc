//! Requests of deployers to hosts: deployments, whose fields beyond the original ones are optional and left out when they
//! are absent, and pages of logs.

use std::ops::Not;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::ids::RequestId;
use super::names::{Action, HostName, Tier};
use super::reply_subject::ReplySubject;
use super::response::ErrorCode;
use super::revision::{Revision, SystemPath};
use super::text::{ParseError, clean_line, from_json, to_json};

/// The largest request that a listener reads, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// How long a host may take to roll back. A rollback evaluates and builds nothing.
pub const ROLLBACK_WITHIN: Duration = Duration::from_mins(5);

/// A request to all subscribed hosts to deploy a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    pub action: Action,
    /// The revision to deploy; with a `system` it is only that system's name.
    pub revision: Revision,
    pub reply_to: ReplySubject,
    /// A listener never runs the same id twice. Without an id, `reply_to` is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// A listener that reads the request later rejects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The operator as `user@machine`, for logs and for responses to others while the host is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,
    /// How long, in seconds, a host waits after its activation to be confirmed. If it is not confirmed, or if the
    /// activation fails, it rolls back. Without this field it stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_timeout_s: Option<u64>,
    /// Confirms that the host was heard after its activation and must not roll back; the rest repeats the request.
    /// Never a reason to run anything.
    #[serde(skip_serializing_if = "Not::not")]
    pub confirmed: bool,
    /// Asks for a rollback instead of a deployment: to what ran before the run of this id, the host's last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns: Option<RequestId>,
    /// Several hosts hear this request, whose `reply_to` is `deploy.responses.<rollout>`. Each answers on
    /// `deploy.responses.<tier>.<host>.<rollout>.<id>`; a listener that does not know this field answers on `reply_to`.
    #[serde(skip_serializing_if = "Not::not")]
    pub per_host: bool,
    /// The system to deploy, which was built elsewhere: the host fetches it, and evaluates and builds nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemPath>,
}

/// A request, on a host's own subject, for a page of the log of a run. It never runs anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    pub log: LogPosition,
    /// The subject for the page, below the host's own prefix.
    pub reply_to: ReplySubject,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    pub id: RequestId,
    /// Bytes from the beginning of the log.
    #[serde(default)]
    pub offset: u64,
}

/// The reason why a message on a deploy subject is not a request that can be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadRequest {
    /// There is no acceptable subject for a response, so the message is logged and dropped.
    #[error("{0}")]
    Unanswerable(String),
    /// The listener responds with this error.
    #[error("{message}")]
    Rejected {
        reply_to: ReplySubject,
        id: Option<RequestId>,
        /// Whether each host that hears the request answers on its own subject.
        per_host: bool,
        error: ErrorCode,
        message: String,
    },
}

impl Request {
    /// Creates a request with only the original fields.
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
            system: None,
        }
    }

    /// Parses a request as tolerantly as is safe: unknown fields are ignored, but `reply_to` must be valid.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRequest> {
        if bytes.len() > MAX_REQUEST_BYTES {
            // To read it is the work that the bound saves, so there is no reply subject to tell the sender on.
            let message = format!("a request of {} bytes is over the bound of {MAX_REQUEST_BYTES}", bytes.len());
            return Err(BadRequest::Unanswerable(message));
        }
        let fields = serde_json::from_slice(bytes).map(Fields);
        let fields = fields
            .map_err(|e| BadRequest::Unanswerable(clean_line(&format!("the request is not a JSON object: {e}"))))?;
        if fields.0.contains_key("log") {
            return Err(BadRequest::Unanswerable("a question for a log is no request".to_owned()));
        }
        let reply_to = match fields.text("reply_to") {
            "" => return Err(BadRequest::Unanswerable("the request has no reply_to".to_owned())),
            text => text.parse::<ReplySubject>(),
        };
        let reply_to = reply_to.map_err(|e| BadRequest::Unanswerable(format!("reply_to is refused: {e}")))?;

        let (per_host, confirmed) = (fields.flag("per_host"), fields.flag("confirmed"));
        let id = fields.filled::<RequestId>("id");
        let known_id = id.clone().unwrap_or_default();
        let reject = |error, message: String| BadRequest::Rejected {
            reply_to: reply_to.clone(),
            id: known_id.clone(),
            per_host: per_host == Some(true),
            error,
            message,
        };
        let invalid = |message: String| reject(ErrorCode::InvalidRequest, message);
        let id = id.map_err(|e| invalid(e.to_string()))?;
        let (Some(per_host), Some(confirmed)) = (per_host, confirmed) else {
            return Err(invalid("per_host and confirmed are true or false".to_owned()));
        };
        let action = match fields.text("action") {
            fetch if fetch == Action::Fetch.as_str() => Action::Fetch,
            other => other.parse().map_err(|e: ParseError| reject(ErrorCode::InvalidAction, e.to_string()))?,
        };
        let revision = fields.text("revision").parse::<Revision>();
        let revision = revision.map_err(|e| reject(ErrorCode::InvalidRevision, e.to_string()))?;
        let expires_at = fields.filled::<Timestamp>("expires_at");
        let expires_at =
            expires_at.map_err(|_| invalid("expires_at is not a time like 2026-11-23T10:00:00Z".to_owned()))?;
        let seconds = fields.get("confirm_timeout_s").map(|value| value.as_u64().filter(|&seconds| seconds > 0));
        if seconds == Some(None) {
            return Err(invalid("confirm_timeout_s is not a number of seconds above 0".to_owned()));
        }
        let returns = fields.parsed::<RequestId>("returns").map_err(|e| invalid(format!("returns: {e}")))?;
        // An unreadable system must not lead to an evaluation.
        let system = fields.parsed::<SystemPath>("system").map_err(|e| invalid(format!("system: {e}")))?;
        if action == Action::Fetch && system.is_none() {
            return Err(invalid("there is no system to fetch".to_owned()));
        }
        Ok(Self {
            id,
            expires_at,
            operator: fields.line("operator"),
            rollout: fields.line("rollout"),
            wave: fields.line("wave"),
            confirm_timeout_s: seconds.flatten(),
            confirmed,
            returns,
            per_host,
            system,
            ..Self::new(action, revision, reply_to)
        })
    }

    /// Returns what identifies repeated deliveries of one request: the id, or the reply subject if there is none.
    pub fn key(&self) -> &str {
        self.id.as_ref().map_or(self.reply_to.as_str(), RequestId::as_str)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Returns the request with the subject on which this host answers: `reply_to`, or for a shared request a subject of
    /// its own, below which no other host may publish.
    #[must_use]
    pub fn answered_by(mut self, tier: Tier, host: &HostName) -> Self {
        let shared = self.id.as_ref().filter(|_| self.per_host);
        if let Some(own) = shared.and_then(|id| self.reply_to.shared_answer_of(tier, host, id)) {
            self.reply_to = own;
        }
        self
    }
}

impl BadRequest {
    /// Returns the same error with this host's reply subject, as in [`Request::answered_by`].
    #[must_use]
    pub fn answered_by(mut self, tier: Tier, host: &HostName) -> Self {
        if let Self::Rejected { reply_to, id: Some(id), per_host: true, .. } = &mut self
            && let Some(own) = reply_to.shared_answer_of(tier, host, id)
        {
            *reply_to = own;
        }
        self
    }
}

impl LogRequest {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_REQUEST_BYTES { None } else { from_json(bytes).ok() }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// The fields of a request. One that is null counts as absent. One that cannot be read does not: the request must not
/// run as if it were.
struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Returns a text; an empty one if the field is absent or has another type.
    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns a text for people, if it says anything.
    fn line(&self, key: &str) -> Option<String> {
        Some(clean_line(self.text(key))).filter(|line| !line.is_empty())
    }

    fn parsed<T: FromStr>(&self, key: &str) -> Result<Option<T>, T::Err> {
        self.get(key).map(|_| self.text(key).parse()).transpose()
    }

    /// Parses a field that other programs write as `""` when it is absent.
    fn filled<T: FromStr>(&self, key: &str) -> Result<Option<T>, T::Err> {
        if self.get(key).and_then(Value::as_str) == Some("") { Ok(None) } else { self.parsed(key) }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map_or(Some(false), Value::as_bool)
    }
}

/// Whether this is the acknowledgement of a `JetStream` stream to a publisher: `{"stream": …, "seq": …}`. It goes to
/// the reply subject of the stored message, where answers and requests arrive, and is neither.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::protocol::tests::text;
    use crate::protocol::{LogAnswer, LogPage};

    #[test]
    fn golden_log() {
        let question = LogRequest {
            log: LogPosition { id: "r-1".parse().unwrap(), offset: 7 },
            reply_to: "deploy.responses.prod.ns1.4f.1".parse().unwrap(),
        };
        insta::assert_snapshot!(text(&question.to_bytes()), @r#"{"log":{"id":"r-1","offset":7},"reply_to":"deploy.responses.prod.ns1.4f.1"}"#);
        assert_eq!(LogRequest::parse(&question.to_bytes()), Some(question));
        let id = "r-1".parse().unwrap();
        let page = LogPage { id, offset: 7, data: "built\n".to_owned(), next: 13, end: true, error: None };
        let answer = LogAnswer { log: page };
        insta::assert_snapshot!(text(&answer.to_bytes()), @r#"{"log":{"id":"r-1","offset":7,"data":"built\n","next":13,"end":true}}"#);
        assert_eq!(LogAnswer::parse(&answer.to_bytes()).unwrap(), answer);
    }

    proptest! {
        /// A log request never parses as a deployment request, whatever its other fields are.
        #[test]
        fn a_question_for_a_log_is_never_a_request(log in 0_usize..5, confirmed: bool, returns: bool, per_host: bool) {
            let log = [json!({"id": "r-1", "offset": 0}), Value::Null, json!("r-1"), json!(false), json!([])][log].clone();
            let mut message = json!({
                "action": "switch", "revision": "main", "id": "r-1", "reply_to": "deploy.responses.prod.ns1.4f.1",
                "confirmed": confirmed, "per_host": per_host, "log": log,
            });
            if returns {
                message["returns"] = json!("r-0");
            }
            prop_assert!(Request::parse(message.to_string().as_bytes()).is_err());
            message.as_object_mut().unwrap().remove("log");
            prop_assert!(Request::parse(message.to_string().as_bytes()).is_ok());
        }
    }
}
