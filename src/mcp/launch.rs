//! Starts rollouts: settles the hosts and the commit, asks a person where the plan needs an approval, settles both once more
//! after the answer, and starts a background process that runs the rollout.
//!
//! So the journal has the rollout before it begins, the rollout goes on when the client kills this server, as many clients do
//! to cancel a call, and any later process can show how it ended.

use std::sync::Arc;

use jiff::tz::TimeZone;
use rmcp::model::CallToolResponse;
use tokio::time::{Instant, timeout_at};

use super::answer::ToolError;
use super::approval::{ApprovalOutcome, Question, outdated};
use super::boundary::Credential;
use super::call::{Progress, ToolCall};
use super::context::ToolContext;
use super::targets::check_targets;
use crate::operator::detach::Background;
use crate::operator::{PrepareOptions, Prepared};
use crate::plan::Plan;
use crate::protocol::{Revision, RolloutId, Tier};
use crate::report;
use crate::rollout::{Event, EventKind, PlanSource, Summary, WaveIndex};

/// The most packages that a preview and a question list.
pub(super) const MOST_PACKAGES: usize = 15;

pub(super) struct Launch<'a> {
    pub(super) call: ToolCall<'a>,
    /// The text that the approver types: the target as plans write it, or the name of the plan.
    pub(super) phrase: String,
    pub(super) credential: Credential,
    /// The tiers whose hosts must not go back in history.
    pub(super) no_downgrade: &'static [Tier],
    /// The hash that `preview_plan` returned.
    pub(super) plan_hash: Option<String>,
    /// The recorded rollout to resume; `None` starts a new one.
    pub(super) resumes: Option<&'a Summary>,
}

impl ToolContext {
    /// Returns options for a whole plan, which runs no hooks but the plan's own.
    pub(super) fn wanted(&self, plan: Plan, source: Option<PlanSource>, revision: Revision) -> PrepareOptions {
        let options = PrepareOptions::new(plan, revision, self.settings.operator.clone());
        // Without a plan file this is a deployment, which asks current hosts as the `deploy` command does.
        PrepareOptions { even_if_current: source.is_none(), source, ..options }
    }

    /// Decides on the hosts and the commit.
    pub(super) async fn prepare(&self, credential: Credential, wanted: PrepareOptions) -> Result<Prepared, ToolError> {
        let mut bus = self.connect(credential).await?;
        let called = wanted.call_roll(&mut bus).await?;
        if wanted.source.is_none() {
            check_targets(&wanted.plan, &called.roll.hosts)?;
        }
        let mut prepared = Box::pin(wanted.settle(called)).await?;
        credential.check(&prepared.rollout.plan)?;
        let operator = &self.settings.operator;
        let missed = prepared.missed(&operator.journals, &operator.discovery.known);
        prepared.warnings.extend(report::missed(&missed, &TimeZone::UTC));
        Ok(prepared)
    }

    /// Starts a rollout and waits for it, after the checks and, where it is needed, the approval. Prepares the rollout once
    /// more after a person was asked.
    pub(super) async fn launch<S: Future<Output = Result<Prepared, ToolError>> + Send>(
        &self,
        launch: Launch<'_>,
        settle: impl Fn() -> S,
    ) -> Result<CallToolResponse, ToolError> {
        let context = launch.call.context;
        let mut until = self.deadline();
        let mut progress = Progress::towards(context, self.settings.timeouts.progress);
        let mut prepared = in_time(until, settle()).await?;
        let question = self.question(&launch, &prepared)?;
        match self.approvals.obtain(&question, &mut progress, launch.call).await? {
            ApprovalOutcome::Given => {}
            ApprovalOutcome::Asked(question) => return Ok((*question).into()),
            ApprovalOutcome::GivenMeanwhile => {
                let approved = question.binding();
                until = self.deadline();
                let settled = in_time(until, settle()).await?;
                if self.question(&launch, &settled)?.binding() != approved {
                    return Err(outdated());
                }
                prepared = settled;
            }
        }
        let warnings = prepared.warnings.clone();
        let id = self.begin(&launch, prepared)?;
        launch.call.audit.about().id = Some(id.to_string());
        self.wait(id, until, context, progress, &warnings).await
    }

