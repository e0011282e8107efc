//! `resume_rollout`: going on with a rollout that is paused, or whose process ended too early.

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::mcp::context::{ToolCall, ToolContext, is_resumable, touches_test_only, within_reach};
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Launch, Resumed};
use crate::mcp::schema;
use crate::mcp::settings::{Credential, Settings};
use crate::operator::resumption::{Sources, prepare_again};
use crate::protocol::Tier;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ResumeArguments {
    /// The rollout. Without it: the latest that is paused or cut off.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

pub(super) async fn resume(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let ResumeArguments { rollout_id } = schema::arguments(call.arguments)?;
    let id = context.find_where(rollout_id.as_deref(), is_resumable)?;
    let recorded = context.settings.journals.read(&id)?;
    let rollout = match &recorded.summary.rollout {
        Some(rollout) if is_resumable(&recorded) && rollout.revision.is_commit() => rollout,
        _ => {
            return Err(ToolError::new("not_resumable", format!("rollout {id} is neither paused nor cut off"))
                .next("rollout_status tells how it ended; start another one where more has to be done"));
        }
    };
    let credential = if touches_test_only(&rollout.plan) { Credential::Test } else { Credential::Admin };
    let Settings { flakes, cache, discovery, .. } = &context.settings;
    let sources = Sources { flakes, cache: cache.as_deref() };
    let settle = async || {
        let mut bus = context.connect(credential).await?;
        let prepared = prepare_again(&recorded.summary, rollout, &mut bus, discovery, sources).await?;
        within_reach(credential, &prepared.rollout.plan)?;
        Ok(prepared)
    };
    let resumes = Some(Resumed { rollout, summary: &recorded.summary });
    let phrase = rollout.name().to_owned();
    let launch = Launch { call, phrase, credential, no_downgrade: &Tier::ALL, plan_hash: None, resumes };
    context.launch(launch, settle).await
}
