//! Asks a person for an approval before a rollout outside the test tier.
//!
//! The person types the target that the question shows, which is more than a click. An approval covers only what the question
//! shows, for one call within ten minutes. A client that cannot ask is refused, unless the settings waive approvals.
//!
//! Approvals restrain an assistant whose client behaves. They are no boundary: the author of the client also writes its
//! answers. The boundary is the key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationSchema, InputRequest, InputRequiredResult, JsonObject, ProtocolVersion, RequestStateCodec, SealOptions,
};
use rmcp::service::{RequestContext, ServiceError};
use serde::Serialize;
use tokio::time::sleep;
use uuid::Uuid;

use super::answer::ToolError;
use super::call::{Progress, ToolCall};
use super::policy::{Credential, tiers_of};
use super::redact::Redactor;
use crate::plan::{ResolvedHost, ResolvedWave};
use crate::protocol::{HostName, Revision, Tier};
use crate::rollout::Rollout;
use crate::text::safe;

/// The time for which an approval is valid, and for which the server waits for one.
const HOLDS_FOR: Duration = Duration::from_mins(10);

/// The name of the answer, in the form and in the second call.
const FIELD: &str = "approval";

/// The most hosts that a line of a question names.
const MOST_NAMED: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalMode {
    Person,
    /// The person who started the server trusts the assistant with an administrator's key.
    Waived,
}

#[derive(Debug)]
pub(super) enum ApprovalOutcome {
    /// No approval is needed, or a person approved before this call.
    Given,
    /// A person approved during this call: the fleet may have changed since the question.
    GivenMeanwhile,
    /// The client has to show this question to a person, and to call again with the answer.
    Asked(Box<InputRequiredResult>),
}

/// The question to an approver. An approval is bound to all of it, also to what there is no room to show.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ApprovalQuestion<'a> {
    tool: &'a str,
    arguments: &'a JsonObject,
    /// What the person types: the target as plans write it, such as `prod.role.dns`, or the name of the plan.
    phrase: String,
    /// The tiers that the rollout may reach, the lowest first.
    pub(super) tiers: BTreeSet<Tier>,
    /// Whether the rollout may reach beyond test, or a person has to confirm its wave.
    pub(super) needs_a_person: bool,
    hosts: Vec<&'a HostName>,
    /// The hosts that go back in history, the hooks and waves, and the package changes, each with a label.
    pub(super) lines: Vec<(&'static str, String)>,
    pub(super) asked: &'a Revision,
    /// The commit of the asked revision, which would be deployed.
    commit: &'a Revision,
    pub(super) plan_hash: Option<&'a str>,
}

/// Asks for approvals, and remembers the used ones. A question carries a sealed state to the client and back: everyone can
/// read it, and nobody can change it.
#[derive(Debug)]
pub(super) struct Approvals {
    mode: ApprovalMode,
    redactor: Redactor,
    clock: fn() -> Timestamp,
    /// Its key belongs to this process, so that no seal outlives `spent`.
    codec: RequestStateCodec,
    /// The nonces of used seals.
    spent: Mutex<BTreeSet<Uuid>>,
}

impl Approvals {
    pub(super) fn new(mode: ApprovalMode, clock: fn() -> Timestamp, redactor: Redactor) -> Self {
        let key = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        let codec = RequestStateCodec::try_new(key).expect("48 bytes are more than the 32 that it wants");
        Self { mode, redactor, clock, codec, spent: Mutex::default() }
    }

    /// Asks the question in the way that the client supports. Any answer but an approval is an error.
    pub(super) async fn obtain(
        &self,
        question: &ApprovalQuestion<'_>,
        progress: &mut Option<Progress<'_>>,
        call: ToolCall<'_>,
    ) -> Result<ApprovalOutcome, ToolError> {
        call.audit.line().tier = question.tiers.last().map(ToString::to_string);
        call.audit.line().commit = Some(question.commit.to_string());
        if !question.needs_a_person {
            return Ok(ApprovalOutcome::Given);
        }
        if self.mode == ApprovalMode::Waived {
            call.audit.line().approval = Some("waived");
            return Ok(ApprovalOutcome::Given);
        }
        let outcome = self.ask(question, progress, call).await?;
        if !matches!(outcome, ApprovalOutcome::Asked(_)) {
            call.audit.line().approval = Some("given");
        }
        Ok(outcome)
    }

