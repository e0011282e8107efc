//! One call on its way through the server: what came beside its arguments, and what is put on record of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, InputResponses};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::Value;

use super::audit::{Ending, Outcome};

/// The members of a result by which a deployment or rollout is found again, and which name a commit.
const IDS: [&str; 3] = ["deploy_id", "rollout_id", "id"];
const COMMITS: [&str; 2] = ["commit", "revision"];

/// What of a call is not an argument. A tool finds it in the context of its request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// What came with a call that is made again after a question. Only the newest protocol has that.
    pub(super) reply: Reply,
    about: Arc<Mutex<About>>,
}

/// The answer to a question.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    /// What the question was sealed with.
    pub(super) state: Option<String>,
    /// What was answered.
    pub(super) answers: Option<InputResponses>,
}

/// What a call turned out to be about. It is on record whether or not the call came to anything.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    /// The most powerful tier that it touches.
    pub(super) tier: Option<String>,
    /// The commit that it would deploy.
    pub(super) commit: Option<String>,
    /// The rollout that it began, where its answer does not tell.
    pub(super) id: Option<String>,
    /// How it was agreed to.
    pub(super) approval: Option<&'static str>,
}

impl Call {
    pub(super) fn new(request: &CallToolRequestParams) -> Self {
        let reply = Reply { state: request.request_state.clone(), answers: request.input_responses.clone() };
        let tier = argument(request, "tier");
        Self { reply, about: Arc::new(Mutex::new(About { tier, ..About::default() })) }
    }

    /// The call that a context belongs to.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Option<&Self> {
        context.extensions.get::<Self>()
    }

    /// What it is about, to add to.
    pub(super) fn about(&self) -> MutexGuard<'_, About> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is put on record when the call ends with this answer.
    pub(super) fn ending(&self, answer: &Result<CallToolResponse, ErrorData>) -> Ending {
        let About { tier, commit, id, approval } = self.about().clone();
        let ending = Ending { tier, id, commit, approval, ..Ending::of(Outcome::Ok) };
        match answer {
            Ok(CallToolResponse::Complete(result)) if result.is_error == Some(true) => {
                Ending { outcome: Outcome::Error, code: code(result), ..ending }
            }
            Ok(CallToolResponse::Complete(result)) => {
                let found = |names: &[&str]| names.iter().find_map(|name| member(result, name));
                Ending { id: found(&IDS), commit: found(&COMMITS).or(ending.commit.clone()), ..ending }
            }
            Ok(CallToolResponse::InputRequired(_)) => Ending { outcome: Outcome::Asked, ..ending },
            Ok(_) => ending,
            Err(error) => {
                Ending { outcome: Outcome::Error, code: Some(format!("protocol {}", error.code.0)), ..ending }
            }
        }
    }
}

fn argument(request: &CallToolRequestParams, name: &str) -> Option<String> {
    text(request.arguments.as_ref()?.get(name)?)
}

/// The code that the text of an error begins with.
fn code(result: &CallToolResult) -> Option<String> {
    let text = &result.content.first()?.as_text()?.text;
    text.split_once(": ").map(|(code, _)| code.to_owned())
}

fn member(result: &CallToolResult, name: &str) -> Option<String> {
    text(result.structured_content.as_ref()?.get(name)?)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
