//! Every tool, with what assistants are told about it. What it does is in the module of its name.

mod deploy;
mod hosts;
mod plans;
mod status;

use std::sync::Arc;

use rmcp::model::{CallToolResponse, JsonObject, Tool, ToolAnnotations};

use super::answer::ToolAnswer;
use super::call::ToolCall;
use super::context::ToolContext;
use super::error::ToolError;
use super::schema::{arguments as read, input, input_without};
use super::settings::{Mode, Settings};

/// A tool as assistants see it.
struct ToolSpec {
    name: &'static str,
    effect: ToolEffect,
    arguments: fn() -> Arc<JsonObject>,
    description: &'static str,
}

/// What a tool does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToolEffect {
    Reads,
    /// Reads, and asks the server of a repository.
    LooksUp,
    Stops,
    Deploys,
}

/// The tool that exists only where the server has an administrator's key.
const ADMIN_TOOL: &str = "deploy_admin";

const TOOLS: [ToolSpec; 11] = [
    ToolSpec {
        name: "abort_rollout",
        effect: ToolEffect::Stops,
        arguments: input::<status::AbortArguments>,
        description: "Stop a rollout that runs: nothing new is sent, hosts in flight are awaited. What was deployed stays.",
    },
    ToolSpec {
        name: "apply_plan",
        effect: ToolEffect::Deploys,
        arguments: input::<plans::ApplyArguments>,
        description: "Carry out a plan as preview_plan showed it, wave after wave; it halts when a wave fails. Refused when \
                      it would do something else by now. Waits like deploy.",
    },
    ToolSpec {
        name: "deploy",
        effect: ToolEffect::Deploys,
        arguments: || input_without::<deploy::DeployArguments>("tier"),
        description: "Deploy a revision to one test host, the test hosts of a role, or all test hosts. Waits up to 45 \
                      seconds; state running means that it goes on: call rollout_status. It also goes on when the call is \
                      cancelled.",
    },
    ToolSpec {
        name: ADMIN_TOOL,
        effect: ToolEffect::Deploys,
        arguments: input::<deploy::DeployArguments>,
        description: "Deploy to one host, the hosts of a role, or all hosts of a tier, production included. Outside test a \
                      person is asked to approve. Otherwise like deploy.",
    },
    ToolSpec {
        name: "host_log",
        effect: ToolEffect::Reads,
        arguments: input::<status::LogArguments>,
        description: "Show the end of a host's log from its latest failure, or from a given rollout.",
    },
    ToolSpec {
        name: "list_hosts",
        effect: ToolEffect::Reads,
        arguments: input::<hosts::HostsArguments>,
        description: "List the hosts that answer now: what they run, how their last deployment ended, problems. With \
                      branch: how many commits each is behind it, and which. A host that is missing is down, or its agent is.",
    },
    ToolSpec {
        name: "list_plans",
        effect: ToolEffect::Reads,
        arguments: input::<plans::ListPlansArguments>,
        description: "List the plans for rollouts in waves.",
    },
    ToolSpec {
        name: "preview_plan",
        effect: ToolEffect::LooksUp,
        arguments: input::<plans::PreviewArguments>,
        description: "Tell what a plan would do to the hosts that are there now: waves, hosts, commit, and the plan_hash for \
                      apply_plan. Deploys nothing.",
    },
    ToolSpec {
        name: "resume_rollout",
        effect: ToolEffect::Deploys,
        arguments: input::<status::ResumeArguments>,
        description: "Go on with a rollout that is paused before a wave, or whose process ended too early (cut_off). Waits \
                      like deploy. A person is asked where the wave has to be confirmed.",
    },
    ToolSpec {
        name: "rollback",
        effect: ToolEffect::Deploys,
        arguments: input::<deploy::RollbackArguments>,
        description: "Return a host, or the hosts that a rollout changed, to the commit that they ran before. Waits like \
                      deploy. Outside test a person is asked to approve.",
    },
    ToolSpec {
        name: "rollout_status",
        effect: ToolEffect::Reads,
        arguments: input::<status::StatusArguments>,
        description: "Tell what became of a deployment or rollout, also one that a person began on this machine, and wait \
                      for its end. Only state succeeded is good.",
    },
];

/// The names of all tools, in order.
pub fn tool_names() -> Vec<&'static str> {
    TOOLS.iter().map(|spec| spec.name).collect()
}

/// The tools that a server offers. The others are neither listed nor callable.
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
            .idempotent(self.effect != ToolEffect::Deploys)
            .open_world(matches!(self.effect, ToolEffect::LooksUp | ToolEffect::Deploys));
        Tool::new(self.name, self.description, (self.arguments)()).with_annotations(hints)
    }
}

impl ToolEffect {
    const fn writes(self) -> bool {
        matches!(self, Self::Stops | Self::Deploys)
    }
}

pub(super) async fn run(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let arguments = call.arguments;
    let answer = match &*call.request.name {
        "apply_plan" => return plans::apply(context, call).await,
        "deploy" => return deploy::to_test(context, call).await,
        ADMIN_TOOL => return deploy::to_any(context, call).await,
        "resume_rollout" => return status::resume(context, call).await,
        "rollback" => return deploy::roll_back(context, call).await,
        "abort_rollout" => status::abort(context, &read(arguments)?),
        "host_log" => status::log(context, &read(arguments)?),
        "list_hosts" => hosts::list(context, read(arguments)?).await,
        "list_plans" => read(arguments).map(|plans::ListPlansArguments {}| plans::list(context)),
        "preview_plan" => plans::show(context, read(arguments)?).await,
        _ => status::status(context, read(arguments)?, call.context).await,
    };
    answer.map(ToolAnswer::into_response)
}
