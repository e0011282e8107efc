//! The tools of assistants: the Model Context Protocol on stdin and stdout.
//!
//! Nothing is decided here. Each tool does what a command does, with the functions of [`crate::operator`], and is bounded by
//! the key that it connects with; here is how that is offered to a program that reads and writes JSON. In reading order:
//!
//! - `settings`: what the server is started with;
//! - `server`: what a client sees, and the one way that every call goes;
//! - `tools`: every tool, with what its users are told of it;
//! - `answer` and `error`: what a tool says when it did what was asked, and when it did not;
//! - `page`: results that are too long for one answer; `schema`: what arguments and results look like.

mod answer;
mod error;
mod page;
mod schema;
mod server;
mod settings;
mod tools;

pub use self::error::ToolError;
pub use self::server::{ServeError, Server, serve_stdio};
pub use self::settings::{Access, Settings};
