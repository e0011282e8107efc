//! What a tool says when it did what was asked.

use rmcp::ErrorData;
use rmcp::handler::server::tool::IntoCallToolResult;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};
use serde::Serialize;

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
        result
    }
}

impl<T: Serialize> IntoCallToolResult for Answer<T> {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        Ok(self.into_result().into())
    }
}
