//! Serves assistants over the Model Context Protocol on stdin and stdout.
//!
//! Each tool does the work of a command, with the functions of [`crate::operator`]. The key that a tool connects with bounds
//! what it can do. In reading order:
//!
//! - `handler`: the server, and the one path of every call; `transport`: the lines of JSON below it;
//! - `tools`: the tools and their descriptions; `schema`: the schemas of their arguments;
//! - `launch`: from arguments to a running rollout; `status`: its progress and result; `targets`: the hosts that answer;
//! - `boundary`: the key that a plan needs; `policy`: the revisions that a tier takes; `approval`: the question to a person;
//! - `context`: the state that all tools share; `settings`: the settings of the server;
//! - `call`: a call and its progress; `answer`: results and errors; `redact`: removal of secrets; `audit`: the log of all calls.

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
