//! Server, hosts and the programs that deploy to them, in turn.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use homelab_deploy::nats_config::Principal;
use miette::{IntoDiagnostic, Result, WrapErr, bail};
use tempfile::TempDir;

use super::cost::Cost;
use super::display;
use super::hosts;
use super::support::fleet;
use super::support::keys::Key;
use super::support::process::Process;
use super::support::server::Server;
use super::support::wait;
use super::timeline::Timeline;

/// The real program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_homelab-deploy");

/// How often two programs are started that end at once.
const STARTS: usize = 41;

/// How much is shown of what a program said that failed.
const LAST_LINES: usize = 10;

/// A fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Of how many hosts.
    pub hosts: u32,
    /// Over how many connections. Real ones have one each. Over a few the server has less to do and the limit is lower: such
    /// a fleet is measured for comparison, and not judged.
    pub connections: u32,
    rounds: usize,
}

/// What runs in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The bare one, with one request to each.
    Bare,
    /// `deploy`: to the host's own name where there is but one, else to all.
    Deploy,
    /// `apply`: all hosts in one wave.
    Apply,
}

/// What a program cost, once.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// From the first request to the last final.
    pub span: Duration,
    /// From the last final to the end; known of the real program only.
    pub leave: Option<Duration>,
    /// How long the display takes for the same rollout; known of `apply` only.
    pub display: Option<Duration>,
    /// Of the whole process.
    pub cost: Cost,
}

/// What all runs of a program with a fleet cost.
#[derive(Debug)]
pub struct Figures {
    /// The fleet.
    pub scenario: Scenario,
    /// The program.
    pub program: Program,
    /// Each run.
    pub samples: Vec<Sample>,
}

/// Everything that all scenarios share.
pub struct Stage {
    // The fields end in this order: hosts first, the files at last.
    server: Server,
    admin: Key,
    folder: TempDir,
}

impl Scenario {
    /// All of them: real fleets, and then those that share connections.
    pub const ALL: [Self; 8] = [
        Self::new(1, 1, 31),
        Self::new(10, 10, 7),
        Self::new(100, 100, 9),
        Self::new(1_000, 1_000, 7),
        Self::new(10_000, 10_000, 5),
        Self::new(1_000, 4, 9),
        Self::new(10_000, 4, 7),
        Self::new(30_000, 4, 1),
    ];

    /// Whether each host has a connection of its own.
    pub const fn is_real(self) -> bool {
        self.hosts == self.connections
    }

    /// What is at most demanded of a fleet like this one; nothing of one that is there for comparison.
    pub fn goal(self, most: f64) -> Option<f64> {
        self.is_real().then_some(most)
    }

    const fn new(hosts: u32, connections: u32, rounds: usize) -> Self {
        Self { hosts, connections, rounds }
    }
}

impl Program {
    const ALL: [Self; 3] = [Self::Bare, Self::Deploy, Self::Apply];

    /// Whether it is the one that is to meet goals.
    pub fn is_real(self) -> bool {
        self != Self::Bare
    }
}

impl Stage {
    /// Starts the server.
    pub async fn set() -> Result<Self> {
        // On a disk, as the journal of an operator is; a temporary folder may be in memory.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).into_diagnostic()?;
        let admin = Key::generate(folder.path(), "admin")?;
        let server = Server::start(&folder.path().join("server"), &[admin.user(Principal::Admin)]).await?;
        Ok(Self { server, admin, folder })
    }

    /// Starts an empty program and the real one in turn, and returns what each cost.
    pub fn starts(&self) -> Result<Vec<[Cost; 2]>> {
        let empty = self.empty_program()?;
        let empty = empty.to_string_lossy();
        (0..STARTS).map(|_| Ok([self.run(&empty, &[])?.0, self.run(PROGRAM, &["--version"])?.0])).collect()
    }

    /// Runs the programs in turn with a fleet.
    pub async fn play(&mut self, scenario: Scenario) -> Result<Vec<Figures>> {
        let _hosts = self.start_hosts(scenario).await?;
        // Those of another fleet are known no more.
        fs::remove_dir_all(self.path("state")).ok();
        let mut all: Vec<Figures> = Program::ALL.into_iter().map(|program| Figures::new(scenario, program)).collect();
        for _ in 0..scenario.rounds {
            for figures in &mut all {
                self.sample(figures)?;
            }
        }
        Ok(all)
    }

    fn sample(&self, figures: &mut Figures) -> Result<()> {
        let hosts = figures.scenario.hosts;
        let sample = match figures.program {
            Program::Bare => self.bare(hosts)?,
            Program::Deploy => {
                let target = if hosts == 1 { "prod.h0" } else { "prod.all" };
                let state = self.path("state").to_string_lossy().into_owned();
                let (cost, events) =
                    self.operator(&["deploy", target, "--branch", hosts::REVISION, "--json", "--state-dir", &state])?;
                Sample::new(cost, &events)?
            }
            Program::Apply => {
                let (cost, journal) = self.apply(hosts)?;
                Sample { display: Some(display::time(&journal)?), ..Sample::new(cost, &journal)? }
            }
        };
        figures.samples.push(sample);
        Ok(())
    }

