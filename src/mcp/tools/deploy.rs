//! Implements the tools that start rollouts: `deploy`, `deploy_admin`, `rollback` and `resume_rollout`.
//!
//! All settle the hosts and the commit, ask a person where the plan needs an approval, settle both once more after the answer, and
//! start a background process that runs the rollout. So the journal has the rollout before it begins, the rollout goes on when the
//! client kills this server, as many clients do to cancel a call, and any later process can show how it ended.

use std::sync::Arc;

use jiff::tz::TimeZone;
use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::hosts::check_targets;
use crate::mcp::answer::ToolError;
use crate::mcp::approval::{ApprovalOutcome, ApprovalQuestion, outdated};
use crate::mcp::call::{self, Progress, ToolCall};
use crate::mcp::context::{ToolContext, is_resumable};
use crate::mcp::policy::{Credential, ran_before};
use crate::operator::background::Background;
use crate::operator::prepare::prepare_again;
use crate::operator::{PrepareOptions, Prepared, RollbackPlan};
use crate::plan::{Plan, Selector, Settings, Spanned, Wave};
use crate::protocol::{Action, HostName, Revision, Role, RolloutId, Target, Tier};
use crate::report;
use crate::rollout::{Event, EventKind, PlanSource, Summary, WaveIndex};
use crate::text::safe;

/// The most packages that a preview and a question list.
pub(super) const MOST_PACKAGES: usize = 15;

/// Deploy to one host, the hosts of a role, or all hosts of a tier, production included. Outside test a person is asked to
/// approve. Otherwise like deploy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployArguments {
    /// The tier of the target.
    #[schemars(schema_with = "call::tier")]
    tier: Tier,
    /// The host. Give exactly one of hostname, all and role.
    #[schemars(with = "String", default)]
    hostname: Option<HostName>,
    /// true: every host of the tier that answers.
    #[serde(default)]
    all: bool,
    /// The hosts of the tier and this role that answer.
    #[schemars(with = "String", default)]
    role: Option<Role>,
    /// Branch, tag or commit id.
    #[serde(default = "master")]
    #[schemars(with = "String")]
    branch: Revision,
    /// What nixos-rebuild does.
    #[serde(default, deserialize_with = "call::parsed")]
    #[schemars(schema_with = "action")]
    action: Action,
    /// true: also to hosts that run a later commit.
    #[serde(default)]
    allow_downgrade: bool,
}

/// Return a host, or the hosts that a rollout changed, to the commit that they ran before. Waits like deploy. Outside test a
/// person is asked to approve.
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

/// Go on with a rollout that is paused before a wave, or whose process ended too early (`cut_off`). Waits like deploy. A person
/// is asked where the wave has to be confirmed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ResumeArguments {
    /// The rollout. Without it: the latest that is paused or cut off.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

pub(super) struct Launch<'a> {
    pub(super) call: ToolCall<'a>,
    /// The text that the approver types: the target as plans write it, or the name of the plan.
    pub(super) phrase: String,
    pub(super) credential: Credential,
    /// The tiers whose hosts must not go back in history.
    pub(super) no_downgrade: &'static [Tier],
    pub(super) plan_hash: Option<String>,
    /// The recorded rollout to resume; `None` starts a new one.
    pub(super) resumes: Option<&'a Summary>,
}

pub(super) async fn deploy(
    context: &ToolContext,
    credential: Credential,
    asked: DeployArguments,
    call: ToolCall<'_>,
) -> Result<CallToolResponse, ToolError> {
    let tier = asked.tier;
    let (phrase, target) = match (&asked.hostname, asked.all, &asked.role) {
        (Some(host), false, None) => (format!("{tier}.{host}"), Target::Host(tier, host.clone())),
        (None, true, None) => (format!("{tier}.all"), Target::All(tier)),
        (None, false, Some(role)) => (format!("{tier}.role.{role}"), Target::Role(tier, role.clone())),
        _ => return Err(context.one_target(credential, tier).await),
    };
    let settings = Settings { action: asked.action, ..Settings::default() };
    let selector = Spanned::nowhere(Selector { text: phrase.clone(), target });
    let plan = Plan::unwritten(phrase.clone(), vec![Wave::unwritten(phrase.clone(), vec![selector], settings)]);
    let options = context.options(plan, None, asked.branch);
    let no_downgrade = if asked.allow_downgrade { &[][..] } else { &Tier::ALL };
    let launch = Launch { call, phrase, credential, no_downgrade, plan_hash: None, resumes: None };
    context.launch(launch, || context.prepare(credential, options.clone())).await
}

