//! Executes a plan as a pure, synchronous state machine: inputs and the time in, effects out.
//!
//! Nothing here waits, reads a clock, draws a random number or knows how a request travels. `now` is the time since the
//! rollout began, so that a test can run through an hour in a microsecond. The property tests of this module check the
//! invariants that hold for every plan and every behaviour of the network.

pub mod description;
pub mod event;
pub mod machine;
pub mod summary;

use std::sync::Arc;

pub use description::{PlanSource, Rollout};
pub use event::{
    Connection, Event, EventKind, EventWriter, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason,
    UnexpectedResponse, WaveIndex, WaveVerdict,
};
pub use machine::{MAX_PREPARED, Machine};
pub use summary::Summary;

use crate::protocol::{HostReport, Request, RequestId, Response, Sender, Subject};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Response {
        /// The host that the response's subject names.
        from: Sender,
        request: RequestId,
        response: Arc<Response>,
    },
    /// A response in the old form to a request that several hosts share. Its subject does not prove who sent it.
    OldResponse(Arc<Response>),
    /// The server reports that nobody is subscribed to the subject of a request.
    NoResponders {
        request: RequestId,
    },
    /// Responses may have been lost: more arrived than the client buffers.
    ResponsesLost,
    Connection(Connection),
    Confirmation(Confirmation),
    CheckDone(Result<(), String>),
    /// A host answered the roll call.
    Discovered(Box<HostReport>),
    Interrupt(Interrupt),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    Yes,
    No,
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Record and display an event. It must be recorded before any `Send` that follows.
    Report(Event),
    /// Publish a request for the first time or as a retry. Rollback requests are published in this way too.
    Send(Dispatch),
    /// Publish a request again under its id, to which the host responds with its state.
    AskState(Dispatch),
    /// Publish a request again under its id to confirm the host, so that it does not roll back.
    Confirm(Dispatch),
    Ask(WaveIndex),
    RunCheck(WaveIndex),
    CallRoll,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    pub subject: Subject,
    pub request: Box<Request>,
}

#[cfg(test)]
mod tests;
