//! The wire protocol: what deployers and listeners say to each other, and on which subjects.
//!
//! Pure: nothing here waits, reads a clock or knows that NATS exists. A listener or deployer that knows only the four
//! fields of the original messages is understood, and understands what is sent to it: every further field is optional,
//! and unknown fields are ignored on reading.

pub mod discovery;
pub mod flake;
#[cfg(test)]
mod hostile;
pub mod ids;
pub mod message;
pub mod names;
pub mod revision;
pub mod subject;
mod text;

pub use discovery::{
    DiscoveryAnswer, DiscoveryRequest, Feature, HostAnswer, HostReport, LastRun, Problem, RolloutReport,
};
pub use flake::{FlakeAttr, FlakeUrl};
pub use ids::{RequestId, RequestIds, RolloutId};
pub use message::{ErrorCode, Holder, Phase, RETURN_WITHIN, Request, Response, Status};
pub use names::{Action, HostName, NameError, Role, Tier};
pub use revision::{Commit, MAX_REVISION_BYTES, Revision, RevisionError};
pub use subject::{
    Place, Replies, ReplySubject, Sender, Subject, SubjectError, SubjectTemplate, Target, alias_variable,
};
