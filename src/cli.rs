//! The command line: arguments to settings, settings to a command, its result to an exit code.

mod alias;
mod commands;
mod completion;
mod confirm;
mod connection;
mod exit;
mod home;
mod log;
mod operator;
mod out;
mod plan_file;
mod preparation;
mod runtime;
mod session;
mod state;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::commands::{
    apply, completions, deploy, hosts, keygen, listener, man, mcp, nats_config, plan, rollouts, supervise,
};
use self::exit::{CommandResult, Exit};

/// Deploy NixOS fleets over NATS.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Apply(Box<apply::Apply>),
    Rollouts(rollouts::Rollouts),
    Status(rollouts::Status),
    Abort(rollouts::Abort),
    Plan(plan::Plan),
    Deploy(Box<deploy::Deploy>),
    Hosts(hosts::Hosts),
    Keygen(keygen::Keygen),
    NatsConfig(nats_config::NatsConfig),
    Listener(Box<listener::Listener>),
    Mcp(Box<mcp::Mcp>),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(hide = true)]
    Supervise(supervise::Supervise),
}

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    out::choose_reports();
    let cli = match parse() {
        Ok(Some(cli)) => cli,
        Ok(None) => return Exit::Success.into(),
        Err(error) => {
            // Help and version end here as well, on stdout and with success; clap knows which is which.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // A reader that has closed its end, as `head` does, has seen what it wanted to.
            error.print().ok();
            return exit.into();
        }
    };
    match cli.command.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            out::error(&error.report);
            error.exit.into()
        }
    }
}

/// What the arguments say; nothing when a shell asked how they can go on, and has its answer.
fn parse() -> Result<Option<Cli>, clap::Error> {
    if completion::answer(Cli::command)? {
        return Ok(None);
    }
    Cli::try_parse().map(Some)
}

impl Command {
    fn run(self) -> CommandResult {
        match self {
            Self::Apply(apply) => apply.run(),
            Self::Plan(plan) => plan.run(),
            Self::Rollouts(rollouts) => rollouts.run(),
            Self::Status(status) => status.run(),
            Self::Abort(abort) => abort.run(),
            Self::Deploy(deploy) => deploy.run(),
            Self::Hosts(hosts) => hosts.run(),
            Self::Keygen(keygen) => keygen.run(),
            Self::NatsConfig(nats_config) => nats_config.run(),
            Self::Listener(listener) => listener.run(),
            Self::Mcp(mcp) => mcp.run(),
            Self::Completions(completions) => Ok(completions.run()),
            Self::Man(man) => man.run(Cli::command()),
            Self::Supervise(supervise) => supervise.run(),
        }
    }
}

#[cfg(test)]
mod tests;
