//! One call on its way through the server: what came beside its arguments, and what is put on record about it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, InputResponses, JsonObject};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};

use super::audit::{CallEnd, CallOutcome};

/// A call as a tool sees it.
#[derive(Clone, Copy)]
pub(super) struct ToolCall<'a> {
    pub(super) tool: &'a str,
    pub(super) arguments: &'a JsonObject,
    pub(super) context: &'a RequestContext<RoleServer>,
    pub(super) audit: &'a AuditContext,
}

/// What came with a call beside its arguments, and what is put on record about it.
#[derive(Debug)]
pub(super) struct AuditContext {
    /// What came with a call that is made again after a question; only the newest protocol has that.
    pub(super) request_state: Option<String>,
    pub(super) input_responses: Option<InputResponses>,
    /// What the call turned out to be about, whether or not it succeeds.
    end: Mutex<CallEnd>,
}

impl AuditContext {
    pub(super) fn new(request: &CallToolRequestParams) -> Self {
        let tier = request.arguments.as_ref().and_then(|arguments| Some(arguments.get("tier")?.as_str()?.to_owned()));
        Self {
            request_state: request.request_state.clone(),
            input_responses: request.input_responses.clone(),
            end: Mutex::new(CallEnd { tier, ..CallEnd::default() }),
        }
    }

    pub(super) fn end(&self) -> MutexGuard<'_, CallEnd> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is put on record when the call ends with this answer.
    pub(super) fn ended_with(&self, answer: &Result<CallToolResponse, ErrorData>) -> CallEnd {
        let mut end = self.end().clone();
        end.outcome = CallOutcome::Ok;
        match answer {
            Ok(CallToolResponse::Complete(result)) if result.is_error == Some(true) => {
                end.outcome = CallOutcome::Error;
                end.code = code(result);
            }
            Ok(CallToolResponse::Complete(result)) => {
                end.id = member(result, "rollout_id").or(end.id);
                end.state = member(result, "state");
                end.commit = member(result, "commit").or(end.commit);
            }
            Ok(CallToolResponse::InputRequired(_)) => end.outcome = CallOutcome::Asked,
            Ok(_) => {}
            Err(error) => {
                end.outcome = CallOutcome::Error;
                end.code = Some(format!("protocol {}", error.code.0));
            }
        }
        end
    }
}

/// The code that the text of an error begins with.
fn code(result: &CallToolResult) -> Option<String> {
    let text = &result.content.first()?.as_text()?.text;
    text.split_once(": ").map(|(code, _)| code.to_owned())
}

fn member(result: &CallToolResult, name: &str) -> Option<String> {
    result.structured_content.as_ref()?.get(name)?.as_str().map(str::to_owned)
}
