//! `plan`: what a plan would do now, or all that a plan can say.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::apply;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::out;
use crate::plan;

const SCHEMA: &str = "schema";

/// The command: one of two, of which the second needs neither a plan nor a connection.
#[derive(Debug)]
pub(in crate::cli) enum Plan {
    Preview(Box<apply::Plan>),
    Schema,
}

impl Plan {
    pub(in crate::cli) fn run(self) -> CommandResult {
        match self {
            Self::Preview(preview) => preview.run(),
            Self::Schema => {
                out::data(&plan::schema());
                Ok(Exit::Success)
            }
        }
    }
}

impl Args for Plan {
    fn augment_args(command: Command) -> Command {
        let schema = Arg::new(SCHEMA)
            .long(SCHEMA)
            .action(ArgAction::SetTrue)
            .help("Print the JSON Schema of plans instead, with which editors complete and explain their keys");
        let unless_schema = |arg: Arg| {
            if arg.is_required_set() { arg.required(false).required_unless_present(SCHEMA) } else { arg }
        };
        apply::Plan::augment_args(command)
            .mut_args(unless_schema)
            .arg(schema)
            .override_usage("homelab-deploy plan [OPTIONS] <FILE|NAME>\n       homelab-deploy plan --schema")
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Plan {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        if matches.get_flag(SCHEMA) {
            return Ok(Self::Schema);
        }
        apply::Plan::from_arg_matches(matches).map(|preview| Self::Preview(Box::new(preview)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
