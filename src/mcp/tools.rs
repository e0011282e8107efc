//! Every tool, with what assistants are told about it. What it does is in the module of its name.

mod back;
mod deploy;
mod hosts;
mod plans;
mod resume;
mod status;

use std::sync::Arc;

use rmcp::model::{CallToolResponse, JsonObject};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};

use super::answer::Answer;
use super::call::ToolCall;
use super::context::Context;
use super::error::ToolError;
use super::schema::{self, arguments as read};

pub const TOOLS: [&str; 11] = [
    "abort_rollout",
    "apply_plan",
    "deploy",
    "deploy_admin",
    "host_log",
    "list_hosts",
    "list_plans",
    "preview_plan",
    "resume_rollout",
    "rollback",
    "rollout_status",
];

/// The tools, and what they work with.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) context: Arc<Context>,
}

type Call = RequestContext<RoleServer>;

#[tool_router(vis = "pub(super)")]
impl Tools {
    #[tool(
        description = "List the hosts that answer now: what they run, how their last deployment ended, problems. With \
                       branch: how many commits each is behind it, and which. A host that is missing is down, or its agent is.",
        input_schema = schema::input::<hosts::HostsArguments>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn list_hosts(&self, arguments: JsonObject) -> Result<Answer, ToolError> {
        hosts::list(&self.context, read(&arguments)?).await
    }

    #[tool(
        description = "Deploy a revision to one test host, the test hosts of a role, or all test hosts. Waits up to 45 \
                       seconds; state running means that it goes on: call rollout_status. It also goes on when the call is \
                       cancelled.",
        input_schema = schema::input_without::<deploy::DeployArguments>("tier"),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn deploy(&self, arguments: JsonObject, call: Call) -> Result<CallToolResponse, ToolError> {
        deploy::to_test(&self.context, ToolCall { tool: "deploy", arguments: &arguments, context: &call }).await
    }

    #[tool(
        description = "Deploy to one host, the hosts of a role, or all hosts of a tier, production included. Outside test a \
                       person is asked to approve. Otherwise like deploy.",
        input_schema = schema::input::<deploy::DeployArguments>(),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn deploy_admin(&self, arguments: JsonObject, call: Call) -> Result<CallToolResponse, ToolError> {
        deploy::to_any(&self.context, ToolCall { tool: "deploy_admin", arguments: &arguments, context: &call }).await
    }

    #[tool(
        description = "Return a host, or the hosts that a rollout changed, to the commit that they ran before. Waits like \
                       deploy. Outside test a person is asked to approve.",
        input_schema = schema::input::<back::RollbackArguments>(),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn rollback(&self, arguments: JsonObject, call: Call) -> Result<CallToolResponse, ToolError> {
        back::roll_back(&self.context, ToolCall { tool: "rollback", arguments: &arguments, context: &call }).await
    }

    #[tool(
        description = "List the plans for rollouts in waves.",
        input_schema = schema::input::<plans::ListPlansArguments>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn list_plans(&self, arguments: JsonObject) -> Result<Answer, ToolError> {
        read::<plans::ListPlansArguments>(&arguments)?;
        Ok(plans::list(&self.context))
    }

    #[tool(
        description = "Tell what a plan would do to the hosts that are there now: waves, hosts, commit, and the plan_hash for \
                       apply_plan. Deploys nothing.",
        input_schema = schema::input::<plans::PreviewArguments>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = true)
    )]
    async fn preview_plan(&self, arguments: JsonObject) -> Result<Answer, ToolError> {
        plans::show(&self.context, read(&arguments)?).await
    }

    #[tool(
        description = "Carry out a plan as preview_plan showed it, wave after wave; it halts when a wave fails. Refused when \
                       it would do something else by now. Waits like deploy.",
        input_schema = schema::input::<plans::ApplyArguments>(),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn apply_plan(&self, arguments: JsonObject, call: Call) -> Result<CallToolResponse, ToolError> {
        plans::apply(&self.context, ToolCall { tool: "apply_plan", arguments: &arguments, context: &call }).await
    }

    #[tool(
        description = "Go on with a rollout that is paused before a wave, or whose process ended too early (cut_off). Waits \
                       like deploy. A person is asked where the wave has to be confirmed.",
        input_schema = schema::input::<resume::ResumeArguments>(),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn resume_rollout(&self, arguments: JsonObject, call: Call) -> Result<CallToolResponse, ToolError> {
        resume::resume(&self.context, ToolCall { tool: "resume_rollout", arguments: &arguments, context: &call }).await
    }

    #[tool(
        description = "Tell what became of a deployment or rollout, also one that a person began on this machine, and wait \
                       for its end. Only state succeeded is good.",
        input_schema = schema::input::<status::StatusArguments>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn rollout_status(&self, arguments: JsonObject, call: Call) -> Result<Answer, ToolError> {
        status::status(&self.context, read(&arguments)?, &call).await
    }

    #[tool(
        description = "Stop a rollout that runs: nothing new is sent, hosts in flight are awaited. What was deployed stays.",
        input_schema = schema::input::<status::AbortArguments>(),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn abort_rollout(&self, arguments: JsonObject) -> Result<Answer, ToolError> {
        status::abort(&self.context, &read(&arguments)?)
    }

    #[tool(
        description = "Show the end of a host's log from its latest failure, or from a given rollout.",
        input_schema = schema::input::<status::LogArguments>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn host_log(&self, arguments: JsonObject) -> Result<Answer, ToolError> {
        status::log(&self.context, &read(&arguments)?)
    }
}
