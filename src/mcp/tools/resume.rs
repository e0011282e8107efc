//! `resume_rollout`: going on with a rollout that is paused, or whose process ended too early.

use std::sync::Arc;

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use tokio::time::Instant;

use crate::mcp::approval::{Question, outdated};
use crate::mcp::call::ToolCall;
use crate::mcp::context::{Context, is_resumable, touches_test_only};
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Downgrade, Intent, Launch, one_wave};
use crate::mcp::schema;
use crate::mcp::settings::Credential;
use crate::operator::Prepared;
use crate::operator::detach::Background;
use crate::plan::{Plan, Settings};
use crate::protocol::{RolloutId, Target};
use crate::rollout::summary::{HostState, Summary};
use crate::rollout::{Event, EventKind, HostOutcome, Rollout, WaveIndex};

/// What `resume_rollout` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeArguments {
    /// The rollout. Without it: the latest that is paused or cut off.
    #[serde(default)]
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

pub(super) async fn resume(context: &Context, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let ResumeArguments { rollout_id } = schema::arguments(call.arguments)?;
    let id = context.find_where(rollout_id.as_deref(), is_resumable)?;
    let recorded = context.settings.journals.read(&id)?;
    let rollout = match &recorded.summary.rollout {
        Some(rollout) if is_resumable(&recorded) && rollout.revision.is_commit() => Arc::clone(rollout),
        _ => {
            return Err(ToolError::new("not_resumable", format!("rollout {id} is neither paused nor cut off"))
                .next("rollout_status tells how it ended; start another one where more has to be done"));
        }
    };
    let credential = if touches_test_only(&rollout.plan) { Credential::Test } else { Credential::Admin };
    let plan = rest(&recorded.summary, &rollout);
    let launch =
        Launch { call, phrase: rollout.name().to_owned(), credential, downgrade: Downgrade::Refused, plan_hash: None };
    context.launch(launch, Resumed { credential, plan, rollout, summary: recorded.summary }).await
}

/// The hosts that are still to be deployed, in their waves: what the guards are about.
fn rest(summary: &Summary, rollout: &Rollout) -> Plan {
    let is_done = |state| matches!(state, HostState::Final(HostOutcome::Completed | HostOutcome::Current));
    let waves = rollout.plan.waves.iter().enumerate().filter(|(index, _)| !is_over(summary, *index));
    let waves = waves.filter_map(|(index, wave)| {
        let left = summary.hosts_of(WaveIndex(index)).filter(|host| !is_done(host.state));
        let left = left.filter_map(|host| wave.hosts.get(host.index));
        let targets: Vec<_> = left.map(|host| Target::Host(host.tier, host.hostname.clone())).collect();
        let settings = Settings { action: wave.action, min_hosts: 0, ..Settings::default() };
        (!targets.is_empty()).then(|| one_wave(&wave.name, targets, settings))
    });
    let hooks = rollout.plan.hooks.clone();
    Plan { name: rollout.name().to_owned(), revision: None, flake: None, hooks, waves: waves.collect() }
}

fn is_over(summary: &Summary, index: usize) -> bool {
    summary.waves.get(index).is_some_and(crate::rollout::summary::WaveView::succeeded)
}

/// A rollout that goes on where its record ends.
struct Resumed {
    credential: Credential,
    plan: Plan,
    rollout: Arc<Rollout>,
    summary: Summary,
}

impl Resumed {
    /// The wave that a person has to confirm before the rollout goes on.
    fn unconfirmed(&self) -> Option<(WaveIndex, &str)> {
        let index = (0..self.summary.waves.len()).find(|index| !is_over(&self.summary, *index))?;
        let wave = self.rollout.plan.waves.get(index).filter(|wave| wave.limits.confirm)?;
        let began = self.summary.waves.get(index)?.began_at.is_some();
        (!began).then_some((WaveIndex(index), wave.name.as_str()))
    }
}

impl Intent for Resumed {
    async fn settle(&self, context: &Context, until: Instant) -> Result<Prepared, ToolError> {
        let Rollout { source, revision, .. } = self.rollout.as_ref();
        let wanted = context.wanted(self.plan.clone(), source.clone(), revision.clone());
        context.prepare(self.credential, wanted, until).await
    }

    fn ask<'a>(&'a self, question: Question<'a>) -> Question<'a> {
        question.resuming(&self.rollout.asked, self.unconfirmed().map(|(_, name)| name))
    }

    fn begin(&self, background: &Background, _: Prepared, context: &Context) -> Result<RolloutId, ToolError> {
        let journals = &context.settings.journals;
        let id = self.rollout.id;
        let (left, mut journal) = journals.take_up(&id.to_string())?;
        // With the lock in hand: nothing may have happened since the person was asked.
        if left != self.summary {
            return Err(outdated());
        }
        let at = (context.settings.clock)();
        // A wave that is on record as begun is a confirmed one.
        let confirmed = self.unconfirmed().map(|(wave, _)| EventKind::WaveStarted { wave });
        for kind in std::iter::once(EventKind::Resumed).chain(confirmed) {
            journal.record(&Event { at, kind }).map_err(|error| unwritable(&error))?;
        }
        journal.sync().map_err(|error| unwritable(&error))?;
        background.resume(id, journal, journals)?;
        Ok(id)
    }
}

fn unwritable(error: &std::io::Error) -> ToolError {
    ToolError::new("journal_unusable", format!("the journal cannot be written: {error}"))
}
