//! Checks the responses of a host: who sent them, and whether they agree with each other.

use std::sync::Arc;

use uuid::Uuid;

use super::event::{HostOutcome, UnexpectedResponse};
use crate::plan::ResolvedHost;
use crate::protocol::{HostName, Phase, RequestId, Response, Sender, Status};

/// The most unexpected responses reported for one host, so that repetition fills neither the memory nor the journal.
pub(super) const MAX_ANOMALIES: u8 = 3;

/// Whether the host has activated and waits to be confirmed.
pub(super) fn is_to_be_confirmed(response: &Response) -> bool {
    response.status == Status::Started && response.phase == Some(Phase::Confirm)
}

/// Lets a final response, which is kept, share the host name and request id that are in memory already.
pub(super) fn keep(mut response: Arc<Response>, host: &HostName, request: Option<&RequestId>) -> Arc<Response> {
    if let Some(own) = Arc::get_mut(&mut response) {
        own.hostname.clone_from(host);
        if own.id.as_ref() == request {
            own.id = request.cloned();
        }
    }
    response
}

/// Returns what is wrong with a response to this host's request.
///
/// The subject proves who sent a response, and its content must agree. A listener without request ids need not name one
/// until it named one in a response to this request.
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

/// The instances that responded to one request: a machine has a new instance after each boot.
///
/// A machine that reboots never responds as an earlier instance again. So an instance that responds again after another
/// one did is a second machine of the same name, and so is one whose final response differs.
#[derive(Debug, Clone, Default)]
pub(super) struct Instances {
    latest: Option<Uuid>,
    earlier: Vec<Uuid>,
    final_by: Option<(Uuid, Arc<Response>)>,
    /// Whether two machines were already found.
    is_known: bool,
}

/// The most instances that are remembered. A machine reboots less often while it is deployed.
const MAX_INSTANCES: usize = 4;

impl Instances {
    /// Records a response, and returns whether it is the first proof that two machines respond.
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

/// Whether a final response only repeats another one. A listener may repeat it with another time and another log tail.
fn is_same_final(one: &Response, other: &Response) -> bool {
    let content = |response: &Response| Response { instance: None, at: None, log_tail: Vec::new(), ..response.clone() };
    content(one) == content(other)
}

/// Returns what is wrong with a response after the host's outcome, which it cannot change. A repeated final response is
/// harmless, and so is an earlier status that was overtaken on its way.
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
