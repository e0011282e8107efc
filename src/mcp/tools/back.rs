//! `rollback`: hosts return to the commit that they ran before.

use std::collections::BTreeMap;

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::mcp::call::ToolCall;
use crate::mcp::context::Context;
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Downgrade, Launch, Unwritten, credential_for, one_wave};
use crate::mcp::schema;
use crate::operator::journal::Recorded;
use crate::plan::{Plan, Settings};
use crate::protocol::{Commit, HostName, Target};
use crate::report::describe;
use crate::rollout::HostOutcome;
use crate::rollout::summary::{HostState, HostView};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RollbackArguments {
    /// The one host to return. Give exactly one of `hostname` and `rollout_id`.
    #[schemars(with = "String")]
    hostname: Option<HostName>,
    /// The rollout whose hosts return.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

/// A rollout to undo: the waves with the hosts that it changed, the last one first, and the commit that they ran before.
struct Undo {
    name: String,
    commit: Commit,
    waves: Vec<(String, Vec<Target>)>,
}

pub(super) async fn roll_back(context: &Context, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let undo = match schema::arguments(call.arguments)? {
        RollbackArguments { hostname: Some(host), rollout_id: None } => {
            let id = context
                .find_where(None, |recorded| {
                    recorded.summary.host(&host).is_some_and(|view| is_changed(view, recorded))
                })
                .map_err(|_| unchanged(&format!("hostname: no rollout on record here changed {host}")))?;
            undo(&context.settings.journals.read(&id)?, Some(&host))?
        }
        RollbackArguments { hostname: None, rollout_id: Some(id) } => {
            undo(&context.settings.journals.read(&context.find(Some(&id))?)?, None)?
        }
        _ => {
            return Err(ToolError::new("invalid_target", "give exactly one of hostname and rollout_id")
                .next("rollout_status with list: true shows the rollouts on record"));
        }
    };
    let tiers = undo.waves.iter().flat_map(|(_, targets)| targets).filter_map(Target::tier).collect();
    let credential = credential_for(&tiers);
    let waves = undo.waves.iter();
    let waves = waves.map(|(name, targets)| one_wave(name, targets.clone(), Settings::default())).collect();
    let plan = Plan { name: undo.name.clone(), revision: None, flake: None, waves };
    let launch = Launch { call, phrase: undo.name, credential, downgrade: Downgrade::Allowed, plan_hash: None };
    context.launch(launch, Unwritten { credential, plan, revision: undo.commit.into() }).await
}

fn undo(recorded: &Recorded, only: Option<&HostName>) -> Result<Undo, ToolError> {
    let summary = &recorded.summary;
    let rollout = summary.rollout.as_deref().ok_or_else(|| unchanged("the rollout began nothing"))?;
    if recorded.running && summary.outcome.is_none() {
        return Err(ToolError::new("still_running", format!("rollout {} is running", rollout.id))
            .next("call abort_rollout, and wait with rollout_status until it is over"));
    }
    let mut by_commit: BTreeMap<&Commit, Vec<&HostView>> = BTreeMap::new();
    let views = summary.hosts.iter().filter(|view| only.is_none_or(|only| *only == view.name));
    for view in views.filter(|view| is_changed(view, recorded)) {
        if let Some(commit) = view.ran_before(rollout) {
            by_commit.entry(commit).or_default().push(view);
        }
    }
    if by_commit.len() > 1 {
        let names = |views: &Vec<&HostView>| views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>().join(" ");
        let groups = by_commit.iter().map(|(commit, views)| format!("{}: {}", commit.short(), names(views)));
        let what =
            format!("rollout_id: its hosts ran different commits before: {}", groups.collect::<Vec<_>>().join("; "));
        return Err(ToolError::new("several_commits", what).next("call rollback with hostname for each host"));
    }
    let Some((commit, views)) = by_commit.pop_first() else {
        return Err(unchanged("rollout_id: the rollout changed no host whose earlier commit is known"));
    };
    let mut name = format!("rollback-{}", rollout.id.short());
    let mut waves: Vec<(String, Vec<Target>)> = Vec::new();
    for view in views.into_iter().rev() {
        let Some(wave) = rollout.plan.waves.get(view.wave.0) else { continue };
        let Some(host) = wave.hosts.get(view.index) else { continue };
        if only.is_some() {
            name = format!("{}.{}", host.tier, host.hostname);
        }
        let target = Target::Host(host.tier, host.hostname.clone());
        match waves.last_mut().filter(|(name, _)| *name == wave.name) {
            Some((_, targets)) => targets.push(target),
            None => waves.push((wave.name.clone(), vec![target])),
        }
    }
    Ok(Undo { name, commit: commit.clone(), waves })
}

/// Whether a rollout left a host with something else than it ran before, or may have.
fn is_changed(view: &HostView, recorded: &Recorded) -> bool {
    let Some(rollout) = recorded.summary.rollout.as_deref() else { return false };
    let facts = describe(view, rollout);
    let was_asked = !matches!(view.state, HostState::Pending | HostState::Final(HostOutcome::Skipped(_)));
    was_asked && facts.ran_before.is_some() && facts.runs_now != facts.ran_before
}

fn unchanged(what: &str) -> ToolError {
    ToolError::new("nothing_to_undo", what).next("deploy with branch and allow_downgrade goes to any commit")
}
