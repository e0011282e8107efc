//! From what an assistant asks for to a rollout that runs: hosts and commit are settled, a person is asked where one has to
//! be, all of it is settled once more after the answer, and a process of its own carries it out.
//!
//! So a rollout is on record before it begins, goes on when the client ends this server, as many do with a call that they
//! cancel, and any later process can tell how it ended.

use std::sync::Arc;

use jiff::tz::TimeZone;
use rmcp::model::CallToolResponse;
use tokio::time::{Instant, timeout_at};

use super::answer::ToolError;
use super::approval::{ApprovalOutcome, Question, outdated};
use super::boundary::Credential;
use super::call::{Progress, ToolCall};
use super::context::ToolContext;
use super::settings::Settings;
use super::targets::check_targets;
use crate::operator::detach::Background;
use crate::operator::{PrepareOptions, Prepared};
use crate::plan::Plan;
use crate::protocol::{Revision, RolloutId, Tier};
use crate::report;
use crate::rollout::{Event, EventKind, PlanSource, Rollout, Summary, WaveIndex};

/// More packages than this are counted, in a preview and in a question.
pub(super) const MOST_PACKAGES: usize = 15;

pub(super) struct Launch<'a> {
    pub(super) call: ToolCall<'a>,
    /// What to type where a person is asked: the target as plans write it, or the name of the plan.
    pub(super) phrase: String,
    pub(super) credential: Credential,
    /// The tiers of which no host may go back in history.
    pub(super) no_downgrade: &'static [Tier],
    /// What `preview_plan` returned.
    pub(super) plan_hash: Option<String>,
    /// The rollout that goes on, where no new one begins.
    pub(super) resumes: Option<Resumed<'a>>,
}

/// A rollout that goes on where its record ends.
#[derive(Clone, Copy)]
pub(super) struct Resumed<'a> {
    pub(super) rollout: &'a Rollout,
    pub(super) summary: &'a Summary,
}

impl<'a> Resumed<'a> {
    /// The wave that a person has to confirm before the rollout goes on.
    fn unconfirmed(self) -> Option<(WaveIndex, &'a str)> {
        let index = self.summary.current();
        let wave = self.rollout.plan.waves.get(index).filter(|wave| wave.limits.confirm)?;
        let began = self.summary.waves.get(index)?.began_at.is_some();
        (!began).then_some((WaveIndex(index), wave.name.as_str()))
    }

    fn begin(self, background: &Background, settings: &Settings) -> Result<RolloutId, ToolError> {
        let (id, journals) = (self.rollout.id, &settings.operator.journals);
        let (left, mut journal) = journals.take_up(&id.to_string())?;
        // With the lock in hand: nothing may have happened since the person was asked.
        if left != *self.summary {
            return Err(outdated());
        }
        let at = (settings.clock)();
        // A wave that is on record as begun is a confirmed one.
        let confirmed = self.unconfirmed().map(|(wave, _)| EventKind::WaveStarted { wave });
        let mut events = std::iter::once(EventKind::Resumed).chain(confirmed).map(|kind| Event { at, kind });
        let recorded = events.try_for_each(|event| journal.record(&event)).and_then(|()| journal.sync());
        recorded
            .map_err(|error| ToolError::new("journal_unusable", format!("the journal cannot be written: {error}")))?;
        background.resume(id, journal, journals)?;
        Ok(id)
    }
}

impl ToolContext {
    /// What is to be rolled out, before it is known which hosts are there. Nothing runs here to tell of it but what the plan says.
    pub(super) fn wanted(&self, plan: Plan, source: Option<PlanSource>, revision: Revision) -> PrepareOptions {
        let options = PrepareOptions::new(plan, revision, self.settings.operator.clone());
        // What is no plan is said in one line, as `deploy` says it.
        PrepareOptions { even_if_current: source.is_none(), source, ..options }
    }

    /// Settles hosts and commit.
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

    /// Begins what is settled, unless there is a reason not to or a person has to be asked first, and waits for it. It is
    /// settled once more after a person was asked.
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

    /// What a person would be asked, once nothing else stands against it.
    fn question<'a>(&self, launch: &'a Launch<'_>, prepared: &'a Prepared) -> Result<Question<'a>, ToolError> {
        prepared.check_no_other_rollout()?;
        prepared.check_not_downgrade(launch.no_downgrade)?;
        let Launch { call, phrase, plan_hash, resumes, .. } = launch;
        let Prepared { rollout, ahead, changes, .. } = prepared;
        let mut question = Question::about(&call.request.name, call.arguments, phrase, rollout, ahead);
        let changes = changes.as_ref().map(|changes| report::packages(rollout, changes, MOST_PACKAGES));
        question.changes = changes.unwrap_or_default();
        question.plan_hash = plan_hash.as_deref();
        if let Some((_, wave)) = resumes.and_then(Resumed::unconfirmed) {
            question.confirm(wave);
        }
        let allowed = self.settings.revisions.check(question.asked, &question.tiers);
        if allowed.is_err() && !self.ran_before(rollout)? {
            allowed?;
        }
        Ok(question)
    }

    /// Leaves the rollout to a process of its own. It is on record when this returns.
    fn begin(&self, launch: &Launch<'_>, prepared: Prepared) -> Result<RolloutId, ToolError> {
        let background = Background {
            program: self.settings.program.clone(),
            // Its events are what a journal lacks of a host in flight.
            arguments: vec!["apply".into(), "--json".into()],
            environment: self.settings.environment(self.connection(launch.credential)?),
        };
        if let Some(resumed) = launch.resumes {
            return resumed.begin(&background, &self.settings);
        }
        let rollout = Arc::new(prepared.rollout);
        background.begin(&rollout, &self.settings.operator.journals)?;
        Ok(rollout.id)
    }
}

/// What was settled, unless the call has to be answered before.
pub(super) async fn in_time<T>(
    until: Instant,
    settled: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    timeout_at(until, Box::pin(settled)).await.unwrap_or_else(|_| {
        Err(ToolError::new("too_slow", "the hosts and the commit could not be settled in time")
            .next("nothing was sent; check that the repository can be reached, or give the whole commit id"))
    })
}
