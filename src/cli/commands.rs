//! The command line: the subcommands, one file each, and the ends of their help.

pub(super) mod apply;
mod build;
pub(super) mod completions;
mod deploy;
mod doctor;
mod hosts;
mod init;
mod keygen;
mod listener;
mod logs;
mod man;
mod mcp;
mod nats_config;
mod plan;
mod rollback;
mod rollouts;

use clap::{CommandFactory, Parser, Subcommand};

use super::out::CommandResult;

/// Deploy NixOS fleets over NATS.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

// `defer` builds the arguments of the called command only: building them is most of the startup time.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(super) enum Command {
    /// Create the files of a fleet: keys, the server's configuration, a plan, and settings for NixOS and for you.
    #[command(after_help = help(&["init fleet", "init fleet --yes --host test.test1 --host prod.ns1.dns"], &[]))]
    Init(init::Init),
    /// Check this machine, the key, the server's permissions, the hosts and the plans, and say what to do.
    ///
    /// Deploys nothing, and sends no host a request. With FILE, it connects to nothing.
    #[command(after_help = help(&["doctor", "doctor --listener", "doctor nats.conf"], &["1    Something is wrong"]))]
    Doctor(Box<doctor::Doctor>),
    /// Build the systems of many hosts in one evaluation, on any machine with Nix; each host then only fetches its own.
    ///
    /// Needs no NATS server if the plan names all of its hosts and its flake, or if hosts are given.
    #[command(after_help = help(&[
        "build sunday --out systems.json",
        "build ns1 ns2 --revision main --flake github:me/fleet \\\n    --sign-key fleet.secret --copy-to file:///srv/cache --out systems.json",
    ], &[]))]
    Build(Box<build::Build>),
    /// Carry out a plan: wave after wave, halting when one fails.
    #[command(after_help = help(&[
        "apply sunday",
        "apply ./rollout.toml --yes --json",
        "apply sunday --systems systems.json",
        "apply sunday --detach",
        "apply sunday --verbose",
        "apply --resume",
    ], OF_ROLLOUT))]
    Apply(Box<apply::Apply>),
    /// List the rollouts on record here, the latest last.
    #[command(after_help = help(&["rollouts", "rollouts --json | jq '.[-1].outcome'"], &[]))]
    Rollouts(rollouts::Rollouts),
    /// Show the state of a rollout; follow a running one until it ends.
    #[command(after_help = help(&["status", "status 01J9ZK3V --json"], OF_ROLLOUT))]
    Status(rollouts::Status),
    /// Write a report of a rollout: a self-contained HTML page, Markdown, XML for a CI system, or JSON.
    #[command(after_help = help(&[
        "report > rollout.html",
        "report 01J9ZK3V --format markdown",
        "report --format junit --out results.xml",
    ], &[]))]
    Report(rollouts::Report),
    /// Stop a rollout: send no new requests, and wait for the hosts in flight. Their deployments continue.
    #[command(after_help = help(&["abort", "abort 01J9ZK3V"], &[]))]
    Abort(rollouts::Abort),
    /// Show what a plan would do with the hosts that answer now; deploy nothing.
    #[command(after_help = help(&[
        "plan sunday",
        "plan ./rollout.toml --systems systems.json --out planned.json",
    ], &[]))]
    Plan(Box<plan::Plan>),
    /// Deploy to all hosts on a subject, and wait for them to finish.
    ///
    /// Succeeds only if at least one host answered, and every host that answered, or that the roll call found on the
    /// subject, completed.
    #[command(after_help = help(&[
        "deploy deploy.test.test1",
        "deploy deploy.prod.role.dns --branch main",
        "deploy deploy.prod.all --action dry-activate",
        "deploy prod.ns1 --to previous",
    ], OF_ROLLOUT))]
    Deploy(Box<deploy::Deploy>),
    /// Roll hosts back to the commit that they ran before: the given hosts, or all that a rollout changed, newest
    /// first.
    ///
    /// Only the last run of a host can be undone. Shows the commits to return to, and asks.
    #[command(after_help = help(&[
        "rollback ns1",
        "rollback prod.ns1 prod.ns2 --yes",
        "rollback 01J9ZK3V",
    ], OF_ROLLOUT))]
    Rollback(Box<rollback::Rollback>),
    /// List the hosts that answer, and what they run.
    #[command(after_help = help(&["hosts", "hosts --tier prod --watch", "hosts --json | jq -r '.[].hostname'"], &[]))]
    Hosts(hosts::Hosts),
    /// Print the log of a run on a host: the one in progress, else the latest.
    ///
    /// A key that may deploy to a host may read its logs. The log goes to stdout.
    #[command(after_help = help(&[
        "logs ns1 --follow",
        "logs prod.ns1 --id 6f1c2a8e-8e0f-4a43-9a39-2f1f3c1d2b11",
    ], &[]))]
    Logs(Box<logs::Logs>),
    /// Create an NKey pair: write the seed to a new file that only you can read, and print the public key.
    #[command(after_help = help(&["keygen operator.seed", "keygen --public operator.seed"], &[]))]
    Keygen(keygen::Keygen),
    /// Print the authorization block of the NATS server: each key gets the permissions that it needs, and no more
    #[command(after_help = help(&["nats-config fleet.toml > authorization.conf"], &[]))]
    NatsConfig(nats_config::NatsConfig),
    /// Run the host agent: accept deployments until stopped.
    #[command(after_help = help(&[
        "listener --hostname ns1 --tier prod --role dns \\\n    --flake-url git+https://git.example.net/fleet --nkey-file /run/keys/ns1.seed",
    ], &[]))]
    Listener(Box<listener::Listener>),
    /// Serve tools for AI assistants over stdin and stdout (Model Context Protocol).
    ///
    /// The key limits what the tools can reach: with the key of a test deployer, only test hosts.
    #[command(after_help = help(&["mcp --context home"], &[]))]
    Mcp(Box<mcp::Mcp>),
    /// Print a script for a shell to complete commands, flags, plans, waves and hosts.
    #[command(after_help = help(&[
        "completions bash    # in ~/.bashrc, within eval \"$(...)\"",
        "completions zsh     # the same in ~/.zshrc, below compinit",
        "completions fish | source    # in ~/.config/fish/config.fish",
    ], &[]))]
    Completions(completions::Completions),
    /// Print the manual page homelab-deploy(1), or write the pages of all commands.
    #[command(after_help = help(&["man | man -l -", "man --out share/man/man1"], &[]))]
    Man(man::Man),
    /// Supervise a run that the listener has prepared.
    #[command(hide = true)]
    Supervise(listener::Supervise),
}

