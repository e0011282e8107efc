//! The subcommands, one file each, and the ends of their help: examples and exit codes.

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
    #[command(after_help = INIT)]
    Init(init::Init),
    /// Find out what is wrong: with this machine, the key, the server's permissions, the hosts, the plans.
    ///
    /// Nothing is deployed, and no host is sent a request. With a FILE nothing is connected to.
    #[command(after_help = DOCTOR)]
    Doctor(Box<doctor::Doctor>),
    /// Build the systems of a plan's hosts in one evaluation, on any machine with Nix; hosts then only fetch theirs.
    ///
    /// Needs no NATS where the plan names all of its hosts and its flake, or where hosts are given.
    #[command(after_help = BUILD)]
    Build(Box<build::Build>),
    /// Carry out a plan: wave after wave, halting when one fails.
    #[command(after_help = APPLY)]
    Apply(Box<apply::Apply>),
    /// List the rollouts that were run from here, the latest last.
    #[command(after_help = ROLLOUTS)]
    Rollouts(rollouts::Rollouts),
    /// Show what a rollout has come to; one that runs is followed to its end.
    #[command(after_help = STATUS)]
    Status(rollouts::Status),
    /// Write a rollout down as one document: an HTML page that needs nothing else, or Markdown, XML or JSON.
    #[command(after_help = REPORT)]
    Report(rollouts::Report),
    /// Stop a rollout: nothing new is sent, hosts in flight are awaited. What runs on the hosts goes on.
    #[command(after_help = ABORT)]
    Abort(rollouts::Abort),
    /// Show what a plan would do with the hosts that answer now. Nothing is deployed.
    #[command(after_help = PLAN)]
    Plan(Box<plan::Plan>),
    /// Deploy to the hosts that listen on a subject, and wait for each of them.
    ///
    /// Succeeds only when at least one host answered and every host that did, or that the roll call found on the subject,
    /// completed.
    #[command(after_help = DEPLOY)]
    Deploy(Box<deploy::Deploy>),
    /// Return hosts to the commit that they ran before: these hosts, or all that a rollout changed, the newest first.
    ///
    /// What is undone has to be the last that each of them ran. It shows to which commit they return, and asks.
    #[command(after_help = ROLLBACK)]
    Rollback(Box<rollback::Rollback>),
    /// List the hosts that answer, and what they run.
    #[command(after_help = HOSTS)]
    Hosts(hosts::Hosts),
    /// Print the log of a run on a host: of the one in progress, else of the latest.
    ///
    /// A key that may deploy to a host may read its logs. The log goes to stdout.
    #[command(after_help = LOGS)]
    Logs(Box<logs::Logs>),
    /// Make an NKey pair: the seed into a new file that only you can read, the public key to stdout.
    #[command(after_help = KEYGEN)]
    Keygen(keygen::Keygen),
    /// Print the NATS server's authorization block for a list of hosts and deployers: for each key what it needs, no more
    #[command(after_help = NATS_CONFIG)]
    NatsConfig(nats_config::NatsConfig),
    /// Take deployments of this host; runs until it is stopped.
    #[command(after_help = LISTENER)]
    Listener(Box<listener::Listener>),
    /// Serve the tools of an assistant over stdin and stdout, as the Model Context Protocol has it.
    ///
    /// The key is what bounds them: with that of a deployer to the test tier, nothing else can be reached.
    #[command(after_help = MCP)]
    Mcp(Box<mcp::Mcp>),
    /// Print the script that makes a shell complete commands, flags, plans, waves and hosts.
    #[command(after_help = COMPLETIONS)]
    Completions(completions::Completions),
    /// Print the manual page homelab-deploy(1), or write the pages of all commands.
    #[command(after_help = MAN)]
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

/// Formats the end of a help: examples, then exit codes, including those that all commands share.
macro_rules! help {
    ($examples:literal, $($code:literal),*) => {
        concat!(
            "Examples:\n", $examples, "\n\nExit codes:\n  0    Done\n", $("  ", $code, "\n",)*
            "  2    The command line, a setting or a plan is wrong; nothing was done\n",
            "  3    Something that is needed is not there: NATS, a permission, a file"
        )
    };
}

