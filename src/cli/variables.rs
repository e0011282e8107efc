//! Variables of flags. An empty one is an unset one, so that a script can pass on what it was not given.

use std::env;

use clap::builder::{OsStr, Resettable};
use clap::{Arg, Command};

/// The program without the empty variables of its command of this name.
pub(super) fn without_empty(mut program: Command, name: &str) -> Command {
    if let Some(command) = program.find_subcommand_mut(name) {
        // Its arguments are put together only when they are needed.
        command.build();
        *command = std::mem::take(command)
            .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::<OsStr>::Reset) } else { arg });
    }
    program
}

fn is_empty(arg: &Arg) -> bool {
    arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty())
}
