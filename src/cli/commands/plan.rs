//! `plan`: shows what a plan would do now, or prints the schema of plans.

use std::path::PathBuf;

use clap::{Arg, Args};

use crate::cli::display::Audience;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::preparation::Preparation;
use crate::cli::{block_on, out};
use crate::operator::plan_file::SavedPlan;
use crate::plan;

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
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print the JSON Schema of plans instead, with which editors complete and explain their keys
    #[arg(long)]
    schema: bool,
}

fn unless_schema(arg: Arg) -> Arg {
    arg.required(false).required_unless_present("schema")
}

impl Plan {
    pub(in crate::cli) fn run(self) -> CommandResult {
        if self.schema {
            out::data(&plan::schema());
            return Ok(Exit::Success);
        }
        self.preparation.refuse_what_is_gone()?;
        let previewed = block_on(self.preparation.prepare(Audience::Person))??;
        out::data(&format!("{}\n", previewed.preview));
        if let Some(file) = &self.out {
            out::file(file, &SavedPlan::of(&previewed.prepared.rollout).text())?;
        }
        Ok(Exit::Success)
    }
}