    fn bare(&self, hosts: u32) -> Result<Sample> {
        let (this, seed) = (this_program()?, self.admin.seed_file().to_string_lossy());
        let arguments = ["limit", self.server.url(), &seed, &hosts.to_string()];
        let (cost, microseconds) = self.run(&this, &arguments)?;
        let span = Duration::from_micros(microseconds.trim().parse().into_diagnostic()?);
        Ok(Sample { span, leave: None, display: None, cost })
    }

    /// Rolls out a plan of one wave, and returns its journal too.
    fn apply(&self, hosts: u32) -> Result<(Cost, String)> {
        let (plan, state) = (self.path("plan.toml"), self.path("state"));
        // A plan of hosts by name needs no longer for its roll call than they take to answer.
        let targets = if hosts == 1 { "prod.h0" } else { "prod.all" };
        let text = format!("revision = {:?}\n[[wave]]\nname = \"all\"\ntargets = {targets:?}\n", hosts::REVISION);
        fs::write(&plan, text).into_diagnostic()?;
        // The hosts that answered before stay known.
        fs::remove_dir_all(state.join("rollouts")).ok();
        let arguments = ["apply", &plan.to_string_lossy(), "--yes", "--state-dir", &state.to_string_lossy()];
        let (cost, _) = self.operator(&arguments)?;
        let mut journals = fs::read_dir(state.join("rollouts")).into_diagnostic()?;
        let Some(journal) = journals.next().transpose().into_diagnostic()? else {
            bail!("there is no journal");
        };
        Ok((cost, fs::read_to_string(journal.path()).into_diagnostic()?))
    }

    fn operator(&self, arguments: &[&str]) -> Result<(Cost, String)> {
        let seed = self.admin.seed_file().to_string_lossy();
        let connection = ["--nats-url", self.server.url(), "--nkey-file", &seed];
        self.run(PROGRAM, &[arguments, &connection].concat())
    }

    /// Runs a program to its end and returns what it cost and what it printed.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(Cost, String)> {
        let (report, errors) = (self.path("cost"), self.path("errors"));
        let mut command = fleet::command(Path::new(&this_program()?), self.folder.path(), &[])?;
        command.arg("cost").arg(&report).arg(program).args(arguments).stdin(Stdio::null());
        // In no repository: git would be asked about the commits of a clone, and the bare program looks up nothing.
        command.current_dir("/");
        command.stderr(fs::File::create(&errors).into_diagnostic()?);
        let printed = fs::File::create(self.path("printed")).into_diagnostic()?;
        let status = command.stdout(printed).status().into_diagnostic()?;
        let cost: Cost = serde_json::from_slice(&fs::read(&report).into_diagnostic()?).into_diagnostic()?;
        if !status.success() || !cost.success {
            let errors = fs::read_to_string(errors).into_diagnostic()?;
            let lines: Vec<&str> = errors.lines().collect();
            let (_, last) = lines.split_at(lines.len().saturating_sub(LAST_LINES));
            bail!("{program} {} failed:\n{}", arguments.join(" "), last.join("\n"));
        }
        Ok((cost, fs::read_to_string(self.path("printed")).into_diagnostic()?))
    }

    async fn start_hosts(&self, scenario: Scenario) -> Result<Process> {
        let mut command = fleet::command(Path::new(&this_program()?), self.folder.path(), &[])?;
        command.args(["hosts", self.server.url()]).arg(self.admin.seed_file());
        command.args([scenario.hosts.to_string(), scenario.connections.to_string()]);
        let log = self.path("hosts.log");
        fs::remove_file(&log).ok();
        let mut hosts = Process::start(&mut command, &log)?;
        wait::until("the hosts can be reached", async || {
            if let Some(status) = hosts.status()? {
                bail!("the hosts ended with {status}:\n{}", hosts.output());
            }
            Ok(hosts.output().contains(hosts::READY).then_some(()))
        })
        .await?;
        Ok(hosts)
    }

    /// The least that a program can be.
    fn empty_program(&self) -> Result<PathBuf> {
        let (source, program) = (self.path("empty.rs"), self.path("empty"));
        fs::write(&source, "fn main() {}\n").into_diagnostic()?;
        let status = Command::new("rustc").args(["-O", "-o"]).arg(&program).arg(&source).status();
        if !status.into_diagnostic().wrap_err("cannot run rustc")?.success() {
            bail!("rustc does not compile an empty program");
        }
        Ok(program)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Sample {
    fn new(cost: Cost, events: &str) -> Result<Self> {
        let timeline = Timeline::of(events)?;
        Ok(Self { span: timeline.span(), leave: Some(timeline.until(cost.ended_at)), display: None, cost })
    }
}

impl Figures {
    fn new(scenario: Scenario, program: Program) -> Self {
        Self { scenario, program, samples: Vec::new() }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hosts, {} connections", self.hosts, self.connections)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "limit",
            Self::Deploy => "deploy",
            Self::Apply => "apply",
        })
    }
}

fn this_program() -> Result<String> {
    Ok(std::env::current_exe().into_diagnostic()?.to_string_lossy().into_owned())
}
