//! Compares the cost of a deployment to 1 to 10,000 hosts with that of a bare program that implements only the
//! protocol.
//!
//! `make bench` runs it. Absolute times depend on the machine; what matters is the ratio to the bare program, which
//! runs in turn with the real one. Another process simulates the hosts, which respond at once and rebuild nothing, so
//! the benchmark measures everything but the rebuild.
//!
//! Without arguments this program is the benchmark. It starts itself, with arguments, as the other programs.

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

/// How many open files the server of the largest fleet needs, with some reserve.
const DESCRIPTORS: u64 = 11_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        // cargo passes this argument to every benchmark.
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

/// Raises the limit of open files, also for child processes, to the connections of the largest fleet.
fn allow_many_connections() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).into_diagnostic()?;
    if most < DESCRIPTORS {
        bail!("a process may have {most} open files here, and the benchmark needs {DESCRIPTORS}: see `ulimit -Hn`");
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).into_diagnostic()
}

fn say(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").into_diagnostic()
}
