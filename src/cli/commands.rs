//! The command line: the subcommands, one file each, and the ends of their help.

mod apply;
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

use super::exit::CommandResult;

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
    /// Write the files of a fleet: keys, the server's configuration, a plan, settings for NixOS and for you.
    #[command(after_help = help(&["init fleet", "init fleet --yes --host test.test1 --host prod.ns1.dns"], &[]))]
    Init(init::Init),
    /// Find out what is wrong: with this machine, the key, the server's permissions, the hosts, the plans.
    ///
    /// Nothing is deployed, and no host is sent a request. With a FILE nothing is connected to.
    #[command(after_help = help(&["doctor", "doctor --listener", "doctor nats.conf"], &["1    Something is wrong"]))]
    Doctor(Box<doctor::Doctor>),
    /// Build the systems of a plan's hosts in one evaluation, on any machine with Nix; hosts then only fetch theirs.
    ///
    /// Needs no NATS where the plan names all of its hosts and its flake, or where hosts are given.
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
    /// List the rollouts that were run from here, the latest last.
    #[command(after_help = help(&["rollouts", "rollouts --json | jq '.[-1].outcome'"], &[]))]
    Rollouts(rollouts::Rollouts),
    /// Show what a rollout has come to; one that runs is followed to its end.
    #[command(after_help = help(&["status", "status 01J9ZK3V --json"], OF_ROLLOUT))]
    Status(rollouts::Status),
    /// Write a rollout down as one document: an HTML page that needs nothing else, or Markdown, XML or JSON.
    #[command(after_help = help(&[
        "report > rollout.html",
        "report 01J9ZK3V --format markdown",
        "report --format junit --out results.xml",
    ], &[]))]
    Report(rollouts::Report),
    /// Stop a rollout: nothing new is sent, hosts in flight are awaited. What runs on the hosts goes on.
    #[command(after_help = help(&["abort", "abort 01J9ZK3V"], &[]))]
    Abort(rollouts::Abort),
    /// Show what a plan would do with the hosts that answer now. Nothing is deployed.
    #[command(after_help = help(&[
        "plan sunday",
        "plan ./rollout.toml --systems systems.json --out planned.json",
    ], &[]))]
    Plan(Box<plan::Plan>),
    /// Deploy to the hosts that listen on a subject, and wait for each of them.
    ///
    /// Succeeds only when at least one host answered and every host that did, or that the roll call found on the subject,
    /// completed.
    #[command(after_help = help(&[
        "deploy deploy.test.test1",
        "deploy deploy.prod.role.dns --branch main",
        "deploy deploy.prod.all --action dry-activate",
        "deploy prod.ns1 --to previous",
    ], OF_ROLLOUT))]
    Deploy(Box<deploy::Deploy>),
    /// Return hosts to the commit that they ran before: these hosts, or all that a rollout changed, the newest first.
    ///
    /// What is undone has to be the last that each of them ran. It shows to which commit they return, and asks.
    #[command(after_help = help(&[
        "rollback ns1",
        "rollback prod.ns1 prod.ns2 --yes",
        "rollback 01J9ZK3V",
    ], OF_ROLLOUT))]
    Rollback(Box<rollback::Rollback>),
    /// List the hosts that answer, and what they run.
    #[command(after_help = help(&["hosts", "hosts --tier prod --watch", "hosts --json | jq -r '.[].hostname'"], &[]))]
    Hosts(hosts::Hosts),
    /// Print the log of a run on a host: of the one in progress, else of the latest.
    ///
    /// A key that may deploy to a host may read its logs. The log goes to stdout.
    #[command(after_help = help(&[
        "logs ns1 --follow",
        "logs prod.ns1 --id 6f1c2a8e-8e0f-4a43-9a39-2f1f3c1d2b11",
    ], &[]))]
    Logs(Box<logs::Logs>),
    /// Make an NKey pair: the seed into a new file that only you can read, the public key to stdout.
    #[command(after_help = help(&["keygen operator.seed", "keygen --public operator.seed"], &[]))]
    Keygen(keygen::Keygen),
    /// Print the NATS server's authorization block for a list of hosts and deployers: for each key what it needs, no more
    #[command(after_help = help(&["nats-config fleet.toml > authorization.conf"], &[]))]
    NatsConfig(nats_config::NatsConfig),
    /// Take deployments of this host; runs until it is stopped.
    #[command(after_help = help(&[
        "listener --hostname ns1 --tier prod --role dns \\\n    --flake-url git+https://git.example.net/fleet --nkey-file /run/keys/ns1.seed",
    ], &[]))]
    Listener(Box<listener::Listener>),
    /// Serve the tools of an assistant over stdin and stdout, as the Model Context Protocol has it.
    ///
    /// The key is what bounds them: with that of a deployer to the test tier, nothing else can be reached.
    #[command(after_help = help(&["mcp --context home"], &[]))]
    Mcp(Box<mcp::Mcp>),
    /// Print the script that makes a shell complete commands, flags, plans, waves and hosts.
    #[command(after_help = end_of_help(
        "  In ~/.bashrc:
    eval \"$(homelab-deploy completions bash)\"
  In ~/.zshrc, below compinit:
    eval \"$(homelab-deploy completions zsh)\"
  In ~/.config/fish/config.fish:
    homelab-deploy completions fish | source",
        &[]
    ))]
    Completions(completions::Completions),
    /// Print the manual page homelab-deploy(1), or write the pages of all commands.
    #[command(after_help = help(&["man | man -l -", "man --out share/man/man1"], &[]))]
    Man(man::Man),
    /// Supervise a run that the listener has written down.
    #[command(hide = true)]
    Supervise(listener::Supervise),
}

impl Command {
    pub(super) fn run(self) -> CommandResult {
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

/// The exit codes of commands that deploy.
const OF_ROLLOUT: &[&str] = &[
    "1    A host or a wave failed",
    "4    The question was answered with no, or nobody could answer it",
    "130  It was interrupted",
];

/// Formats the end of a help: calls of this program as examples, then exit codes, these and those of all commands.
fn help(examples: &[&str], codes: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("  homelab-deploy {example}")).collect();
    end_of_help(&examples.join("\n"), codes)
}

fn end_of_help(examples: &str, codes: &[&str]) -> String {
    let codes: Vec<String> = codes.iter().map(|code| format!("  {code}\n")).collect();
    let codes = codes.concat();
    format!(
        "Examples:\n{examples}\n\nExit codes:\n  0    Done\n{codes}  \
         2    The command line, a setting or a plan is wrong; nothing was done\n  \
         3    Something that is needed is not there: NATS, a permission, a file"
    )
}