    async fn ask(
        &self,
        question: &ApprovalQuestion<'_>,
        progress: &mut Option<Progress<'_>>,
        ToolCall { context, request, .. }: ToolCall<'_>,
    ) -> Result<ApprovalOutcome, ToolError> {
        if !context.client_capabilities().is_some_and(can_ask) {
            let what = "this needs the approval of a person, and this client cannot ask for it";
            return Err(ToolError::new("approval_unavailable", what).next(
                "nothing was done; let a person deploy with `homelab-deploy`, use a client that supports elicitation, or \
                 ask the person who started this server for --admin-without-approval",
            ));
        }
        if context.protocol_version() >= Some(ProtocolVersion::V_2026_07_28) {
            return self.take_answer(question, request);
        }
        let answer = elicit(self.form(question), progress, context).await?;
        check_phrase(question, &answer)?;
        Ok(ApprovalOutcome::GivenMeanwhile)
    }

    /// Checks the answer that came with the call, or asks when there is none.
    fn take_answer(
        &self,
        question: &ApprovalQuestion<'_>,
        call: &CallToolRequestParams,
    ) -> Result<ApprovalOutcome, ToolError> {
        let answer = call.input_responses.as_ref().and_then(|answers| answers.get(FIELD).cloned());
        let Some((state, answer)) = call.request_state.as_ref().zip(answer) else {
            return Ok(ApprovalOutcome::Asked(Box::new(self.sealed(question))));
        };
        self.use_up(state, &question.binding())?;
        let answer: ElicitResult = serde_json::from_value(answer).map_err(|_| mistyped(question))?;
        check_phrase(question, &answer)?;
        Ok(ApprovalOutcome::Given)
    }

    fn sealed(&self, question: &ApprovalQuestion<'_>) -> InputRequiredResult {
        // The codec's own expiry uses the system clock, which a test cannot set.
        let sealed = (Uuid::new_v4(), (self.clock)() + HOLDS_FOR);
        let state = self.codec.seal_json_with(&sealed, &SealOptions::new().associated_data(&question.binding()));
        let state = state.expect("an id and a time are always JSON");
        let request = InputRequest::Elicitation(ElicitRequest::new(self.form(question)));
        InputRequiredResult::new(Some(BTreeMap::from([(FIELD.to_owned(), request)])), Some(state))
    }

    /// Uses up a seal, which has to be this server's, for the same binding, not expired and not used before.
    fn use_up(&self, state: &str, binding: &[u8]) -> Result<(), ToolError> {
        let sealed = self.codec.open_json_with(state, binding);
        let (nonce, expires_at): (Uuid, Timestamp) = sealed.map_err(|error| {
            tracing::warn!("an approval was refused: {error}");
            let what = "this approval is not for what this call would do now: the arguments, the hosts or the commit have \
                changed, it was changed on its way, or this server was restarted";
            refused("approval_invalid", what)
        })?;
        if expires_at <= (self.clock)() {
            return Err(refused("approval_expired", "this approval is older than ten minutes"));
        }
        if !self.spent.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce) {
            return Err(refused("approval_used", "this approval was used before; it is good for one call"));
        }
        Ok(())
    }

    fn form(&self, question: &ApprovalQuestion<'_>) -> ElicitRequestParams {
        let title = format!("Type {} to approve", question.phrase);
        let schema = ElicitationSchema::builder()
            .required_string_with(FIELD, |field| field.title(title).max_length(256))
            .build()
            .expect("its one property is required and there");
        let message = self.redactor.clean(&question.to_string());
        ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema: schema }
    }
}

/// Whether a client can show a form. One that declares elicitation without a mode supports forms: older protocols have no
/// other mode.
fn can_ask(client: ClientCapabilities) -> bool {
    client.elicitation.is_some_and(|how| how.form.is_some() || how.url.is_none())
}

/// Asks over the connection. The call waits, and sends progress.
async fn elicit(
    form: ElicitRequestParams,
    progress: &mut Option<Progress<'_>>,
    context: &RequestContext<RoleServer>,
) -> Result<ElicitResult, ToolError> {
    let mut asked = std::pin::pin!(context.peer.create_elicitation_with_timeout(form, Some(HOLDS_FOR)));
    let every = progress.as_ref().map_or(HOLDS_FOR, |progress| progress.every);
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            () = context.ct.cancelled() => {
                return Err(refused("approval_expired", "the call was cancelled before a person answered"));
            }
            () = sleep(every) => {
                if let Some(progress) = progress {
                    progress.say("a person is asked to approve".to_owned(), 0, 0).await;
                }
            }
        }
    };
    answer.map_err(|error| match error {
        ServiceError::Timeout { .. } => refused("approval_expired", "no one answered within ten minutes"),
        _ => ToolError::new("approval_unavailable", "the client could not put the question to a person")
            .next("nothing was done; ask the person you work for, who can deploy without you"),
    })
}

