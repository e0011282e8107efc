//! The tools of assistants: the Model Context Protocol on stdin and stdout.
//!
//! Each tool does what a command does, with the functions of [`crate::operator`], and is bounded by the key that it connects
//! with. In reading order:
//!
//! - `handler`: what a client sees, and the one way that every call goes; `transport`: the lines that it comes in;
//! - `tools`: every tool, with what assistants are told about it; `schema`: what their arguments look like;
//! - `launch`: from what is asked for to a rollout that runs; `status`: what became of it; `targets`: which hosts are there;
//! - `boundary`: which key is needed; `policy`: which revisions go where; `approval`: the person who is asked first;
//! - `context`: what every tool works with; `settings`: what the server is started with;
//! - `call`: what came with a call; `answer`: what a tool says; `redact`: what leaves, without secrets; `audit`: what is put on
//!   record.

mod answer;
mod approval;
mod audit;
mod boundary;
mod call;
mod context;
mod handler;
mod launch;
mod policy;
mod redact;
mod schema;
mod settings;
mod status;
mod targets;
mod tools;
mod transport;

pub use self::answer::ToolError;
pub use self::approval::ApprovalMode;
pub use self::audit::AuditError;
pub use self::handler::{McpStartError, ServeError, Server};
pub use self::policy::{AllowRef, AllowRefError, RevisionPolicy};
pub use self::settings::{CallTimeouts, Mode, Settings, ToolFilter};
pub use self::tools::tool_names;
