//! Asking a person before anything happens outside the test tier.
//!
//! The person types a word, which is more than a click: the target as it stands in the question. An approval is for what the
//! question shows and nothing else, holds for ten minutes and is good for one call. A client that cannot ask is refused,
//! unless the person who started the server decided that no one is asked.
//!
//! This restrains an assistant whose client behaves. It is no boundary: the author of the client writes the answers too. The
//! boundary is the key.

mod question;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationSchema, InputRequest, InputRequiredResult, ProtocolVersion, RequestStateCodec, RequestStateError,
    SealOptions,
};
use rmcp::service::{RequestContext, ServiceError};
use tokio::time::{Instant, interval_at};
use uuid::Uuid;

pub(super) use self::question::Question;
use super::answer::ToolError;
use super::call::{Progress, ToolCall};
use super::redact::Redactor;

/// How long an approval holds, and how long the server waits for one.
const HOLDS_FOR: Duration = Duration::from_mins(10);

/// The name of the answer, in the form and beside a call that is made again.
const FIELD: &str = "approval";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalMode {
    /// A person is asked before anything happens outside the test tier.
    Person,
    /// No one is asked: the person who started the server trusts the assistant with an administrator's key.
    Waived,
}

#[derive(Debug)]
pub(super) enum ApprovalOutcome {
    /// No one has to be asked, or a person typed what was asked for before this call was made.
    Given,
    /// A person typed it just now: what the question showed may have changed meanwhile.
    GivenMeanwhile,
    /// The client has to put this to a person, and then to call again with the answer.
    Asked(Box<InputRequiredResult>),
}

/// Asks, and knows which approvals it has seen. What a question carries to the client and back with the answer is sealed:
/// everyone can read it, and nobody can change it.
pub(super) struct Approvals {
    mode: ApprovalMode,
    redactor: Redactor,
    clock: fn() -> Timestamp,
    /// Its key belongs to this process, so that no seal outlives the list of the spent ones.
    codec: RequestStateCodec,
    /// The nonces of the seals that were spent, until they expire.
    spent: Mutex<BTreeMap<Uuid, Timestamp>>,
}

impl Approvals {
    pub(super) fn new(mode: ApprovalMode, clock: fn() -> Timestamp, redactor: Redactor) -> Self {
        let key = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        let codec = RequestStateCodec::try_new(key).expect("48 bytes are more than the 32 that it wants");
        Self { mode, redactor, clock, codec, spent: Mutex::default() }
    }

    /// Asks for what the question says, in the way that the client of this call supports. Without a yes, the error says why.
    pub(super) async fn obtain(
        &self,
        question: &Question<'_>,
        progress: &mut Option<Progress<'_>>,
        call: ToolCall<'_>,
    ) -> Result<ApprovalOutcome, ToolError> {
        call.audit.about().tier = question.tiers.last().map(ToString::to_string);
        call.audit.about().commit = Some(question.commit.to_string());
        if !question.needs_a_person {
            return Ok(ApprovalOutcome::Given);
        }
        let (outcome, on_record) = match self.mode {
            ApprovalMode::Waived => (ApprovalOutcome::Given, "waived"),
            ApprovalMode::Person => (self.ask(question, progress, call).await?, "given"),
        };
        if !matches!(outcome, ApprovalOutcome::Asked(_)) {
            call.audit.about().approval = Some(on_record);
        }
        Ok(outcome)
    }

    async fn ask(
        &self,
        question: &Question<'_>,
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
        judge(question, &answer)?;
        Ok(ApprovalOutcome::GivenMeanwhile)
    }

    /// Looks at the answer that came with a call, or asks when there is none.
    fn take_answer(&self, question: &Question<'_>, call: &CallToolRequestParams) -> Result<ApprovalOutcome, ToolError> {
        let answer = call.input_responses.as_ref().and_then(|answers| answers.get(FIELD).cloned());
        let Some((state, answer)) = call.request_state.as_ref().zip(answer) else {
            return Ok(ApprovalOutcome::Asked(Box::new(self.sealed(question))));
        };
        self.spend(state, &question.binding())?;
        let answer: ElicitResult = serde_json::from_value(answer).map_err(|_| mistyped(question))?;
        judge(question, &answer)?;
        Ok(ApprovalOutcome::Given)
    }