fn check_phrase(question: &ApprovalQuestion<'_>, answer: &ElicitResult) -> Result<(), ToolError> {
    if answer.action != ElicitationAction::Accept {
        return Err(ToolError::new("approval_declined", "the person who was asked did not approve")
            .next("nothing was done; do not ask again unless you are told to"));
    }
    let typed = answer.content.as_ref().and_then(|content| content.get(FIELD)).and_then(|typed| typed.as_str());
    if typed.map(str::trim) == Some(&question.phrase) { Ok(()) } else { Err(mistyped(question)) }
}

fn mistyped(question: &ApprovalQuestion<'_>) -> ToolError {
    refused("approval_mistyped", format!("the person did not type {}", question.phrase))
}

pub(super) fn outdated() -> ToolError {
    refused("approval_outdated", "the hosts, their commits or the commit of the branch changed during the question")
}

/// Refuses an approval that the next call can get.
fn refused(code: &'static str, what: impl Into<String>) -> ToolError {
    ToolError::new(code, what).next(
        "nothing was done; call the tool again, without requestState, to have the person asked about what it would do now",
    )
}

impl<'a> ApprovalQuestion<'a> {
    /// Asks whether a call may start a rollout; the hosts `ahead` go back in history.
    pub(super) fn about(
        tool: &'a str,
        arguments: &'a JsonObject,
        phrase: &str,
        rollout: &'a Rollout,
        ahead: &[HostName],
    ) -> Self {
        let (plan, tiers) = (&rollout.plan, tiers_of(&rollout.plan));
        let from = |host: &'a ResolvedHost| host.revision.as_ref().map_or("?", |commit| commit.short());
        let back = plan.hosts().filter(|host| ahead.contains(&host.hostname));
        let back = back.map(|host| ("WARNING", format!("{} goes BACK from {}", host.hostname, from(host))));
        let hooks = plan.hooks.iter().map(|(hook, command)| format!("{hook}: runs {} here", command.join(" ")));
        let steps = hooks.chain(plan.waves.iter().map(step)).map(|step| ("step", safe(&step)));
        Self {
            tool,
            arguments,
            phrase: safe(phrase),
            needs_a_person: Credential::for_tiers(&tiers) == Credential::Admin,
            tiers,
            hosts: plan.hosts().map(|host| &host.hostname).collect(),
            lines: back.chain(steps).collect(),
            asked: &rollout.asked,
            commit: &rollout.revision,
            plan_hash: None,
        }
    }

    /// Serializes the question: an approval is bound to these bytes.
    pub(super) fn binding(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and texts only, so this cannot fail")
    }
}

/// Describes a wave, with the check that would run on this machine.
fn step(wave: &ResolvedWave) -> String {
    let hosts: Vec<&HostName> = wave.hosts.iter().map(|host| &host.hostname).collect();
    let check = wave.limits.check.as_ref().map(|check| format!(", then runs {} here", check.command.join(" ")));
    format!("{}: {} {}{}", wave.name, wave.action, named(&hosts), check.unwrap_or_default())
}

/// Lists the first names and counts the others. The approval is bound to all of them.
fn named(hosts: &[&HostName]) -> String {
    let names = hosts.iter().take(MOST_NAMED).map(|host| host.as_str()).collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(MOST_NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

impl fmt::Display for ApprovalQuestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers: Vec<&str> = self.tiers.iter().map(|tier| tier.as_str()).collect();
        writeln!(f, "An assistant wants to deploy to {}.\n", tiers.join(" and "))?;
        writeln!(f, "target:  {}", self.phrase)?;
        writeln!(f, "commit:  {} ({})", self.commit, self.asked)?;
        writeln!(f, "hosts:   {} ({})", named(&self.hosts), self.hosts.len())?;
        for (label, line) in &self.lines {
            writeln!(f, "{:<8} {line}", format!("{label}:"))?;
        }
        write!(f, "\nType {} to approve. The author of this commit controls these hosts.", self.phrase)
    }
}

#[cfg(test)]
mod tests;
