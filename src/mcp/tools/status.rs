//! `deploy_status`, `rollout_status` and `abort_rollout`: what has become of what was begun, by whomever.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::RequestContext;
use serde::{Deserialize, Serialize};

use crate::mcp::answer::Answer;
use crate::mcp::error::ToolError;
use crate::mcp::launch::within_reach;
use crate::mcp::server::Server;
use crate::mcp::settings::Access;
use crate::mcp::status::{Deployment, Progress};
use crate::mcp::wait::Waiter;

/// What `deploy_status` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployArguments {
    /// The id that deploy returned.
    deploy_id: String,
    /// How many seconds to wait for its end, 0 to 45.
    #[serde(default)]
    #[schemars(range(max = 45))]
    wait_seconds: u64,
    /// `next_cursor` of the previous page.
    #[serde(default)]
    #[schemars(with = "String")]
    cursor: Option<String>,
}

/// What `rollout_status` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RolloutArguments {
    /// The id that `apply_plan` returned. Without it: the latest rollout.
    #[serde(default)]
    #[schemars(with = "String")]
    rollout_id: Option<String>,
    /// How many seconds to wait for its end, 0 to 45.
    #[serde(default)]
    #[schemars(range(max = 45))]
    wait_seconds: u64,
    /// `next_cursor` of the previous page.
    #[serde(default)]
    #[schemars(with = "String")]
    cursor: Option<String>,
}

/// What `abort_rollout` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AbortArguments {
    /// The id that `apply_plan` or deploy returned.
    rollout_id: String,
}

/// That it was told to stop.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Stopping {
    /// What to ask `rollout_status` with how it ends.
    rollout_id: String,
    /// stopping: nothing new is sent, hosts in flight are awaited.
    state: &'static str,
}

pub(super) async fn of_deployment(
    server: &Server,
    arguments: DeployArguments,
    context: RequestContext<RoleServer>,
) -> Result<Answer<Deployment>, ToolError> {
    let id = server.settings.journals.find(&arguments.deploy_id)?;
    let waiter = Waiter::Call(&context, until(server, arguments.wait_seconds)?);
    server.tell(&id, arguments.cursor.as_deref(), waiter).await
}

pub(super) async fn of_rollout(
    server: &Server,
    arguments: RolloutArguments,
    context: RequestContext<RoleServer>,
) -> Result<Answer<Progress>, ToolError> {
    let journals = &server.settings.journals;
    let id = match &arguments.rollout_id {
        Some(id) => journals.find(id)?,
        None => journals.latest()?.ok_or_else(|| {
            ToolError::new("unknown_id", "no rollout was run from here").next("deploy and apply_plan begin one")
        })?,
    };
    let waiter = Waiter::Call(&context, until(server, arguments.wait_seconds)?);
    server.tell(&id, arguments.cursor.as_deref(), waiter).await
}

pub(super) fn abort(server: &Server, arguments: &AbortArguments) -> Result<Answer<Stopping>, ToolError> {
    let journals = &server.settings.journals;
    let recorded = journals.read(&journals.find(&arguments.rollout_id)?)?;
    let rollout = recorded.summary.rollout.filter(|_| recorded.running && recorded.summary.outcome.is_none());
    let rollout = rollout.ok_or_else(|| {
        ToolError::new("not_running", format!("rollout {:?} is not running", arguments.rollout_id))
            .next("there is nothing to stop; rollout_status tells how it ended")
    })?;
    // Whoever may not begin such a rollout has no business in the middle of one.
    if server.settings.connection(Access::Admin).is_none() {
        within_reach(Access::Test, &rollout.plan)?;
    }
    journals.stop(rollout.id)?;
    let text = format!(
        "stopping: nothing new is sent, hosts in flight are awaited. Call rollout_status with {} for how it ends.",
        rollout.id
    );
    Ok(Answer { data: Stopping { rollout_id: rollout.id.to_string(), state: "stopping" }, text })
}

/// When to answer a call that is ready to wait so many seconds.
fn until(server: &Server, seconds: u64) -> Result<tokio::time::Instant, ToolError> {
    if seconds > 45 {
        return Err(ToolError::new("invalid_arguments", format!("wait_seconds is {seconds}, and at most 45"))
            .next("call again with 45, as often as it takes"));
    }
    let wished = tokio::time::Instant::now() + Duration::from_secs(seconds);
    Ok(wished.min(server.deadline()))
}
