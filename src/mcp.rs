//! The tools of assistants: the Model Context Protocol on stdin and stdout.
//!
//! Each tool does what a command does, with the functions of [`crate::operator`], and is bounded by the key that it connects
//! with. In reading order:
//!
//! - `handler`: what a client sees, and the one way that every call goes; `transport`: the lines that it comes in;
//! - `tools`: every tool, with what assistants are told about it;
//! - `launch`: from what is asked for to a rollout that runs; `follow` and `status`: what became of it;
//! - `context`: what every tool works with; `settings`: what the server is started with;
//! - `policy`: which revisions go where; `approval`: the person who is asked first; `plans`: the plans that there are;
//! - `answer` and `error`: what a tool says; `schema`: what arguments look like;
//! - `call`: what came with a call; `audit`: what is put on record; `redact`: what leaves, without secrets.

mod answer;
mod approval;
mod audit;
mod call;
mod context;
mod error;
mod follow;
mod handler;
mod launch;
mod plans;
mod policy;
mod redact;
mod schema;
mod settings;
mod status;
mod tools;
mod transport;

pub use self::approval::ApprovalMode;
pub use self::audit::AuditError;
pub use self::error::ToolError;
pub use self::handler::{McpStartError, ServeError, Server};
pub use self::plans::Plans;
pub use self::policy::{AllowRef, AllowRefError, RevisionPolicy};
pub use self::settings::{CallTimeouts, Credential, Mode, Settings, ToolFilter};
pub use self::tools::tool_names;
