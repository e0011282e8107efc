//! Demonstrates a rollout: a real nats-server, six real listeners and the real program, on this machine and in a
//! temporary folder. Only `nixos-rebuild` is simulated: it takes a second or two and changes nothing.
//!
//! `cargo run --example demo` shows a rollout that succeeds, `cargo run --example demo failure` one that halts.

#[path = "../../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it than the demo does")]
mod support;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use homelab_deploy::protocol::HostName;
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use terminal_size::{Width, terminal_size_of};
use textwrap::WordSplitter;
use tokio::process::Command;
use tokio::signal::ctrl_c;

use support::lab::Lab;

const HOSTS: [&str; 6] =
    ["test.test1", "test.test2", "prod.ns1.dns", "prod.ns2.dns", "prod.jelly.media", "prod.sonos.media"];

/// The simulated `nixos-rebuild` of a host that succeeds.
const SUCCESS: &str = include_str!("success.sh");

/// The simulated `nixos-rebuild` of the host that fails.
const FAILURE: &str = include_str!("failure.sh");

const PLAN: &str = include_str!("../../plans/demo.toml");

/// Roll a plan of three waves over six listeners on this machine
#[derive(Debug, Parser)]
struct Demo {
    /// What to show
    #[arg(value_enum, default_value_t)]
    story: Story,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// Every host takes the new configuration
    #[default]
    Success,
    /// A name server fails in the second wave, and the third is never started
    Failure,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let Demo { story } = Demo::parse();
    let run = async {
        let code = show(story).await?;
        judge(story, code)
    };
    // Ctrl-C ends all processes that were started here too; only the folder has to be removed.
    tokio::select! {
        ended = run => ended,
        _ = ctrl_c() => Ok(ExitCode::from(130)),
    }
}

/// Starts the lab and runs the rollout. Returns its exit code.
async fn show(story: Story) -> Result<Option<i32>> {
    let mut lab = Lab::start(&program()?, &HOSTS).await?;
    say(&format!("nats-server  {}, where each key may do only what it needs", lab.server.url()))?;
    say(&format!("flake        {}", lab.flake.url()))?;
    for host in HOSTS {
        lab.fleet.rebuild().on(&host_name(host)?, SUCCESS)?;
    }
    if story == Story::Failure {
        lab.fleet.rebuild().on(&host_name("prod.ns1.dns")?, FAILURE)?;
    }
    lab.listen_all().await?;
    say(&format!("listeners    {}", HOSTS.join("  ")))?;
    say("\n$ homelab-deploy apply plans/demo.toml --yes\n")?;
    apply(&lab).await
}

/// Runs the real program with its output shown.
async fn apply(lab: &Lab) -> Result<Option<i32>> {
    let mut command = lab.operator(&lab.admin)?;
    let plans = lab.home().join("plans");
    fs::create_dir_all(&plans).into_diagnostic()?;
    fs::write(plans.join("demo.toml"), PLAN).into_diagnostic()?;
    for name in ["TERM", "NO_COLOR", "COLUMNS"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.args(["apply", "plans/demo.toml", "--yes"]);
    // If Ctrl-C ends the demo, the rollout must not wait for hosts that are gone.
    let mut rollout = Command::from(command);
    let status = rollout.kill_on_drop(true).status().await;
    let status = status.into_diagnostic().wrap_err("cannot run homelab-deploy")?;
    Ok(status.code())
}

/// Checks whether the rollout ended as expected.
fn judge(story: Story, code: Option<i32>) -> Result<ExitCode> {
    let (expected, verdict) = match story {
        Story::Success => (0, "every wave succeeded. `make demo-failure` shows one that does not."),
        Story::Failure => (1, "the rollout halted, and no host of the third wave was asked."),
    };
    if code != Some(expected) {
        return Err(miette!("homelab-deploy ended with {code:?}, where {expected} was expected"));
    }
    say(&format!("\nexit code {expected}: {verdict}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Finds the program: beside the folder of the examples in a cargo build, beside the demo in an installation.
fn program() -> Result<PathBuf> {
    let demo = std::env::current_exe().into_diagnostic()?;
    let candidates = demo.ancestors().skip(1).take(2).map(|folder| folder.join("homelab-deploy"));
    let found = candidates.into_iter().find(|path| Path::is_file(path));
    found.ok_or_else(|| {
        miette!(help = "build it first with `cargo build`, or use `make demo`", "homelab-deploy is not built")
    })
}

/// Returns the host in `<tier>.<host>.<role>`.
fn host_name(text: &str) -> Result<HostName> {
    text.split('.').nth(1).unwrap_or_default().parse().into_diagnostic()
}

/// Prints a text, wrapped to the terminal between words.
fn say(text: &str) -> Result<()> {
    let width = terminal_size_of(io::stdout()).map_or(usize::MAX, |(Width(columns), _)| columns.into());
    let options = textwrap::Options::new(width).break_words(false).word_splitter(WordSplitter::NoHyphenation);
    // Indents further lines to the column after the label.
    let label = text.find("  ").map_or(0, |end| text.len() - text.get(end..).unwrap_or_default().trim_start().len());
    let margin = " ".repeat(label);
    writeln!(io::stdout(), "{}", textwrap::fill(text, options.subsequent_indent(&margin))).into_diagnostic()
}
