//! What a deployment costs beside a bare program that does only the protocol, for fleets of 1 to 10,000 hosts.
//!
//! `make bench` runs it. Absolute times say little, as they are the machine's; what counts is the ratio to the bare
//! program, which runs in turn with the real one. The hosts are simulated by a process of their own: they answer at once and
//! rebuild nothing, so all that is measured is what happens around a rebuild.
//!
//! This program is all of its parts: without arguments it is the benchmark, which starts itself as the others.

mod build_once;
mod cost;
mod display;
mod goals;
mod hosts;
mod limit;
mod stage;
mod timeline;

#[path = "../../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it than the benchmark does")]
mod support;

use std::io::{self, Write};
use std::path::Path;

use miette::{IntoDiagnostic, Result, bail};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use goals::Goals;
use stage::{Scenario, Stage};

/// How many open files the server of the largest fleet needs, with room to spare.
const DESCRIPTORS: u64 = 11_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        // What cargo passes to every benchmark.
        [] | ["--bench"] => benchmark().await,
        ["build-once"] | ["build-once", "--bench"] => say(&build_once::compare()?),
        ["cost", report, program, arguments @ ..] => cost::pay(Path::new(report), program, arguments),
        ["hosts", url, seed, hosts, connections] => {
            let (hosts, connections) = (hosts.parse().into_diagnostic()?, connections.parse().into_diagnostic()?);
            hosts::run(url, Path::new(seed), hosts, connections).await
        }
        ["limit", url, seed, hosts] => limit::run(url, Path::new(seed), hosts.parse().into_diagnostic()?).await,
        _ => bail!("the arguments of this program are its own affair: run it without any, by `make bench`"),
    }
}

async fn benchmark() -> Result<()> {
    allow_many_connections()?;
    let mut stage = Stage::set().await?;
    let mut goals = Goals::default();
    goals.start(&stage.starts()?);
    for scenario in Scenario::ALL {
        say(&format!("{scenario} ..."))?;
        goals.fleet(stage.play(scenario).await?);
    }
    say(&format!("\n{}", goals.figures()))?;
    say(&goals.table())?;
    say(&format!("\n{}", build_once::compare()?))
}

/// Lets this process, and those that it starts, have as many connections as the largest fleet has hosts.
fn allow_many_connections() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).into_diagnostic()?;
    if most < DESCRIPTORS {
        bail!("a process may have {most} open files here, and the benchmark needs {DESCRIPTORS}: see `ulimit -Hn`");
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).into_diagnostic()
}

/// Prints a line.
fn say(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").into_diagnostic()
}
