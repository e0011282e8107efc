//! Implements `rollout_status`, `abort_rollout`, `resume_rollout` and `host_log`.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::RequestContext;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::mcp::answer::{ToolError, answer, fitting};
use crate::mcp::boundary::Credential;
use crate::mcp::call::{Progress, ToolCall};
use crate::mcp::context::{ToolContext, is_resumable, is_running};
use crate::mcp::launch::Launch;
use crate::mcp::schema;
use crate::mcp::status::StatusReport;
use crate::operator::journal::Recorded;
use crate::operator::resumption::prepare_again;
use crate::protocol::{HostName, Tier};
use crate::report::{Liveness, outcome};
use crate::rollout::Summary;

const MAX_LISTED: usize = 20;
/// The limit of `wait_seconds`.
const MAX_WAIT: u64 = 45;

/// Tell what became of a deployment or rollout, also one that a person began on this machine, and wait for its end. Only state
/// succeeded is good.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StatusArguments {
    /// The rollout. Without it: the one that runs, else the latest.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
    /// How many seconds to wait for its end.
    #[schemars(range(max = 45))]
    wait_seconds: u64,
    /// true: list the last 20 rollouts instead.
    list: bool,
}

/// Stop a rollout that runs: nothing new is sent, hosts in flight are awaited. What was deployed stays.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AbortArguments {
    /// The rollout. Without it: the one that runs.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

/// Go on with a rollout that is paused before a wave, or whose process ended too early (`cut_off`). Waits like deploy. A person
/// is asked where the wave has to be confirmed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ResumeArguments {
    /// The rollout. Without it: the latest that is paused or cut off.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

/// Show the end of a host's log from its latest failure, or from a given rollout.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogArguments {
    /// The name of the host.
    #[schemars(with = "String")]
    hostname: HostName,
    /// The rollout. Without it: the latest in which the host failed.
    #[schemars(with = "String", default)]
    rollout_id: Option<String>,
}

pub(super) async fn status(
    context: &ToolContext,
    asked: StatusArguments,
    call: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ToolError> {
    if asked.wait_seconds > MAX_WAIT {
        let what = format!("wait_seconds is {}, and may be {MAX_WAIT} at most", asked.wait_seconds);
        return Err(ToolError::new("invalid_arguments", what).next("call with 45, as often as it takes"));
    }
    if asked.list {
        return list(context);
    }
    let (rollout, _) = context.find(asked.rollout_id.as_deref())?;
    let until = (Instant::now() + Duration::from_secs(asked.wait_seconds)).min(context.deadline());
    let progress = Progress::towards(call, context.settings.timeouts.progress);
    context.wait(rollout.id, until, call, progress, &[]).await
}

fn list(context: &ToolContext) -> Result<CallToolResponse, ToolError> {
    let all = context.rollouts()?;
    let listed = |recorded: &Recorded| {
        let liveness = if is_running(recorded) { Liveness::Running } else { Liveness::Over };
        let Summary { rollout, began_at, .. } = &recorded.summary;
        let counts = recorded.summary.counts();
        let rollout = rollout.as_deref()?;
        Some(json!({
            "rollout_id": rollout.id.to_string(),
            "name": context.redactor.first(rollout.name(), 80),
            "state": outcome(&recorded.summary, liveness),
            "asked": rollout.asked.as_str(),
            "commit": rollout.revision.as_str(),
            "operator": context.redactor.first(&rollout.operator, 80),
            "began_at": began_at.map(|at| format!("{at:.0}")),
            "hosts": counts.total(),
            "completed": counts.completed + counts.current,
        }))
    };
    let rollouts: Vec<Value> = all.iter().rev().take(MAX_LISTED).filter_map(listed).collect();
    let summary = format!("{} rollouts on record, the latest first", all.len());
    let more = all.len().saturating_sub(rollouts.len());
    Ok(fitting(json!({ "summary": summary, "rollouts": rollouts, "more": more }), "rollouts"))
}

pub(super) fn abort(context: &ToolContext, asked: &AbortArguments) -> Result<CallToolResponse, ToolError> {
    let (rollout, recorded) = context.find(asked.rollout_id.as_deref())?;
    let id = rollout.id;
    if !is_running(&recorded) {
        return Err(ToolError::new("not_running", format!("rollout {id} is not running"))
            .next("there is nothing to stop; rollout_status tells how it ended"));
    }
    context.settings.operator.journals.stop(id)?;
    Ok(answer(json!({
        "rollout_id": id.to_string(),
        "state": "stopping",
        "summary": "nothing new is sent; hosts in flight are awaited",
        "next": format!("call rollout_status with rollout_id {id} and wait_seconds 45 for how it ends"),
    })))
}

pub(super) async fn resume(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let ResumeArguments { rollout_id } = schema::arguments(call.arguments)?;
    let found = match rollout_id {
        Some(id) => Some(context.rollout(&id)?),
        None => context.latest(is_resumable)?,
    };
    let (rollout, recorded) = found.ok_or_else(|| {
        ToolError::new("unknown_id", "no rollout on record here is paused or cut off")
            .next("rollout_status with list: true shows the rollouts on record")
    })?;
    if !is_resumable(&recorded) || !rollout.revision.is_commit() {
        let what = format!("rollout {} is neither paused nor cut off", rollout.id);
        return Err(ToolError::new("not_resumable", what)
            .next("rollout_status tells how it ended; start another one where more has to be done"));
    }
    let credential = Credential::for_plan(&rollout.plan);
    let settle = async || {
        let mut bus = context.connect(credential).await?;
        let prepared = prepare_again(&recorded.summary, &rollout, &mut bus, &context.settings.operator).await?;
        credential.check(&prepared.rollout.plan)?;
        Ok(prepared)
    };
    let (phrase, resumes) = (rollout.name().to_owned(), Some(&recorded.summary));
    let launch = Launch { call, phrase, credential, no_downgrade: &Tier::ALL, plan_hash: None, resumes };
    context.launch(launch, settle).await
}

pub(super) fn log(context: &ToolContext, asked: &LogArguments) -> Result<CallToolResponse, ToolError> {
    let has_log = |recorded: &Recorded| {
        recorded.summary.host(&asked.hostname).is_some_and(|host| {
            let rollback = host.rollback.as_ref().and_then(|rollback| rollback.response.as_ref());
            host.response.iter().chain(rollback).any(|response| !response.log_tail.is_empty())
        })
    };
    let found = match &asked.rollout_id {
        Some(id) => Some(context.rollout(id)?),
        None => context.latest(has_log)?,
    };
    let summary = found.as_ref().map(|(_, recorded)| &recorded.summary);
    let report = summary.and_then(|summary| StatusReport::of(summary, context));
    let host = summary.and_then(|summary| summary.host(&asked.hostname));
    report.zip(host).map(|(report, host)| report.host_log(host)).ok_or_else(|| {
        let what = format!("hostname: {} failed in no rollout on record here", asked.hostname);
        ToolError::new("no_log", what).next("rollout_status with list: true shows the rollouts on record")
    })
}
