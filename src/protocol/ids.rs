//! Ids of rollouts and requests.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::names::HostName;
use super::subject::Subject;
use super::text::{ParseError, text_type};
use crate::text::all_bytes;

/// The longest request id that is accepted, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// The id of a request. A listener never runs two requests with the same id.
///
/// Other programs may choose any visible ASCII text of at most [`MAX_ID_BYTES`]; ours are UUIDs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);

/// The id of a rollout: it names the journal, the presence on the bus and the reply subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolloutId(Uuid);

/// Derives the request ids of one rollout.
///
/// They follow from a secret of the rollout, the host and the attempt, so that a resumed rollout repeats a request
/// under the same id even when the record of it was lost. A host sees its own reply subject; the secret keeps it from
/// guessing that of another host and answering in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestIds {
    secret: Uuid,
}

impl RequestIds {
    /// Creates the ids that follow from this secret, which is random and never published.
    pub const fn new(secret: Uuid) -> Self {
        Self { secret }
    }

    /// Returns the id of a deployment request to this host; attempts count from 1.
    pub fn id(&self, host: &HostName, attempt: u32) -> RequestId {
        Uuid::new_v5(&self.secret, format!("{host}/{attempt}").as_bytes()).into()
    }

    /// Returns the id of a request to fetch this host's system; attempts count from 1.
    pub fn fetch(&self, host: &HostName, attempt: u32) -> RequestId {
        Uuid::new_v5(&self.secret, format!("{host}/fetch/{attempt}").as_bytes()).into()
    }

    /// Returns the id of the request to roll back from a completed request.
    pub fn rollback_of(&self, completed: &RequestId) -> RequestId {
        Uuid::new_v5(&self.secret, format!("{completed}/return").as_bytes()).into()
    }

    /// Returns the id of a request to all hosts on a shared subject; attempts count from 1.
    pub fn together(&self, subject: &Subject, attempt: u32) -> RequestId {
        Uuid::new_v5(&self.secret, format!("{subject}/together/{attempt}").as_bytes()).into()
    }
}

impl From<Uuid> for RequestId {
    fn from(uuid: Uuid) -> Self {
        Self((*uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())).into())
    }
}

impl FromStr for RequestId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if all_bytes(text, |b| b.is_ascii_graphic()) && (1..=MAX_ID_BYTES).contains(&text.len()) {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(text, "an id", "one has 1 to 128 visible ASCII characters"))
    }
}

impl From<Uuid> for RolloutId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl RolloutId {
    pub(super) fn encode(self, buffer: &mut [u8]) -> &str {
        self.0.hyphenated().encode_lower(buffer)
    }

    /// Returns the first eight digits, enough for people to tell rollouts apart and for `--resume` to find one.
    pub fn short(self) -> String {
        let mut digits = self.0.simple().to_string();
        digits.truncate(8);
        digits
    }
}

text_type!(RequestId);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_secret_host_and_attempt() {
        let (web, dns) = ("web".parse().unwrap(), "dns".parse().unwrap());
        let ids = RequestIds::new(Uuid::from_u128(7));
        assert_eq!(ids.id(&web, 1), ids.id(&web, 1));
        assert_ne!(ids.id(&web, 1), ids.id(&web, 2));
        assert_ne!(ids.id(&web, 1), ids.id(&dns, 1));
        let completed = ids.id(&web, 1);
        assert_eq!(ids.rollback_of(&completed), ids.rollback_of(&completed));
        assert_ne!(ids.rollback_of(&completed), completed);
        assert_ne!(ids.rollback_of(&completed), ids.rollback_of(&ids.id(&dns, 1)));
        assert_ne!(ids.id(&web, 1), RequestIds::new(Uuid::from_u128(8)).id(&web, 1));
    }

    #[test]
    fn a_foreign_id_is_bounded_and_visible() {
        assert!("01J9ZK3V".parse::<RequestId>().is_ok());
        for refused in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(refused.parse::<RequestId>().is_err(), "{refused:?}");
        }
    }
}
