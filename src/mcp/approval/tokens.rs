//! What a question carries to the client and back with the answer: sealed, so that what comes back is what went out, and
//! good for one use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rmcp::model::{RequestStateCodec, RequestStateError, SealOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::mcp::error::ToolError;

pub(super) struct ApprovalTokens {
    /// Its key belongs to this process, so that no token outlives the list of the spent ones.
    codec: RequestStateCodec,
    clock: fn() -> Timestamp,
    /// The tokens that were spent, until they expire.
    spent: Mutex<BTreeMap<Uuid, Timestamp>>,
}

/// What is sealed: everyone can read it, and nobody can change it.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    nonce: Uuid,
    expires_at: Timestamp,
}

impl ApprovalTokens {
    pub(super) fn new(clock: fn() -> Timestamp) -> Self {
        let key = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        let codec = RequestStateCodec::try_new(key).expect("48 bytes are more than the 32 that it wants");
        Self { codec, clock, spent: Mutex::default() }
    }

    /// A token for what `binding` says, which is not part of it.
    pub(super) fn seal(&self, binding: &[u8], holds_for: Duration) -> String {
        // The codec's own limit would go by the clock of the machine, which a test cannot set.
        let sealed = Sealed { nonce: Uuid::new_v4(), expires_at: (self.clock)() + holds_for };
        let sealed = self.codec.seal_json_with(&sealed, &SealOptions::new().associated_data(binding));
        sealed.expect("an id and a time are always JSON")
    }

    /// Takes a token back. It must be one of these, for the same binding, not expired, and not spent before; now it is spent.
    pub(super) fn spend(&self, seal: &str, binding: &[u8]) -> Result<(), ToolError> {
        let sealed: Sealed = self.codec.open_json_with(seal, binding).map_err(|error| invalid(&error))?;
        let now = (self.clock)();
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.retain(|_, expires_at| *expires_at > now);
        if sealed.expires_at <= now {
            return Err(super::expired("this approval is older than ten minutes"));
        }
        match spent.insert(sealed.nonce, sealed.expires_at) {
            None => Ok(()),
            Some(_) => Err(ToolError::new("approval_used", "this approval was used before; it is good for one call")
                .next("call the tool again, without requestState, to have the person asked once more")),
        }
    }
}

fn invalid(error: &RequestStateError) -> ToolError {
    tracing::warn!("an approval was refused: {error}");
    ToolError::new(
        "approval_invalid",
        "this approval is not for what this call would do now: the arguments, the hosts or the commit of the branch have \
         changed, the approval was changed on its way, or this server was restarted",
    )
    .next("call the tool again, without requestState, to have the person asked about what it would do now")
}

impl fmt::Debug for ApprovalTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApprovalTokens").finish_non_exhaustive()
    }
}