impl Command {
    pub(super) async fn run(self) -> CommandResult {
        match self {
            Self::Init(init) => init.run(),
            Self::Doctor(doctor) => doctor.run().await,
            Self::Build(build) => build.run().await,
            Self::Apply(apply) => apply.run().await,
            Self::Plan(plan) => plan.run().await,
            Self::Rollouts(rollouts) => rollouts.run(),
            Self::Status(status) => status.run().await,
            Self::Report(report) => report.run(),
            Self::Abort(abort) => abort.run(),
            Self::Deploy(deploy) => deploy.run().await,
            Self::Rollback(rollback) => rollback.run().await,
            Self::Hosts(hosts) => hosts.run().await,
            Self::Logs(logs) => logs.run().await,
            Self::Keygen(keygen) => keygen.run(),
            Self::NatsConfig(nats_config) => nats_config.run(),
            Self::Listener(listener) => listener.run().await,
            Self::Mcp(mcp) => mcp.run().await,
            Self::Completions(completions) => Ok(completions.run()),
            Self::Man(man) => man.run(Cli::command()),
            Self::Supervise(supervise) => supervise.run().await,
        }
    }
}

/// The exit codes of commands that deploy.
const OF_ROLLOUT: &[&str] = &[
    "1    A host or a wave failed",
    "4    The answer to a question was no, or nobody could answer it",
    "130  Interrupted",
];

/// Formats the end of a help: calls of this program as examples, then exit codes, these and those of all commands.
fn help(examples: &[&str], codes: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("  homelab-deploy {example}\n")).collect();
    let codes: Vec<String> = codes.iter().map(|code| format!("  {code}\n")).collect();
    let (examples, codes) = (examples.concat(), codes.concat());
    format!(
        "Examples:\n{examples}\nExit codes:\n  0    Done\n{codes}  \
         2    The command line, a setting or a plan is wrong; nothing was done\n  \
         3    Something needed is missing: NATS, a permission, a file"
    )
}
