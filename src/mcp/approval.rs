//! Asking a person before anything happens outside the test tier.
//!
//! What is asked for is a typed word, not a click: the target as it stands in the question. An approval is for what the
//! question showed and for nothing else, holds for ten minutes and is good for one call. A client that cannot ask is
//! refused, unless whoever started the server has said that nobody need be asked.
//!
//! This holds an assistant back that does what its client lets it do. It is no boundary: who writes the client writes the
//! answers too. The boundary is the key.

mod question;
mod seal;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rmcp::RoleServer;
use rmcp::model::{
    ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema,
    InputRequest, InputRequiredResult, ProtocolVersion,
};
use rmcp::service::{RequestContext, ServiceError};

pub(super) use self::question::Question;
use self::seal::Seals;
use super::call::{Call, Reply};
use super::error::ToolError;

/// How long an approval holds, and how long somebody is waited for who could give it.
const HOLDS_FOR: Duration = Duration::from_mins(10);

/// Under which name the answer comes, in the form and beside a call that is made again.
const FIELD: &str = "approval";

/// Whether anybody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// A person is, before anything happens outside the test tier.
    Person,
    /// Nobody is: whoever started the server trusts the assistant with the key of an administrator.
    Nobody,
}

/// What a person has said, or is yet to be asked.
#[derive(Debug)]
pub(super) enum Approval {
    /// It may be done.
    Given(Consent),
    /// The client is to put this to a person, and then to call again with the answer.
    Asked(Box<InputRequiredResult>),
}

/// Why something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consent {
    /// It touches the test tier only.
    NotNeeded,
    /// Nobody is asked here.
    Waived,
    /// A person typed what was asked for.
    Typed,
}

/// Asks, and knows which approvals it has seen.
#[derive(Debug)]
pub(super) struct Approvals {
    asking: Asking,
    seals: Seals,
}

impl Approvals {
    pub(super) fn new(asking: Asking, clock: fn() -> Timestamp) -> Self {
        Self { asking, seals: Seals::new(clock) }
    }

    /// Asks for what the question says, the way in which the client of this call can. Without a yes, the error says why.
    pub(super) async fn obtain(
        &self,
        question: &Question<'_>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Approval, ToolError> {
        let approval = self.consent_to(question, context).await;
        if let Some(call) = Call::of(context) {
            let mut about = call.about();
            about.tier = question.tiers.last().map(ToString::to_string);
            about.commit = Some(question.commit.to_string());
            about.approval = match approval {
                Ok(Approval::Given(consent)) => consent.on_record(),
                Ok(Approval::Asked(_)) | Err(_) => None,
            };
        }
        approval
    }

    async fn consent_to(
        &self,
        question: &Question<'_>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Approval, ToolError> {
        if question.is_about_tests_only() {
            return Ok(Approval::Given(Consent::NotNeeded));
        }
        if self.asking == Asking::Nobody {
            return Ok(Approval::Given(Consent::Waived));
        }
        if !context.client_capabilities().is_some_and(can_ask) {
            return Err(unavailable());
        }
        if context.protocol_version() >= Some(ProtocolVersion::V_2026_07_28) {
            let reply = Call::of(context).map(|call| call.reply.clone()).unwrap_or_default();
            return self.take_up(question, reply);
        }
        let answer = ask(question, context).await?;
        judge(question, &answer).map(Approval::Given)
    }

    /// Goes on with a call as far as its reply allows: asks when there is none, else looks at the answer.
    fn take_up(&self, question: &Question<'_>, reply: Reply) -> Result<Approval, ToolError> {
        let answer = reply.answers.and_then(|mut answers| answers.remove(FIELD));
        let (Some(state), Some(answer)) = (reply.state, answer) else {
            return Ok(Approval::Asked(Box::new(self.sealed(question))));
        };
        self.seals.spend(&state, &question.binding())?;
        let answer: ElicitResult = serde_json::from_value(answer).map_err(|_| mistyped(question))?;
        judge(question, &answer).map(Approval::Given)
    }

    fn sealed(&self, question: &Question<'_>) -> InputRequiredResult {
        let state = self.seals.seal(&question.binding(), HOLDS_FOR);
        let request = InputRequest::Elicitation(ElicitRequest::new(form(question)));
        InputRequiredResult::new(Some(BTreeMap::from([(FIELD.to_owned(), request)])), Some(state))
    }
}

impl Consent {
    /// The word for it on record; none where there is nothing to record.
    const fn on_record(self) -> Option<&'static str> {
        match self {
            Self::NotNeeded => None,
            Self::Waived => Some("waived"),
            Self::Typed => Some("given"),
        }
    }
}

/// Whether a client can show a form. One that says only that it can ask can do that, as clients did before there was more.
fn can_ask(client: ClientCapabilities) -> bool {
    client.elicitation.is_some_and(|how| how.form.is_some() || how.url.is_none())
}

/// Asks over the connection, while the call is waiting.
async fn ask(question: &Question<'_>, context: &RequestContext<RoleServer>) -> Result<ElicitResult, ToolError> {
    let asked = context.peer.create_elicitation_with_timeout(form(question), Some(HOLDS_FOR));
    let answer = tokio::select! {
        answer = asked => answer,
        () = context.ct.cancelled() => return Err(expired("the call was cancelled before anybody had answered")),
    };
    answer.map_err(|error| match error {
        ServiceError::Timeout { .. } => expired("nobody answered within ten minutes"),
        _ => ToolError::new("approval_unavailable", "the client could not put the question to anybody")
            .next("nothing was done; ask the person who you work for, who can deploy without you"),
    })
}

fn form(question: &Question<'_>) -> ElicitRequestParams {
    let phrase = question.phrase.clone();
    let schema = ElicitationSchema::builder()
        .required_string_with(FIELD, |field| field.title(format!("Type {phrase} to approve")).max_length(256))
        .build()
        .expect("its one property is required and there");
    ElicitRequestParams::FormElicitationParams { meta: None, message: question.to_string(), requested_schema: schema }
}

/// Whether an answer is the word that was asked for.
fn judge(question: &Question<'_>, answer: &ElicitResult) -> Result<Consent, ToolError> {
    if answer.action != ElicitationAction::Accept {
        return Err(ToolError::new("approval_declined", "the person who was asked did not approve")
            .next("nothing was done; do not ask again unless you are told to"));
    }
    let typed = answer.content.as_ref().and_then(|content| content.get(FIELD)).and_then(|typed| typed.as_str());
    if typed.map(str::trim) == Some(&question.phrase) { Ok(Consent::Typed) } else { Err(mistyped(question)) }
}

fn unavailable() -> ToolError {
    ToolError::new("approval_unavailable", "this needs the approval of a person, and this client cannot ask for it")
        .next(
            "nothing was done; let a person deploy with `homelab-deploy`, use a client that supports elicitation, or ask \
             whoever started this server for --admin-without-approval",
        )
}

fn mistyped(question: &Question<'_>) -> ToolError {
    ToolError::new("approval_mistyped", format!("what was typed is not {}", question.phrase))
        .next("nothing was done; call the tool again, without requestState, to have the person asked once more")
}

fn expired(why: &str) -> ToolError {
    ToolError::new("approval_expired", why)
        .next("nothing was done; call the tool again to have the person asked once more")
}

#[cfg(test)]
mod tests;
