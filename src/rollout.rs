//! Carrying out a plan, as a pure and synchronous state machine: inputs and the time in, effects out.
//!
//! Nothing here waits, reads a clock, draws a random number or knows how a request travels. `now` is the time since the
//! rollout began, so that a test can live through an hour in a microsecond. The invariants that hold for every plan and
//! every behaviour of the network are the property tests of this module.

pub mod description;
pub mod event;
mod flight;
mod host;
pub mod machine;
pub mod summary;

use std::sync::Arc;

pub use description::{PlanSource, Rollout};
pub use event::{
    Connection, Event, EventKind, EventWriter, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason,
    UnexpectedResponse, WaveIndex, WaveVerdict,
};
pub use machine::{Machine, PREPARED};
pub use summary::Summary;

use crate::protocol::{HostReport, Request, RequestId, Response, Sender, Subject};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Response {
        /// The host, by the subject on which the answer came.
        from: Sender,
        /// The request, by the same subject.
        request: RequestId,
        response: Arc<Response>,
    },
    /// A listener of the old form answered a request that several hosts hear. Its subject proves nothing.
    OldResponse(Arc<Response>),
    /// The server says that nobody is subscribed to the subject of a request.
    NoResponders {
        request: RequestId,
    },
    /// Answers may have been lost on the way in: there were more than could be taken.
    AnswersLost,
    /// The connection to the bus went down or came back.
    Connection(Connection),
    Answer(Answer),
    /// The check of the current wave is over.
    CheckDone(Result<(), String>),
    Present(Box<HostReport>),
    Interrupt(Interrupt),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Record and show what happened. What comes before a `Send` must be recorded before it.
    Report(Event),
    /// Publish a request for the first time, or once more after a retry. One to return is a request as well.
    Send(Dispatch),
    /// Publish a request again under its id, which makes the host say how far it is.
    AskState(Dispatch),
    /// Publish a request again under its id to say that its host was heard from and shall stay as it is.
    Confirm(Dispatch),
    /// Ask the operator whether the wave may begin.
    Ask(WaveIndex),
    RunCheck(WaveIndex),
    /// Ask every host whether it is there.
    CallRoll,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    pub subject: Subject,
    pub request: Box<Request>,
}

#[cfg(test)]
mod tests;
