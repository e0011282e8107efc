//! From what an assistant asks for to a rollout that runs: hosts and commit are settled, a person is asked where one has to
//! be, all of it is settled once more after the answer, and a process of its own carries it out.
//!
//! So a rollout is on record before it begins, goes on when the client ends this server, as many do with a call that they
//! cancel, and any later process can tell how it ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use rmcp::model::CallToolResponse;
use tokio::time::{Instant, timeout_at};

use super::approval::{ApprovalOutcome, Question, outdated};
use super::call::ToolCall;
use super::context::{ToolContext, within_reach, wrong_tier};
use super::error::ToolError;
use super::follow::WaitUntil;
use super::preview::MOST_PACKAGES;
use super::progress::Progress;
use super::settings::Credential;
use crate::clock;
use crate::operator::detach::{Background, DetachError};
use crate::operator::{Discovered, Kind, Part, PrepareOptions, Prepared};
use crate::plan::{Hooks, Plan};
use crate::protocol::{Revision, Role, RolloutId, Target, Tier};
use crate::report;
use crate::rollout::PlanSource;

pub(super) struct Launch<'a> {
    pub(super) call: ToolCall<'a>,
    /// What to type where a person is asked: the target as plans write it, or the name of the plan.
    pub(super) phrase: String,
    pub(super) credential: Credential,
    pub(super) downgrade: Downgrade,
    /// What `preview_plan` returned.
    pub(super) plan_hash: Option<String>,
}

/// Whether hosts may go back in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downgrade {
    Refused,
    Allowed,
}

impl Downgrade {
    pub(super) const fn of(allow: bool) -> Self {
        if allow { Self::Allowed } else { Self::Refused }
    }
}

pub(super) trait Intent: Sync {
    /// Settles hosts and commit as they are now.
    fn settle(
        &self,
        credential: Credential,
        context: &ToolContext,
        until: Instant,
    ) -> impl Future<Output = Result<Prepared, ToolError>> + Send;

    /// What the question says beside the hosts and the commit.
    fn ask<'a>(&'a self, question: Question<'a>) -> Question<'a> {
        question
    }

    /// Leaves the rollout to a process of its own. It is on record when this returns.
    fn begin(
        &self,
        background: &Background,
        prepared: Prepared,
        context: &ToolContext,
    ) -> Result<RolloutId, ToolError> {
        let rollout = Arc::new(prepared.rollout);
        background.begin(&rollout, &context.settings.journals)?;
        Ok(rollout.id)
    }
}

/// A plan that no one wrote down.
pub(super) struct Unwritten {
    pub(super) plan: Plan,
    pub(super) revision: Revision,
}

impl Intent for Unwritten {
    async fn settle(
        &self,
        credential: Credential,
        context: &ToolContext,
        until: Instant,
    ) -> Result<Prepared, ToolError> {
        let wanted = context.wanted(self.plan.clone(), None, self.revision.clone());
        context.prepare(credential, wanted, until).await
    }
}

impl ToolContext {
    /// What is to be rolled out, before it is known which hosts are there.
    pub(super) fn wanted(&self, plan: Plan, source: Option<PlanSource>, revision: Revision) -> PrepareOptions {
        PrepareOptions {
            plan,
            // What is no plan is said in one line, as `deploy` says it.
            even_if_current: source.is_none(),
            source,
            revision,
            exclude: Vec::new(),
            part: Part::Whole,
            operator: self.settings.operator.clone(),
            kind: Kind::Rollout,
            // What an assistant has done tells what its plan says, and nothing else runs here.
            hooks: Hooks::default(),
            journals: self.settings.journals.clone(),
            flakes: self.settings.flakes.clone(),
            systems: None,
            binary_cache: None,
            cache: self.settings.cache.clone(),
        }
    }

    /// Settles hosts and commit before the call has to be answered.
    pub(super) async fn prepare(
        &self,
        credential: Credential,
        wanted: PrepareOptions,
        until: Instant,
    ) -> Result<Prepared, ToolError> {
        let prepared = async {
            let mut bus = self.connect(credential).await?;
            let called = wanted.call_roll(&mut bus, &self.settings.discovery).await?;
            if wanted.source.is_none() {
                check_targets(&wanted.plan, &called.roll)?;
            }
            let mut prepared = Box::pin(wanted.settle(called)).await?;
            within_reach(credential, &prepared.rollout.plan)?;
            prepared.warnings.extend(report::missed(&prepared.missed(&self.settings.journals), &clock::zone()));
            Ok(prepared)
        };
        in_time(until, Box::pin(prepared)).await
    }

    /// Begins what is intended, unless there is a reason not to or a person has to be asked first, and waits for it.
    pub(super) async fn launch(&self, launch: Launch<'_>, intent: impl Intent) -> Result<CallToolResponse, ToolError> {
        let context = launch.call.context;
        let mut until = self.deadline();
        let mut progress = Progress::towards(context, self.settings.timeouts.progress);
        let mut prepared = intent.settle(launch.credential, self, until).await?;
        let question = self.question(&launch, &prepared, &intent)?;
        match self.approvals.obtain(&question, &mut progress, launch.call).await? {
            ApprovalOutcome::NotNeeded | ApprovalOutcome::GivenBefore => {}
            ApprovalOutcome::Asked(question) => return Ok((*question).into()),
            ApprovalOutcome::GivenMeanwhile => {
                let approved = question.binding();
                until = self.deadline();
                let settled = intent.settle(launch.credential, self, until).await?;
                if self.question(&launch, &settled, &intent)?.binding() != approved {
                    return Err(outdated());
                }
                prepared = settled;
            }
        }
        let warnings = prepared.warnings.clone();
        let id = intent.begin(&self.background(launch.credential)?, prepared, self)?.to_string();
        launch.call.audit.end().id = Some(id.clone());
        Ok(self.wait(&id, WaitUntil { context, until, progress, warnings }).await?.into_response())
    }

