//! What an answer of a host means, and who gave it.

use std::sync::Arc;

use uuid::Uuid;

use super::event::{HostOutcome, UnexpectedResponse};
use crate::plan::ResolvedHost;
use crate::protocol::{HostName, Phase, RequestId, Response, Sender, Status};

/// The most anomalies that are reported of one host: repetition must fill neither the memory nor the journal.
pub(super) const MAX_ANOMALIES: u8 = 3;

/// Whether the host waits to be told that it was heard from after its activation.
pub(super) fn is_to_be_confirmed(response: &Response) -> bool {
    response.status == Status::Started && response.phase == Some(Phase::Confirm)
}

/// Gives a last word, which is kept, the name of its host and the id of its request that are in memory already.
pub(super) fn keep(mut response: Arc<Response>, host: &HostName, request: Option<&RequestId>) -> Arc<Response> {
    if let Some(own) = Arc::get_mut(&mut response) {
        own.hostname.clone_from(host);
        if own.id.as_ref() == request {
            own.id = request.cloned();
        }
    }
    response
}

/// What is wrong with an answer about a request to this host, by who published it and by what it says of itself.
///
/// The subject proves who published an answer, and what the answer says must agree. A listener without request ids is excused
/// from naming one, until an answer to this request did.
pub(super) fn unexpected(
    asked: &ResolvedHost,
    request: &RequestId,
    from: &Sender,
    response: &Response,
    answers_with_ids: bool,
) -> Option<UnexpectedResponse> {
    let wrong_host = |said: &HostName| {
        let tier = (from.tier != asked.tier).then_some(from.tier);
        Some(UnexpectedResponse::WrongHost { said: said.clone(), tier })
    };
    if from.tier != asked.tier || from.host != asked.hostname {
        return wrong_host(&from.host);
    }
    if response.hostname != asked.hostname {
        return wrong_host(&response.hostname);
    }
    let is_about_it = response.id.as_ref().map_or(!answers_with_ids, |id| id == request);
    (!is_about_it).then_some(UnexpectedResponse::AnotherRequest)
}

/// The machines that answer one request, told apart by their boot.
///
/// A machine that reboots answers as another instance afterwards, and never again as the one it was. So an instance that
/// speaks again after another one did is a second machine of the same name, and so is one whose final differs.
#[derive(Debug, Clone, Default)]
pub(super) struct Instances {
    latest: Option<Uuid>,
    earlier: Vec<Uuid>,
    final_by: Option<(Uuid, Arc<Response>)>,
    /// Whether it is known already that they are two machines.
    is_known: bool,
}

/// A machine reboots at most so often while it is deployed. With more, the oldest are forgotten.
const MAX_INSTANCES: usize = 4;

impl Instances {
    /// Takes notice of an answer, and returns whether it is the first proof that two machines answer.
    pub(super) fn turn_out_to_be_two(&mut self, response: &Arc<Response>) -> bool {
        let is_proof = self.prove_two(response);
        is_proof && !std::mem::replace(&mut self.is_known, true)
    }

    fn prove_two(&mut self, response: &Arc<Response>) -> bool {
        let Some(instance) = response.instance else { return false };
        if self.earlier.contains(&instance) {
            return true;
        }
        if let Some(before) = self.latest.replace(instance).filter(|before| *before != instance) {
            self.earlier.truncate(MAX_INSTANCES - 1);
            self.earlier.insert(0, before);
        }
        if !response.status.is_final() {
            return false;
        }
        let (first, said) = self.final_by.get_or_insert_with(|| (instance, Arc::clone(response)));
        *first != instance && !is_same_final(said, response)
    }
}

/// Whether a final only repeats another one. A listener may say it again at another time, and cut its log differently.
fn is_same_final(one: &Response, other: &Response) -> bool {
    let content = |response: &Response| Response { instance: None, at: None, log_tail: Vec::new(), ..response.clone() };
    content(one) == content(other)
}

/// What is wrong with an answer that came after the host was final. The first final stands; repeating it is no harm, and
/// nor is a status that was overtaken on its way.
pub(super) fn after_final(outcome: HostOutcome, status: Status) -> Option<UnexpectedResponse> {
    match outcome {
        HostOutcome::Completed | HostOutcome::Failed | HostOutcome::Rejected => (status.is_final()
            && HostOutcome::of(status) != Some(outcome))
        .then_some(UnexpectedResponse::Conflict { status }),
        HostOutcome::Current => None,
        HostOutcome::Unreachable | HostOutcome::TimedOut | HostOutcome::Skipped(_) => {
            Some(UnexpectedResponse::Late { status })
        }
    }
}
