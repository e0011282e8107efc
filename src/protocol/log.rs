//! Messages that read the log of a run, one page at a time. A log request never runs anything.

use serde::{Deserialize, Serialize};

use super::ids::RequestId;
use super::reply_subject::ReplySubject;
use super::request::MAX_REQUEST_BYTES;
use super::text::{from_json, to_json};

/// The most bytes of a log in one page.
pub const MAX_PAGE_BYTES: usize = 32 * 1024;

/// A request, on a host's own subject, for a page of the log of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    pub log: LogPlace,
    /// The subject for the page, below the host's own prefix.
    pub reply_to: ReplySubject,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    pub id: RequestId,
    /// Bytes from the beginning of the log.
    #[serde(default)]
    pub offset: u64,
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

impl LogRequest {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_REQUEST_BYTES { None } else { from_json(bytes).ok() }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::Request;
    use crate::protocol::tests::text;

    #[test]
    fn golden_log() {
        let question = LogRequest {
            log: LogPlace { id: "r-1".parse().unwrap(), offset: 7 },
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