    /// What a person would be asked, once nothing else stands against it.
    fn question<'a>(
        &self,
        launch: &'a Launch<'_>,
        prepared: &'a Prepared,
        intent: &'a impl Intent,
    ) -> Result<Question<'a>, ToolError> {
        prepared.check_no_other_rollout()?;
        if launch.downgrade == Downgrade::Refused {
            prepared.check_not_downgrade(&Tier::ALL)?;
        }
        let Launch { call: ToolCall { tool, arguments, .. }, phrase, plan_hash, .. } = launch;
        let question = Question::about(tool, arguments, phrase, &prepared.rollout, &prepared.ahead);
        let changes =
            prepared.changes.as_ref().map(|changes| report::packages(&prepared.rollout, changes, MOST_PACKAGES));
        let question = question.changing(changes.unwrap_or_default()).previewed(plan_hash.as_deref());
        let question = intent.ask(question);
        let allowed = self.settings.revisions.check(question.asked, question.tiers.iter().copied());
        if allowed.is_err() && !self.ran_before(&prepared.rollout)? {
            allowed?;
        }
        Ok(question)
    }

    fn background(&self, credential: Credential) -> Result<Background, ToolError> {
        let environment = self.settings.environment(self.connection(credential)?);
        let mut background = Background { program: self.settings.program.clone(), ..Background::apply(environment) };
        // Its events are what a journal lacks of a host in flight.
        background.arguments.push("--json".into());
        Ok(background)
    }
}

/// What was settled, unless the call has to be answered before.
pub(super) async fn in_time<T>(
    until: Instant,
    settled: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    timeout_at(until, settled).await.unwrap_or_else(|_| {
        Err(ToolError::new("too_slow", "the hosts and the commit could not be settled in time")
            .next("nothing was sent; check that the repository can be reached, or give the whole commit id"))
    })
}

/// Makes sure that each host and role that was asked for is there. A mistyped name is told as that, with the right ones.
fn check_targets(plan: &Plan, called: &Discovered) -> Result<(), ToolError> {
    let reports = || called.hosts.iter().map(|answer| &answer.report);
    for selector in plan.waves.iter().flat_map(|wave| &wave.targets) {
        match &selector.value.target {
            Target::Host(tier, name) => {
                let mut hosts = reports().filter(|host| host.hostname == *name);
                // What a host of another tier says counts only where none of this tier answers.
                match hosts.clone().find(|host| host.tier == *tier).or_else(|| hosts.next()) {
                    Some(host) if host.tier != *tier => return Err(wrong_tier(name, host.tier, *tier)),
                    Some(_) => {}
                    None => {
                        let known = reports().filter(|host| host.tier == *tier).map(|host| host.hostname.as_str());
                        return Err(nobody(
                            "unknown_host",
                            &format!("{tier} host {name:?}", name = name.as_str()),
                            known,
                        ));
                    }
                }
            }
            Target::Role(tier, role) => {
                let roles = || reports().filter(|host| host.tier == *tier).filter_map(|host| host.role.as_ref());
                if !roles().any(|known| known == role) {
                    let what = format!("{tier} host of the role {:?}", role.as_str());
                    return Err(nobody("unknown_role", &what, roles().map(Role::as_str)));
                }
            }
            Target::All(tier) if !reports().any(|host| host.tier == *tier) => {
                return Err(nobody("no_hosts", &format!("{tier} host"), std::iter::empty()));
            }
            Target::All(_) | Target::Custom(_) => {}
        }
    }
    Ok(())
}

/// That no such host answers, with the names to choose from.
pub(super) fn nobody<'a>(code: &'static str, what: &str, known: impl Iterator<Item = &'a str>) -> ToolError {
    let known: BTreeSet<&str> = known.collect();
    let known: Vec<&str> = known.into_iter().take(30).collect();
    let known = if known.is_empty() { "none does".to_owned() } else { format!("those that do: {}", known.join(", ")) };
    ToolError::new(code, format!("no {what} answers; {known}")).next("list_hosts shows hosts, tiers and roles")
}

/// The key for hosts of these tiers: the administrator's, unless all of them are test hosts.
pub(super) fn credential_for(tiers: &BTreeSet<Tier>) -> Credential {
    if tiers.iter().all(|tier| *tier == Tier::Test) { Credential::Test } else { Credential::Admin }
}

impl From<DetachError> for ToolError {
    fn from(error: DetachError) -> Self {
        match error {
            DetachError::Journal(error) => Self::from(error),
            DetachError::Process(_) => Self::new("not_started", error.to_string()).next("nothing was sent; call again"),
        }
    }
}