pub(super) async fn roll_back(
    context: &ToolContext,
    asked: RollbackArguments,
    call: ToolCall<'_>,
) -> Result<CallToolResponse, ToolError> {
    let rollback = match asked {
        RollbackArguments { hostname: Some(host), rollout_id: None } => {
            RollbackPlan::of_hosts(&context.rollouts()?, &[(None, host)])?
        }
        RollbackArguments { hostname: None, rollout_id: Some(id) } => {
            let (rollout, _) = context.rollout(Some(&id))?;
            RollbackPlan::of_rollout(&context.rollouts()?, &rollout.id.to_string())?
        }
        _ => {
            return Err(ToolError::new("invalid_target", "give exactly one of hostname and rollout_id")
                .next("rollout_status with list: true shows the rollouts on record"));
        }
    };
    let credential = Credential::for_tiers(&rollback.plan.tiers());
    let phrase = rollback.plan.name.clone();
    let options = context.options(rollback.plan.clone(), None, rollback.commit.clone().into());
    let settle = async || {
        let prepared = context.prepare(credential, options.clone()).await?;
        rollback.check(&prepared.roster)?;
        Ok(prepared)
    };
    let launch = Launch { call, phrase, credential, no_downgrade: &[], plan_hash: None, resumes: None };
    context.launch(launch, settle).await
}

pub(super) async fn resume(
    context: &ToolContext,
    asked: ResumeArguments,
    call: ToolCall<'_>,
) -> Result<CallToolResponse, ToolError> {
    let found = context.find(asked.rollout_id.as_deref(), is_resumable)?;
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

fn master() -> Revision {
    "master".parse().expect("it is a branch's name")
}

fn action(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": Action::ALL.map(Action::as_str) })
}

impl ToolContext {
    /// Returns options for a whole plan, which runs no hooks but the plan's own.
    pub(super) fn options(&self, plan: Plan, source: Option<PlanSource>, revision: Revision) -> PrepareOptions {
        let options = PrepareOptions::new(plan, revision, self.settings.operator.clone());
        // Without a plan file this is a deployment, which asks current hosts as the `deploy` command does.
        PrepareOptions { even_if_current: source.is_none(), source, ..options }
    }

    /// Decides on the hosts and the commit.
    pub(super) async fn prepare(&self, credential: Credential, options: PrepareOptions) -> Result<Prepared, ToolError> {
        let mut bus = self.connect(credential).await?;
        let called = options.call_roll(&mut bus).await?;
        if options.source.is_none() {
            check_targets(&options.plan, &called.roll.hosts)?;
        }
        let mut prepared = Box::pin(options.settle(called)).await?;
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
        let mut prepared = within_deadline(until, settle()).await?;
        let question = self.question(&launch, &prepared)?;
        match self.approvals.obtain(&question, &mut progress, launch.call).await? {
            ApprovalOutcome::Given => {}
            ApprovalOutcome::Asked(question) => return Ok((*question).into()),
            ApprovalOutcome::GivenMeanwhile => {
                let approved = question.binding();
                until = self.deadline();
                prepared = within_deadline(until, settle()).await?;
                if self.question(&launch, &prepared)?.binding() != approved {
                    return Err(outdated());
                }
            }
        }
        let warnings = prepared.warnings.clone();
        let id = self.begin(&launch, prepared)?;
        launch.call.audit.line().id = Some(id.to_string());
        self.wait(id, until, context, progress, &warnings).await
    }

    /// Checks that the rollout may start, and returns the question to the approver.
    fn question<'a>(&self, launch: &'a Launch<'_>, prepared: &'a Prepared) -> Result<ApprovalQuestion<'a>, ToolError> {
        prepared.check_no_other_rollout()?;
        prepared.check_not_downgrade(launch.no_downgrade)?;
        let Launch { call, phrase, plan_hash, resumes, .. } = launch;
        let Prepared { rollout, ahead, changes, .. } = prepared;
        let mut question = ApprovalQuestion::about(&call.request.name, call.arguments, phrase, rollout, ahead);
        question.plan_hash = plan_hash.as_deref();
        if let Some(whole) = resumes.and_then(|left| left.rollout.as_deref()) {
            // What is left of it may be no host at all, or the rollback of hosts that are done.
            question.needs_a_person = Credential::for_plan(&whole.plan) == Credential::Admin;
        }
        if let Some((_, wave)) = resumes.and_then(unconfirmed) {
            question.needs_a_person = true;
            question.lines.push(("step", safe(&format!("this confirms wave {wave}"))));
        }
        let changes = changes.iter().flat_map(|changes| report::packages(rollout, changes, MOST_PACKAGES));
        question.lines.extend(changes.map(|change| ("change", change)));
        let allowed = self.settings.revisions.check(question.asked, &question.tiers);
        if allowed.is_err() && !ran_before(rollout, &self.rollouts()?) {
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
        let (recorded, mut journal) = journals.take_over(&id.to_string())?;
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
    let index = left.current_wave;
    let wave = left.rollout.as_ref()?.plan.waves.get(index.0).filter(|wave| wave.limits.confirm)?;
    let began = left.waves.get(index.0)?.began_at.is_some();
    (!began).then_some((index, wave.name.as_str()))
}

/// Waits until the hosts and the commit are settled, or fails when the call has to be answered.
pub(super) async fn within_deadline<T>(
    until: Instant,
    settled: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    timeout_at(until, Box::pin(settled)).await.unwrap_or_else(|_| {
        Err(ToolError::new("too_slow", "the hosts and the commit could not be settled in time")
            .next("nothing was sent; check that the repository can be reached, or give the whole commit id"))
    })
}
