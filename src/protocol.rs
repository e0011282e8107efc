//! The wire protocol: the messages between deployers and listeners, and their subjects.
//!
//! Pure: nothing here waits, reads a clock or knows NATS. It is compatible with listeners and deployers that know only
//! the four fields of the original messages: every further field is optional, and unknown fields are ignored.

pub mod discovery;
pub mod flake;
pub mod ids;
pub mod names;
pub mod reply_subject;
pub mod request;
pub mod response;
pub mod revision;
pub mod subject;
#[cfg(test)]
mod tests;
pub(crate) mod text;

pub use discovery::{
    DiscoveryAnswer, DiscoveryRequest, Feature, HostAnswer, HostReport, LastRun, Problem, RolloutReport,
};
pub use flake::{FlakeAttr, FlakeUrl};
pub use ids::{RequestId, RequestIds, RolloutId};
pub use names::{Action, HostName, Role, Tier};
pub use reply_subject::{AnswerScope, Replies, ReplySubject, Sender};
pub use request::{LogPosition, LogRequest, ROLLBACK_WITHIN, Request};
pub use response::{BusyWith, ErrorCode, LogAnswer, LogPage, NoLog, Phase, Response, Status};
pub use revision::{Commit, MAX_REVISION_BYTES, Revision, SystemPath};
pub use subject::{Subject, SubjectTemplate, Target, alias_variable};
pub use text::ParseError;
pub(crate) use text::text_type;
