//! Parses the command line into settings, runs the command, and turns its result into an exit code.

mod args;
mod commands;
mod context;
mod display;
mod log;
mod out;
mod session;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::{OsStr, Resettable};
use clap::{Arg, CommandFactory, FromArgMatches};
use tokio::runtime::Builder;

use self::commands::{Cli, completions};
use self::out::{CommandError, CommandResult, Exit, SetupError};

pub fn run() -> ExitCode {
    out::choose_reports();
    let exit = run_command_line().unwrap_or_else(|error| {
        out::error(&error.report);
        error.exit
    });
    out::final_exit(exit).into()
}

fn run_command_line() -> CommandResult {
    if completions::answer(Cli::command).unwrap_or_else(|error| error.exit()) {
        return Ok(Exit::Success);
    }
    let words: Vec<OsString> = env::args_os().collect();
    let name = words.get(1).map(|word| word.to_string_lossy()).unwrap_or_default();
    let command = program(&name);
    let words = context::with_context(&command, words)?;
    match command.try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => block_on(cli.command.run())?,
        Err(error) => {
            error.print().map_err(|error| out::record_loss(&error)).ok();
            if let Some(places) = context::places_of_settings(&error) {
                out::note(&places);
            }
            // Clap returns help and version as errors, too. Those go to stdout and succeed.
            Ok(if error.use_stderr() { Exit::Usage } else { Exit::Success })
        }
    }
}

/// Runs a command on this thread alone: every command waits most of the time.
fn block_on<T>(command: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(SetupError)?;
    let result = runtime.block_on(command);
    // An unanswered question at the terminal must not delay the exit.
    runtime.shutdown_background();
    Ok(result)
}

/// Returns the command line, without the environment variables of the command with this name that are empty or say no,
/// or that a resumed rollout has settled. They count as unset: a script can pass on a variable that it was not given
/// itself, and for clap, a flag that is set to no would still be in conflict with others.
fn program(name: &str) -> clap::Command {
    let mut program = Cli::command();
    let says_no = |arg: &Arg, value: &str| !arg.get_action().takes_values() && args::switch(value) == Ok(false);
    let is_resumed = env::args_os().any(|word| word.as_encoded_bytes().starts_with(b"--resume"));
    let is_unset = |arg: &Arg| {
        let value = arg.get_env().and_then(env::var_os);
        let is_settled = is_resumed && commands::apply::SETTLED.contains(&arg.get_id().as_str());
        value.is_some_and(|value| {
            is_settled || value.is_empty() || value.to_str().is_some_and(|value| says_no(arg, value))
        })
    };
    if let Some(command) = program.find_subcommand_mut(name) {
        // With `defer`, the arguments exist only once the command is built.
        command.build();
        *command = std::mem::take(command)
            .mut_args(|arg| if is_unset(&arg) { arg.env(Resettable::<OsStr>::Reset) } else { arg });
    }
    program
}

#[cfg(test)]
mod tests;
