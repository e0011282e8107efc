//! Every tool, with what its users are told of it. What it does is in the module of its name.

mod deploy;
mod list_hosts;
mod plans;
mod status;

use rmcp::model::{CallToolResponse, JsonObject};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};

use super::answer::Answer;
use super::error::ToolError;
use super::preview::Preview;
use super::schema::{self, arguments as read};
use super::server::Server;
use super::status::{Deployment, Progress};

/// The names of all tools.
pub const TOOLS: [&str; 9] = [
    "abort_rollout",
    "apply_plan",
    "deploy",
    "deploy_admin",
    "deploy_status",
    "list_hosts",
    "list_plans",
    "preview_plan",
    "rollout_status",
];

/// The tools that connect with the key of an administrator whatever they are called with.
pub(super) const ADMIN_TOOLS: [&str; 1] = ["deploy_admin"];

#[tool_router(vis = "pub(super)")]
impl Server {
    /// Who is there.
    #[tool(
        title = "List hosts",
        description = "List the hosts that answer now, with what they run and how their last deployment ended. \
                       A host that is missing is down, or its listener is. Takes about two seconds.",
        input_schema = schema::input::<list_hosts::Arguments>(),
        output_schema = schema::output::<list_hosts::Listing>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn list_hosts(&self, arguments: JsonObject) -> Result<Answer<list_hosts::Listing>, ToolError> {
        list_hosts::list(self, read(arguments)?).await
    }

    /// One deployment in the test tier.
    #[tool(
        title = "Deploy to test hosts",
        description = "Deploy a revision to one test host, the test hosts of a role, or all of them; never to another \
                       tier. Waits up to 45 seconds; state running means that it goes on: ask deploy_status. It goes on \
                       when the call is cancelled, too.",
        input_schema = schema::input::<deploy::Arguments>(),
        output_schema = schema::same_as::<Deployment>("deploy_status"),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn deploy(
        &self,
        arguments: JsonObject,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ToolError> {
        deploy::to_test(self, arguments, context).await
    }

    /// One deployment in any tier.
    #[tool(
        title = "Deploy to hosts of any tier",
        description = "Deploy a revision to one host, the hosts of a role, or all hosts of a tier, production included. \
                       Outside of test a person is asked to approve what exactly is deployed. Otherwise like deploy.",
        input_schema = schema::input::<deploy::AdminArguments>(),
        output_schema = schema::same_as::<Deployment>("deploy_status"),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn deploy_admin(
        &self,
        arguments: JsonObject,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ToolError> {
        deploy::to_any(self, arguments, context).await
    }

    /// What has become of one deployment.
    #[tool(
        title = "Status of a deployment",
        description = "Tell what has become of a deployment, and wait for its end if asked to. Works in any session, \
                       also after the one that began it is gone.",
        input_schema = schema::input::<status::DeployArguments>(),
        output_schema = schema::output::<Deployment>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn deploy_status(
        &self,
        arguments: JsonObject,
        context: RequestContext<RoleServer>,
    ) -> Result<Answer<Deployment>, ToolError> {
        status::of_deployment(self, read(arguments)?, context).await
    }

    /// Which plans there are.
    #[tool(
        title = "List plans",
        description = "List the plans for rollouts in waves that this server may carry out.",
        input_schema = schema::input::<plans::ListArguments>(),
        output_schema = schema::output::<plans::Listing>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn list_plans(&self, arguments: JsonObject) -> Result<Answer<plans::Listing>, ToolError> {
        plans::list(self, &read(arguments)?)
    }

    /// What a plan comes down to.
    #[tool(
        title = "Preview a plan",
        description = "Tell what a plan comes down to for the hosts that are there now: waves, hosts, commit, and the \
                       plan_hash that apply_plan needs. Nothing is deployed.",
        input_schema = schema::input::<plans::PreviewArguments>(),
        output_schema = schema::output::<Preview>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = true)
    )]
    async fn preview_plan(&self, arguments: JsonObject) -> Result<Answer<Preview>, ToolError> {
        plans::preview(self, read(arguments)?).await
    }

    /// Carrying out a plan.
    #[tool(
        title = "Roll a plan out",
        description = "Carry out a plan that preview_plan has shown, wave after wave, halting when one fails. Refused \
                       when it would come down to something else by now. Waits up to 45 seconds; state running means \
                       that it goes on: ask rollout_status.",
        input_schema = schema::input::<plans::ApplyArguments>(),
        output_schema = schema::same_as::<Progress>("rollout_status"),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false, open_world_hint = true)
    )]
    async fn apply_plan(
        &self,
        arguments: JsonObject,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ToolError> {
        plans::apply(self, arguments, context).await
    }

    /// What has become of a rollout.
    #[tool(
        title = "Status of a rollout",
        description = "Tell what has become of a rollout, also one that a person began at the command line of this \
                       machine, and wait for its end if asked to.",
        input_schema = schema::input::<status::RolloutArguments>(),
        output_schema = schema::output::<Progress>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn rollout_status(
        &self,
        arguments: JsonObject,
        context: RequestContext<RoleServer>,
    ) -> Result<Answer<Progress>, ToolError> {
        status::of_rollout(self, read(arguments)?, context).await
    }

    /// Stopping a rollout.
    #[tool(
        title = "Stop a rollout",
        description = "Stop a rollout that runs: nothing new is sent, hosts in flight are awaited and not interrupted. \
                       What was deployed stays.",
        input_schema = schema::input::<status::AbortArguments>(),
        output_schema = schema::output::<status::Stopping>(),
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn abort_rollout(&self, arguments: JsonObject) -> Result<Answer<status::Stopping>, ToolError> {
        status::abort(self, &read(arguments)?)
    }
}