    fn sealed(&self, question: &Question<'_>) -> InputRequiredResult {
        // The codec's own limit would go by the clock of the machine, which a test cannot set.
        let sealed = (Uuid::new_v4(), (self.clock)() + HOLDS_FOR);
        let state = self.codec.seal_json_with(&sealed, &SealOptions::new().associated_data(&question.binding()));
        let state = state.expect("an id and a time are always JSON");
        let request = InputRequest::Elicitation(ElicitRequest::new(self.form(question)));
        InputRequiredResult::new(Some(BTreeMap::from([(FIELD.to_owned(), request)])), Some(state))
    }

    /// Takes a seal back. It must be of this server, for the same binding, not expired, and not spent before; now it is spent.
    fn spend(&self, state: &str, binding: &[u8]) -> Result<(), ToolError> {
        let sealed = self.codec.open_json_with(state, binding);
        let (nonce, expires_at): (Uuid, Timestamp) = sealed.map_err(|error| invalid(&error))?;
        let now = (self.clock)();
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.retain(|_, expires_at| *expires_at > now);
        if expires_at <= now {
            return Err(expired("this approval is older than ten minutes"));
        }
        match spent.insert(nonce, expires_at) {
            None => Ok(()),
            Some(_) => Err(ToolError::new("approval_used", "this approval was used before; it is good for one call")
                .next("call the tool again, without requestState, to have the person asked once more")),
        }
    }

    fn form(&self, question: &Question<'_>) -> ElicitRequestParams {
        let title = format!("Type {} to approve", question.phrase);
        let schema = ElicitationSchema::builder()
            .required_string_with(FIELD, |field| field.title(title).max_length(256))
            .build()
            .expect("its one property is required and there");
        let message = self.redactor.clean(&question.to_string());
        ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema: schema }
    }
}

/// Whether a client can show a form. A client that only says that it can ask can show one, as before there was more.
fn can_ask(client: ClientCapabilities) -> bool {
    client.elicitation.is_some_and(|how| how.form.is_some() || how.url.is_none())
}

/// Asks over the connection. The call waits, and its client hears that it does.
async fn elicit(
    form: ElicitRequestParams,
    progress: &mut Option<Progress<'_>>,
    context: &RequestContext<RoleServer>,
) -> Result<ElicitResult, ToolError> {
    let mut asked = std::pin::pin!(context.peer.create_elicitation_with_timeout(form, Some(HOLDS_FOR)));
    let every = progress.as_ref().map_or(HOLDS_FOR, |progress| progress.every);
    let mut ticks = interval_at(Instant::now() + every, every);
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            () = context.ct.cancelled() => return Err(expired("the call was cancelled before a person answered")),
            _ = ticks.tick() => {
                if let Some(progress) = progress {
                    progress.say("a person is asked to approve".to_owned(), 0, 0).await;
                }
            }
        }
    };
    answer.map_err(|error| match error {
        ServiceError::Timeout { .. } => expired("no one answered within ten minutes"),
        _ => ToolError::new("approval_unavailable", "the client could not put the question to a person")
            .next("nothing was done; ask the person you work for, who can deploy without you"),
    })
}

/// Makes sure that an answer is the word that was asked for.
fn judge(question: &Question<'_>, answer: &ElicitResult) -> Result<(), ToolError> {
    if answer.action != ElicitationAction::Accept {
        return Err(ToolError::new("approval_declined", "the person who was asked did not approve")
            .next("nothing was done; do not ask again unless you are told to"));
    }
    let typed = answer.content.as_ref().and_then(|content| content.get(FIELD)).and_then(|typed| typed.as_str());
    if typed.map(str::trim) == Some(&question.phrase) { Ok(()) } else { Err(mistyped(question)) }
}

fn mistyped(question: &Question<'_>) -> ToolError {
    ToolError::new("approval_mistyped", format!("the person did not type {}", question.phrase))
        .next("nothing was done; call the tool again, without requestState, to have the person asked once more")
}

fn expired(why: &str) -> ToolError {
    ToolError::new("approval_expired", why)
        .next("nothing was done; call the tool again to have the person asked once more")
}

/// That what was approved is not what would happen now.
pub(super) fn outdated() -> ToolError {
    ToolError::new(
        "approval_outdated",
        "the hosts, their commits or the commit of the branch changed during the question",
    )
    .next("nothing was done; call the tool again to have the person asked about what it would do now")
}

fn invalid(error: &RequestStateError) -> ToolError {
    tracing::warn!("an approval was refused: {error}");
    ToolError::new(
        "approval_invalid",
        "this approval is not for what this call would do now: the arguments, the hosts or the commit of the branch have \
         changed, the approval was changed on its way, or this server was restarted",
    )
    .next("call the tool again, without requestState, to have the person asked about what it would do now")
}

impl fmt::Debug for Approvals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approvals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
