//! Operators: one who retries until a rollout succeeds, and others who interfere.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::oracle::Told;
use super::schedule::Schedule;
use super::site::Site;
use crate::support::process::Process;

/// The pause of the operator before a retry.
const REST: Duration = Duration::from_millis(200);

/// The allowed exit codes: success, a failed wave, nothing could be sent, interrupted, or killed.
const ENDS: [Option<i32>; 5] = [Some(0), Some(1), Some(3), Some(130), None];

/// A rollout, and the command that runs it.
pub struct Rollout {
    pub commit: String,
    pub is_done: bool,
    /// The number of commands so far.
    pub attempts: u64,
    command: Option<Process>,
    /// The operator does nothing before this.
    away_until: Instant,
    ends: Vec<Option<i32>>,
}

/// A deployment by another operator.
pub struct Deployment {
    pub commit: String,
    operator: String,
    pub running: Process,
}

impl Rollout {
    /// Returns a rollout of its own commit, which `number` identifies.
    pub fn new(number: usize) -> Self {
        let commit = format!("a{number:039x}");
        Self { commit, is_done: false, attempts: 0, command: None, away_until: Instant::now(), ends: Vec::new() }
    }

    /// Starts or resumes the rollout, unless a command runs or it has succeeded.
    pub fn tend(&mut self, site: &Site, schedule: &Schedule) {
        if let Some(command) = &mut self.command {
            let Some(status) = command.status().unwrap() else { return };
            self.command = None;
            self.ends.push(status.code());
            self.is_done = status.success();
            self.away_until = self.away_until.max(Instant::now() + REST);
        }
        if self.is_done || Instant::now() < self.away_until {
            return;
        }
        let mut command = if let Some(id) = self.journal(site).as_ref().and_then(|path| path.file_stem()?.to_str()) {
            site.operator("anna", &["apply", "--resume", id])
        } else {
            let plan = site.lab.home().join("chaos.toml");
            fs::write(&plan, schedule.plan(&self.commit)).unwrap();
            site.operator("anna", &["apply", "--yes", &plan.display().to_string()])
        };
        self.command = Some(Process::start(&mut command, &site.lab.home().join("rollout.log")).unwrap());
        self.attempts += 1;
    }

    pub fn command(&self) -> Option<&Process> {
        self.command.as_ref()
    }

    /// Lets the operator do nothing for this time.
    pub fn leave_for(&mut self, time: Duration) {
        self.away_until = Instant::now() + time;
    }

    /// Returns the content of the journal.
    pub fn told(&self, site: &Site) -> Told {
        self.journal(site).map(|path| Told::read(&fs::read_to_string(path).unwrap())).unwrap_or_default()
    }

    /// Returns the exit codes that are not allowed.
    pub fn odd_ends(&self) -> Vec<String> {
        let odd = self.ends.iter().filter(|end| !ENDS.contains(end));
        odd.map(|end| format!("the operator's command ended with {end:?}")).collect()
    }

    fn journal(&self, site: &Site) -> Option<PathBuf> {
        journal(site, "anna", &self.commit)
    }
}

/// Returns the journal of an operator about this commit, once it has enough in it to resume.
fn journal(site: &Site, operator: &str, commit: &str) -> Option<PathBuf> {
    let folder = fs::read_dir(site.lab.home().join(operator).join("rollouts")).ok()?;
    let mut paths = folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("jsonl".as_ref()));
    paths.find(|path| Told::read(&fs::read_to_string(path).unwrap_or_default()).is_of(commit))
}

impl Deployment {
    /// Starts to deploy its own commit, which `number` identifies, to a whole tier.
    pub fn start(site: &Site, tier: &str, number: usize) -> Self {
        let commit = format!("b{number:039x}");
        let operator = format!("bert{number}");
        let target = format!("{tier}.all");
        let arguments = ["deploy", &target, "--branch", &commit, "--timeout", "20", "--json"];
        // Every other deployment has to be confirmed.
        let confirmed = ["--auto-rollback", "--confirm-timeout", "5s"];
        let arguments = [&arguments[..], if number.is_multiple_of(2) { &confirmed } else { &[] }].concat();
        let mut command = site.operator(&operator, &arguments);
        let running = Process::start(&mut command, &site.lab.home().join(format!("{operator}.log"))).unwrap();
        Self { commit, operator, running }
    }

    /// Returns the content of the journal, or of the output if there is no journal.
    pub fn told(&self, site: &Site) -> Told {
        let journal = journal(site, &self.operator, &self.commit).map(|path| fs::read_to_string(path).unwrap());
        Told::read(&journal.unwrap_or_else(|| self.running.output()))
    }
}
