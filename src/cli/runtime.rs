//! The runtime of a command.

use std::io;

use miette::Diagnostic;
use thiserror::Error;
use tokio::runtime::Builder;

use super::exit::{CommandError, Exit};

#[derive(Debug, Error, Diagnostic)]
#[error("the asynchronous runtime does not start: {0}")]
struct RuntimeError(#[source] io::Error);

/// Runs a command to its end on this one thread: all of them wait most of the time.
pub(super) fn block_on<T>(command: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Exit::Precondition.with(RuntimeError(error)))?;
    let result = runtime.block_on(command);
    // A question at the terminal that nobody has answered must not hold up the end.
    runtime.shutdown_background();
    Ok(result)
}
