//! Serves assistants over the Model Context Protocol on stdin and stdout.
//!
//! Each tool does the work of a command, with the functions of [`crate::operator`]. The key that a tool connects with bounds
//! what it can do. In reading order:
//!
//! - `handler`: the server, its lines of JSON, and the one path of every call;
//! - `tools`: the tools, with their arguments and descriptions; `deploy` has the way of every rollout, `status` its progress and
//!   result;
//! - `policy`: the key that a plan needs, and the revisions that a tier takes; `approval`: the question to a person;
//! - `context`: the settings of the server, and the state that all tools share;
//! - `call`: the arguments of a call, and its progress; `answer`: results and errors; `redact`: removal of secrets; `audit`: the
//!   log of all calls.

mod answer;
mod approval;
mod audit;
mod call;
mod context;
mod handler;
mod policy;
mod redact;
mod tools;

pub use self::answer::ToolError;
pub use self::approval::ApprovalMode;
pub use self::audit::AuditError;
pub use self::context::{CallTimeouts, Mode, Settings, ToolFilter};
pub use self::handler::{McpStartError, ServeError, Server};
pub use self::policy::{AllowRef, AllowRefError, RevisionPolicy};
pub use self::tools::tool_names;
