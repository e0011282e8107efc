//! What a tool says when it did what was asked.

use rmcp::ErrorData;
use rmcp::handler::server::tool::IntoCallToolResult;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};
use serde::Serialize;

use super::error::ToolError;

/// The longest answer, in bytes of JSON. What comes around it in a message has less than 500.
const MAX_BYTES: usize = 19_500;

/// A result, as data that matches the output schema of the tool and as a short text that says the same.
#[derive(Debug, Clone)]
pub(super) struct Answer<T> {
    pub(super) data: T,
    pub(super) text: String,
}

impl<T: Serialize> Answer<T> {
    /// The message to the client.
    pub(super) fn into_result(self) -> CallToolResult {
        let data = serde_json::to_value(self.data).expect("results have string keys only, so this cannot fail");
        let mut result = CallToolResult::structured(data);
        result.content = vec![ContentBlock::text(self.text)];
        // Each part has its own bound. Should they not suffice, a client is not to pay for it.
        let bytes = serde_json::to_vec(&result).map_or(0, |json| json.len());
        if bytes > MAX_BYTES { too_large(bytes).into_result() } else { result }
    }
}

fn too_large(bytes: usize) -> ToolError {
    ToolError::new("too_large", format!("the answer would have {bytes} bytes, which is more than clients take"))
        .next("what was asked for was done; `homelab-deploy status` shows all of it to a person")
}

impl<T: Serialize> IntoCallToolResult for Answer<T> {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        Ok(self.into_result().into())
    }
}
