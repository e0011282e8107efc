//! `plan`: shows what a plan would do now, or prints the schema of plans.

use std::io;
use std::path::PathBuf;

use clap::{Arg, Args};

use crate::cli::display::{Audience, TerminalArgs};
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::preparation::{Preparation, has_extension};
use crate::cli::{block_on, out};
use crate::operator::plan_file::SavedPlan;
use crate::plan;
use crate::report;

// `--schema` needs neither a plan nor a connection.
#[derive(Debug, Args)]
#[command(mut_arg("plan", |plan| plan.required_unless_present("schema")))]
#[command(mut_arg("nats_url", unless_schema))]
#[command(mut_arg("nkey_file", |arg| unless_schema(arg).default_value("/dev/null").hide_default_value(true)))]
#[command(override_usage = "homelab-deploy plan [OPTIONS] <FILE|NAME>\n       homelab-deploy plan --schema")]
pub(in crate::cli) struct Plan {
    #[command(flatten)]
    preparation: Preparation,

    /// Save what would be carried out in this file, which ends in .json: `apply` carries out exactly that
    #[arg(long, short, value_name = "FILE", value_parser = file_to_apply)]
    out: Option<PathBuf>,

    /// Print the JSON Schema of plans instead, with which editors complete and explain their keys
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    terminal: TerminalArgs,
}

fn unless_schema(arg: Arg) -> Arg {
    arg.required(false).required_unless_present("schema")
}

fn file_to_apply(name: &str) -> Result<PathBuf, &'static str> {
    let is_told_from_a_plan = has_extension(name, "json");
    is_told_from_a_plan.then(|| PathBuf::from(name)).ok_or("`apply` takes it for a plan: let its name end in .json")
}

impl Plan {
    pub(in crate::cli) fn run(self) -> CommandResult {
        if self.schema {
            out::data(&plan::schema());
            return Ok(Exit::Success);
        }
        self.preparation.refuse_what_is_gone()?;
        let previewed = block_on(self.preparation.prepare(Audience::Person))??;
        let preview = report::emphasize(&previewed.preview, self.terminal.style(&io::stdout()));
        out::data(&format!("{preview}\n"));
        if let Some(file) = &self.out {
            out::file(file, &SavedPlan::of(&previewed.prepared.rollout).text())?;
        }
        Ok(Exit::Success)
    }
}
