//! The tools of assistants: the Model Context Protocol on stdin and stdout.
//!
//! Nothing is decided here. Each tool does what a command does, with the functions of [`crate::operator`], and is bounded by
//! the key that it connects with; here is how that is offered to a program that reads and writes JSON. In reading order:
//!
//! - `settings`: what the server is started with;
//! - `server`: what a client sees, and the one way that every call goes;
//! - `tools`: every tool, with what its users are told of it;
//! - `launch`: from what is asked for to a rollout that runs; `wait` and `status`: what has become of it;
//!   `tasks`: the same for clients that need not be answered at once;
//! - `answer` and `error`: what a tool says when it did what was asked, and when it did not;
//! - `call`: what of a call is no argument; `audit`: what is put on record of it; `scrub`: what leaves, without secrets;
//! - `policy`: which revisions go where; `approval`: the person who is asked first;
//! - `plans`, `resources`, `prompts`, `completion`: what there is beside tools;
//! - `page`: results that are too long for one answer; `schema`: what arguments and results look like.

mod answer;
mod approval;
mod audit;
mod call;
mod completion;
mod error;
mod launch;
mod page;
mod plans;
mod policy;
mod preview;
mod prompts;
mod resources;
mod schema;
mod scrub;
mod server;
mod settings;
mod status;
mod tasks;
mod tools;
mod wait;

pub use self::approval::Asking;
pub use self::audit::AuditError;
pub use self::error::ToolError;
pub use self::plans::Plans;
pub use self::policy::{AllowRef, AllowRefError, RevisionPolicy};
pub use self::server::{ServeError, Server, serve_stdio};
pub use self::settings::{Access, Exposure, Mode, Pace, Settings};
pub use self::tools::TOOLS;
