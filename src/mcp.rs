//! Serves assistants over the Model Context Protocol on stdin and stdout.
//!
//! Each tool does the work of a command, with the functions of [`crate::operator`]. The key that a tool connects with bounds
//! what it can do. `handler` has the one path of all calls, and `tools` what each tool does: `deploy` has the way of every
//! rollout, and `status` its progress and result.

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
pub use self::policy::{AllowRef, RevisionPolicy};
pub use self::tools::tool_names;
