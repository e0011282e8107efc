//! Parses the command line into settings, runs the command, and turns its result into an exit code.

mod alias;
mod args;
mod carrier;
mod commands;
mod confirm;
mod connection;
mod context;
mod display;
mod exit;
mod folders;
mod help;
mod log;
mod out;
mod preparation;

use std::env;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::builder::{OsStr, Resettable};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use miette::Diagnostic;
use thiserror::Error;
use tokio::runtime::Builder;

use self::commands::{
    apply, build, completions, deploy, doctor, hosts, init, keygen, listener, logs, man, mcp, nats_config, plan,
    rollback, rollouts, supervise,
};
use self::exit::{CommandError, CommandResult, Exit};

/// Deploy NixOS fleets over NATS.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// `defer` builds the arguments of the called command only: building them is most of the startup time.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Write the files of a fleet: keys, the server's configuration, a plan, settings for NixOS and for you.
    #[command(after_help = help::INIT)]
    Init(init::Init),
    /// Find out what is wrong: with this machine, the key, the server's permissions, the hosts, the plans.
    ///
    /// Nothing is deployed, and no host is sent a request. With a FILE nothing is connected to.
    #[command(after_help = help::DOCTOR)]
    Doctor(Box<doctor::Doctor>),
    /// Build the systems of a plan's hosts in one evaluation, on any machine with Nix; hosts then only fetch theirs.
    ///
    /// Needs no NATS where the plan names all of its hosts and its flake, or where hosts are given.
    #[command(after_help = help::BUILD)]
    Build(Box<build::Build>),
    /// Carry out a plan: wave after wave, halting when one fails.
    #[command(after_help = help::APPLY)]
    Apply(Box<apply::Apply>),
    /// List the rollouts that were run from here, the latest last.
    #[command(after_help = help::ROLLOUTS)]
    Rollouts(rollouts::Rollouts),
    /// Show what a rollout has come to; one that runs is followed to its end.
    #[command(after_help = help::STATUS)]
    Status(rollouts::Status),
    /// Write a rollout down as one document: an HTML page that needs nothing else, or Markdown, XML or JSON.
    #[command(after_help = help::REPORT)]
    Report(rollouts::Report),
    /// Stop a rollout: nothing new is sent, hosts in flight are awaited. What runs on the hosts goes on.
    #[command(after_help = help::ABORT)]
    Abort(rollouts::Abort),
    /// Show what a plan would do with the hosts that answer now. Nothing is deployed.
    #[command(after_help = help::PLAN)]
    Plan(Box<plan::Plan>),
    /// Deploy to the hosts that listen on a subject, and wait for each of them.
    ///
    /// Succeeds only when at least one host answered and every host that did, or that the roll call found on the subject,
    /// completed.
    #[command(after_help = help::DEPLOY)]
    Deploy(Box<deploy::Deploy>),
    /// Return hosts to the commit that they ran before: these hosts, or all that a rollout changed, the newest first.
    ///
    /// What is undone has to be the last that each of them ran. It shows to which commit they return, and asks.
    #[command(after_help = help::ROLLBACK)]
    Rollback(Box<rollback::Rollback>),
    /// List the hosts that answer, and what they run.
    #[command(after_help = help::HOSTS)]
    Hosts(hosts::Hosts),
    /// Print the log of a run on a host: of the one in progress, else of the latest.
    ///
    /// A key that may deploy to a host may read its logs. The log goes to stdout.
    #[command(after_help = help::LOGS)]
    Logs(Box<logs::Logs>),
    /// Make an NKey pair: the seed into a new file that only you can read, the public key to stdout.
    #[command(after_help = help::KEYGEN)]
    Keygen(keygen::Keygen),
    /// Print the NATS server's authorization block for a list of hosts and deployers: for each key what it needs, no more
    #[command(after_help = help::NATS_CONFIG)]
    NatsConfig(nats_config::NatsConfig),
    /// Take deployments of this host; runs until it is stopped.
    #[command(after_help = help::LISTENER)]
    Listener(Box<listener::Listener>),
    /// Serve the tools of an assistant over stdin and stdout, as the Model Context Protocol has it.
    ///
    /// The key is what bounds them: with that of a deployer to the test tier, nothing else can be reached.
    #[command(after_help = help::MCP)]
    Mcp(Box<mcp::Mcp>),
    /// Print the script that makes a shell complete commands, flags, plans, waves and hosts.
    #[command(after_help = help::COMPLETIONS)]
    Completions(completions::Completions),
    /// Print the manual page homelab-deploy(1), or write the pages of all commands.
    #[command(after_help = help::MAN)]
    Man(man::Man),
    /// Supervise a run that the listener has written down.
    #[command(hide = true)]
    Supervise(supervise::Supervise),
}

pub fn run() -> ExitCode {
    exit::choose_reports();
    match completions::answer(Cli::command) {
        Ok(false) => {}
        Ok(true) => return out::ended(Exit::Success).into(),
        Err(error) => error.exit(),
    }
    let words: Vec<OsString> = env::args_os().collect();
    let name = words.get(1).map(|word| word.to_string_lossy()).unwrap_or_default();
    let command = without_empty(Cli::command(), &name);
    let words = match context::settle(&command, words) {
        Ok(words) => words,
        Err(error) => return tell(&error),
    };
    let cli = match command.try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Clap returns help and version as errors, too. Those go to stdout and succeed.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            error.print().map_err(|error| out::lost(&error)).ok();
            if let Some(places) = context::elsewhere(&error) {
                out::note(&places);
            }
            return out::ended(exit).into();
        }
    };
    match cli.command.run() {
        Ok(exit) => out::ended(exit).into(),
        Err(error) => tell(&error),
    }
}

/// Prints the error that ended a command, and returns the exit code.
fn tell(error: &CommandError) -> ExitCode {
    out::error(&error.report);
    out::ended(error.exit).into()
}

impl Command {
    fn run(self) -> CommandResult {
        match self {
            Self::Init(init) => init.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Build(build) => build.run(),
            Self::Apply(apply) => apply.run(),
            Self::Plan(plan) => plan.run(),
            Self::Rollouts(rollouts) => rollouts.run(),
            Self::Status(status) => status.run(),
            Self::Report(report) => report.run(),
            Self::Abort(abort) => abort.run(),
            Self::Deploy(deploy) => deploy.run(),
            Self::Rollback(rollback) => rollback.run(),
            Self::Hosts(hosts) => hosts.run(),
            Self::Logs(logs) => logs.run(),
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

#[derive(Debug, Error, Diagnostic)]
#[error("the asynchronous runtime does not start: {0}")]
struct RuntimeError(#[source] io::Error);

/// Runs a command on this thread alone: every command waits most of the time.
fn block_on<T>(command: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(RuntimeError)?;
    let result = runtime.block_on(command);
    // An unanswered question at the terminal must not delay the exit.
    runtime.shutdown_background();
    Ok(result)
}

/// Removes the empty environment variables of the command with this name. An empty variable counts as unset, so that a
/// script can pass on a variable that it was not given itself.
fn without_empty(mut program: clap::Command, name: &str) -> clap::Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    if let Some(command) = program.find_subcommand_mut(name) {
        // With `defer`, the arguments exist only once the command is built.
        command.build();
        *command = std::mem::take(command)
            .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::<OsStr>::Reset) } else { arg });
    }
    program
}

#[cfg(test)]
mod tests;