/// Like `help!`, for commands that deploy.
macro_rules! help_of_rollout {
    ($examples:literal) => {
        help!(
            $examples,
            "1    A host or a wave failed",
            "4    The question was answered with no, or nobody could answer it",
            "130  It was interrupted"
        )
    };
}

const INIT: &str = help!(
    "  homelab-deploy init fleet
  homelab-deploy init fleet --yes --host test.test1 --host prod.ns1.dns",
);
const DOCTOR: &str = help!(
    "  homelab-deploy doctor
  homelab-deploy doctor --listener
  homelab-deploy doctor nats.conf",
    "1    Something is wrong"
);
const BUILD: &str = help!(
    "  homelab-deploy build sunday --out systems.json
  homelab-deploy build ns1 ns2 --revision main --flake github:me/fleet \\
    --sign-key fleet.secret --copy-to file:///srv/cache --out systems.json",
);
const APPLY: &str = help_of_rollout!(
    "  homelab-deploy apply sunday
  homelab-deploy apply ./rollout.toml --yes --json
  homelab-deploy apply sunday --systems systems.json
  homelab-deploy apply sunday --detach
  homelab-deploy apply sunday --verbose
  homelab-deploy apply --resume"
);
const PLAN: &str = help!(
    "  homelab-deploy plan sunday
  homelab-deploy plan ./rollout.toml --systems systems.json --out planned.json",
);
const DEPLOY: &str = help_of_rollout!(
    "  homelab-deploy deploy deploy.test.test1
  homelab-deploy deploy deploy.prod.role.dns --branch main
  homelab-deploy deploy deploy.prod.all --action dry-activate
  homelab-deploy deploy prod.ns1 --to previous"
);
const ROLLBACK: &str = help_of_rollout!(
    "  homelab-deploy rollback ns1
  homelab-deploy rollback prod.ns1 prod.ns2 --yes
  homelab-deploy rollback 01J9ZK3V"
);
const HOSTS: &str = help!(
    "  homelab-deploy hosts
  homelab-deploy hosts --tier prod --watch
  homelab-deploy hosts --json | jq -r '.[].hostname'",
);
const LOGS: &str = help!(
    "  homelab-deploy logs ns1 --follow
  homelab-deploy logs prod.ns1 --id 6f1c2a8e-8e0f-4a43-9a39-2f1f3c1d2b11",
);
const ROLLOUTS: &str = help!(
    "  homelab-deploy rollouts
  homelab-deploy rollouts --json | jq '.[-1].outcome'",
);
const STATUS: &str = help_of_rollout!(
    "  homelab-deploy status
  homelab-deploy status 01J9ZK3V --json"
);
const REPORT: &str = help!(
    "  homelab-deploy report > rollout.html
  homelab-deploy report 01J9ZK3V --format markdown
  homelab-deploy report --format junit --out results.xml",
);
const ABORT: &str = help!(
    "  homelab-deploy abort
  homelab-deploy abort 01J9ZK3V",
);
const KEYGEN: &str = help!(
    "  homelab-deploy keygen operator.seed
  homelab-deploy keygen --public operator.seed",
);
const NATS_CONFIG: &str = help!("  homelab-deploy nats-config fleet.toml > authorization.conf",);
const LISTENER: &str = help!(
    "  homelab-deploy listener --hostname ns1 --tier prod --role dns \\
    --flake-url git+https://git.example.net/fleet --nkey-file /run/keys/ns1.seed",
);
const MCP: &str = help!("  homelab-deploy mcp --context home",);
const MAN: &str = help!(
    "  homelab-deploy man | man -l -
  homelab-deploy man --out share/man/man1",
);
const COMPLETIONS: &str = help!(
    "  In ~/.bashrc:
    eval \"$(homelab-deploy completions bash)\"
  In ~/.zshrc, below compinit:
    eval \"$(homelab-deploy completions zsh)\"
  In ~/.config/fish/config.fish:
    homelab-deploy completions fish | source",
);
