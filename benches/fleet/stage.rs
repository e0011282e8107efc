//! Runs the server, the hosts, and in turn the programs that deploy to them.

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

/// How often the startup of the two programs is measured.
const STARTS: usize = 41;

/// How many lines of a failed program's output are shown.
const LAST_LINES: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    pub hosts: u32,
    /// A real fleet has one for each host. With few connections the server has less work and the limit is lower, so
    /// such a fleet is measured only for comparison.
    pub connections: u32,
    rounds: usize,
}

/// The programs, which run in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The bare one, with one request to each host.
    Bare,
    /// `deploy` to the name of a single host, else to all hosts.
    Deploy,
    /// `apply` with all hosts in one wave.
    Apply,
}

/// The cost of one run of a program.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// From the first request to the last final response.
    pub span: Duration,
    /// From the last final response to the exit; only for the real program.
    pub leave: Option<Duration>,
    /// The time of the display for the same rollout; only for `apply`.
    pub display: Option<Duration>,
    pub cost: Cost,
}

/// The cost of all runs of a program with a fleet.
#[derive(Debug)]
pub struct Figures {
    pub scenario: Scenario,
    pub program: Program,
    pub samples: Vec<Sample>,
}

/// The parts that all scenarios share.
pub struct Stage {
    // The fields are dropped in this order: the server first, the files last.
    server: Server,
    admin: Key,
    folder: TempDir,
}

impl Scenario {
    /// Real fleets first, then those that share connections.
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

    /// Returns the goal for a real fleet; `None` for one that is only for comparison.
    pub fn goal(self, most: f64) -> Option<f64> {
        self.is_real().then_some(most)
    }

    const fn new(hosts: u32, connections: u32, rounds: usize) -> Self {
        Self { hosts, connections, rounds }
    }
}

impl Program {
    const ALL: [Self; 3] = [Self::Bare, Self::Deploy, Self::Apply];

    /// Whether the program has to meet goals.
    pub fn is_real(self) -> bool {
        self != Self::Bare
    }
}

impl Stage {
    /// Starts the server.
    pub async fn set() -> Result<Self> {
        // On a disk, like the journal of an operator; a temporary folder may be in memory.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).into_diagnostic()?;
        let admin = Key::generate(folder.path(), "admin")?;
        let server = Server::start(&folder.path().join("server"), &[admin.user(Principal::Admin)]).await?;
        Ok(Self { server, admin, folder })
    }

    /// Starts an empty program and the real one in turn and returns their costs.
    pub fn starts(&self) -> Result<Vec<[Cost; 2]>> {
        let empty = self.empty_program()?;
        let empty = empty.to_string_lossy();
        (0..STARTS).map(|_| Ok([self.run(&empty, &[])?.0, self.run(PROGRAM, &["--version"])?.0])).collect()
    }

    /// Runs the programs in turn with a fleet.
    pub async fn play(&mut self, scenario: Scenario) -> Result<Vec<Figures>> {
        let _hosts = self.start_hosts(scenario).await?;
        // Forgets the known hosts of another fleet.
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

    /// Rolls out a plan with one wave. Returns its journal too.
    fn apply(&self, hosts: u32) -> Result<(Cost, String)> {
        let (plan, state) = (self.path("plan.toml"), self.path("state"));
        // The roll call for a named host ends once it has answered.
        let targets = if hosts == 1 { "prod.h0" } else { "prod.all" };
        let text = format!("revision = {:?}\n[[wave]]\nname = \"all\"\ntargets = {targets:?}\n", hosts::REVISION);
        fs::write(&plan, text).into_diagnostic()?;
        // Removes the journals and keeps the known hosts.
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

    /// Runs a program and returns its cost and output.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(Cost, String)> {
        let (report, errors) = (self.path("cost"), self.path("errors"));
        let mut command = fleet::command(Path::new(&this_program()?), self.folder.path(), &[])?;
        command.arg("cost").arg(&report).arg(program).args(arguments).stdin(Stdio::null());
        // Outside of any repository: with a clone, the program would run git, and the bare program does not.
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

    /// Compiles an empty program.
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