    /// Checks that the rollout may start, and returns the question to the approver.
    fn question<'a>(&self, launch: &'a Launch<'_>, prepared: &'a Prepared) -> Result<Question<'a>, ToolError> {
        prepared.check_no_other_rollout()?;
        prepared.check_not_downgrade(launch.no_downgrade)?;
        let Launch { call, phrase, plan_hash, resumes, .. } = launch;
        let Prepared { rollout, ahead, changes, .. } = prepared;
        let mut question = Question::about(&call.request.name, call.arguments, phrase, rollout, ahead);
        let changes = changes.as_ref().map(|changes| report::packages(rollout, changes, MOST_PACKAGES));
        question.changes = changes.unwrap_or_default();
        question.plan_hash = plan_hash.as_deref();
        if let Some((_, wave)) = resumes.and_then(unconfirmed) {
            question.confirm(wave);
        }
        let allowed = self.settings.revisions.check(question.asked, &question.tiers);
        if allowed.is_err() && !self.ran_before(rollout)? {
            allowed?;
        }
        Ok(question)
    }

    /// Starts the background process of the rollout. The journal has the rollout when this returns.
    fn begin(&self, launch: &Launch<'_>, prepared: Prepared) -> Result<RolloutId, ToolError> {
        let background = Background {
            program: self.settings.program.clone(),
            // The output has the phases of hosts in flight, which the journal lacks.
            arguments: vec!["apply".into(), "--json".into()],
            environment: self.settings.environment(self.connection(launch.credential)?),
        };
        if let Some(left) = launch.resumes {
            return self.resume(left, &background);
        }
        let rollout = Arc::new(prepared.rollout);
        background.begin(&rollout, &self.settings.operator.journals)?;
        Ok(rollout.id)
    }

    /// Hands a recorded rollout to a background process, with the confirmation of its next wave.
    fn resume(&self, left: &Summary, background: &Background) -> Result<RolloutId, ToolError> {
        let journals = &self.settings.operator.journals;
        let id = left.rollout.as_ref().ok_or_else(outdated)?.id;
        let (recorded, mut journal) = journals.take_up(&id.to_string())?;
        // Checked under the lock: nothing may have happened since the person was asked.
        if recorded != *left {
            return Err(outdated());
        }
        let at = (self.settings.clock)();
        // Recording that a wave began confirms it.
        let confirmed = unconfirmed(left).map(|(wave, _)| EventKind::WaveStarted { wave });
        let mut events = std::iter::once(EventKind::Resumed).chain(confirmed).map(|kind| Event { at, kind });
        let recorded = events.try_for_each(|event| journal.record(&event)).and_then(|()| journal.sync());
        recorded
            .map_err(|error| ToolError::new("journal_unusable", format!("the journal cannot be written: {error}")))?;
        background.resume(id, journal, journals)?;
        Ok(id)
    }
}

/// Returns the next wave where its plan wants a person to confirm it.
fn unconfirmed(left: &Summary) -> Option<(WaveIndex, &str)> {
    let index = left.current();
    let wave = left.rollout.as_ref()?.plan.waves.get(index).filter(|wave| wave.limits.confirm)?;
    let began = left.waves.get(index)?.began_at.is_some();
    (!began).then_some((WaveIndex(index), wave.name.as_str()))
}

/// Waits until the hosts and the commit are settled, or fails when the call has to be answered.
pub(super) async fn in_time<T>(
    until: Instant,
    settled: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    timeout_at(until, Box::pin(settled)).await.unwrap_or_else(|_| {
        Err(ToolError::new("too_slow", "the hosts and the commit could not be settled in time")
            .next("nothing was sent; check that the repository can be reached, or give the whole commit id"))
    })
}
