//! Lists the tools. The description that assistants see is the doc comment of a tool's arguments.

mod deploy;
mod hosts;
mod plans;
mod status;

use std::sync::Arc;

use rmcp::model::{CallToolResponse, JsonObject, Tool, ToolAnnotations};

use self::ToolEffect::{Deploys, LooksUp, Reads, Stops};
use self::deploy::within_deadline;
use super::answer::ToolError;
use super::call::{ToolCall, arguments as read, arguments_with, input, input_without};
use super::context::{Mode, Settings, ToolContext};
use super::policy::Credential;
use crate::protocol::Tier;

struct ToolSpec {
    name: &'static str,
    effect: ToolEffect,
    schema: fn() -> JsonObject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToolEffect {
    Reads,
    /// Reads, and contacts the server of a repository.
    LooksUp,
    Stops,
    Deploys,
}

/// The tool that exists only with the administrator's key.
const ADMIN_TOOL: &str = "deploy_admin";

const TOOLS: [ToolSpec; 11] = [
    ToolSpec { name: "abort_rollout", effect: Stops, schema: input::<status::AbortArguments> },
    ToolSpec { name: "apply_plan", effect: Deploys, schema: input::<plans::PlanArguments> },
    ToolSpec { name: "deploy", effect: Deploys, schema: deploy_input },
    ToolSpec { name: ADMIN_TOOL, effect: Deploys, schema: input::<deploy::DeployArguments> },
    ToolSpec { name: "host_log", effect: Reads, schema: input::<status::LogArguments> },
    ToolSpec { name: "list_hosts", effect: Reads, schema: input::<hosts::HostsArguments> },
    ToolSpec { name: "list_plans", effect: Reads, schema: input::<plans::ListPlansArguments> },
    ToolSpec { name: "preview_plan", effect: LooksUp, schema: preview_input },
    ToolSpec { name: "resume_rollout", effect: Deploys, schema: input::<deploy::ResumeArguments> },
    ToolSpec { name: "rollback", effect: Deploys, schema: input::<deploy::RollbackArguments> },
    ToolSpec { name: "rollout_status", effect: Reads, schema: input::<status::StatusArguments> },
];

fn deploy_input() -> JsonObject {
    let description = "Deploy a revision to one test host, the test hosts of a role, or all test hosts. Waits up to 45 seconds; state \
        running means that it goes on: call rollout_status. It also goes on when the call is cancelled.";
    input_without::<deploy::DeployArguments>("tier", description)
}

fn preview_input() -> JsonObject {
    let description = "Tell what a plan would do to the hosts that are there now: waves, hosts, commit, and the plan_hash for apply_plan. \
        Deploys nothing.";
    input_without::<plans::PlanArguments>("plan_hash", description)
}

pub fn tool_names() -> Vec<&'static str> {
    TOOLS.iter().map(|spec| spec.name).collect()
}

/// Returns the tools that the server offers. The others are neither listed nor callable.
pub(super) fn offered(settings: &Settings) -> Vec<Tool> {
    let filter = &settings.tools;
    let is_offered = |spec: &&ToolSpec| {
        (settings.admin.is_some() || spec.name != ADMIN_TOOL)
            && (filter.mode == Mode::ReadWrite || !spec.effect.writes())
            && filter.only.as_ref().is_none_or(|only| only.contains(spec.name))
    };
    TOOLS.iter().filter(is_offered).map(ToolSpec::tool).collect()
}

pub(super) fn writes(name: &str) -> bool {
    TOOLS.iter().any(|spec| spec.name == name && spec.effect.writes())
}

impl ToolSpec {
    fn tool(&self) -> Tool {
        let hints = ToolAnnotations::new()
            .read_only(!self.effect.writes())
            .destructive(self.effect.writes())
            .idempotent(self.effect != Deploys)
            .open_world(matches!(self.effect, LooksUp | Deploys));
        let mut schema = (self.schema)();
        let description = schema.remove("description").and_then(|text| text.as_str().map(str::to_owned));
        Tool::new(self.name, description.unwrap_or_default(), Arc::new(schema)).with_annotations(hints)
    }
}

impl ToolEffect {
    const fn writes(self) -> bool {
        matches!(self, Stops | Deploys)
    }
}

pub(super) async fn run(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let arguments = call.arguments;
    match &*call.request.name {
        "apply_plan" => plans::apply(context, read(arguments)?, call).await,
        "deploy" => {
            let asked = arguments_with(arguments, "tier", Tier::Test.as_str())?;
            deploy::deploy(context, Credential::Test, asked, call).await
        }
        ADMIN_TOOL => deploy::deploy(context, Credential::Admin, read(arguments)?, call).await,
        "resume_rollout" => deploy::resume(context, read(arguments)?, call).await,
        "rollback" => deploy::roll_back(context, read(arguments)?, call).await,
        "abort_rollout" => status::abort(context, &read(arguments)?),
        "host_log" => status::log(context, &read(arguments)?),
        "list_hosts" => within_deadline(context.deadline(), hosts::list(context, read(arguments)?)).await,
        "list_plans" => read(arguments).map(|plans::ListPlansArguments {}| plans::list(context)),
        "preview_plan" => plans::show(context, arguments_with(arguments, "plan_hash", "")?).await,
        "rollout_status" => status::status(context, read(arguments)?, call.context).await,
        other => Err(ToolError::new("internal_error", format!("the tool {other} is listed and does nothing"))),
    }
}
