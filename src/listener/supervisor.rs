//! The process that supervises one run and outlives the listener: it resolves the commit, starts `nixos-rebuild`, keeps
//! its output, ends it at the time limit, judges the outcome, and writes down the result. If asked to, it waits for the
//! operator's confirmation and rolls back without it, as the deployment may have broken the listener or the network.
//!
//! It holds the lock of the run, and so does everything that it starts. The lock lives as long as any of these
//! processes, so any listener knows whether the run goes on. There is no pid that could be someone else's, and a host
//! on which only the supervisor was killed is still busy.

mod activation;
mod deployment;
mod process;
mod rollback;
mod system;

use std::fs::File;
use std::io;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::signal::unix::{SignalKind, signal};

use self::deployment::Deployment;
use self::process::{ProcessRunner, ProcessTree, StopCondition};
use super::nixos::Host;
pub use super::run::RunDir;
use super::run::{FINAL, OutputLog, RESULT, UNIT, UnitEnd};
use super::systemd::Systemd;

/// Carries out the run in this directory, and writes down the result. Notifies the starter once it holds the lock.
pub async fn supervise(dir: RunDir, mut starter: Systemd) -> io::Result<()> {
    let spec = dir.spec()?;
    let _lock = take_lock(&dir)?;
    starter.ready();
    // A session without the listener's terminal and process group. Fails harmlessly if it already leads one.
    rustix::process::setsid().ok();
    // Orphaned descendants become children of this process, so that none escapes the time limit. Only Linux can do
    // that, and hosts run Linux; elsewhere this only has to compile for the operator's half of the program.
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let runner = ProcessRunner {
        // Registered before any program runs: a signal to this process is meant for the programs, too.
        stop: StopCondition::of(spec.settings.timeout)?,
        tree: ProcessTree { deaths: signal(SignalKind::child())? },
        grace: spec.settings.grace,
        log: OutputLog::create(&dir),
        activation: None,
    };
    let host = Host::new(spec.settings.root.clone());
    // Boxed, since every caller's future would otherwise contain it.
    let result = Box::pin(Deployment { dir: dir.clone(), spec, host, runner }.carry_out()).await?;
    dir.write_and_copy(RESULT, &result)
}

pub fn note_unit_end(dir: &RunDir, end: &UnitEnd) -> io::Result<()> {
    dir.write_and_copy(UNIT, end)
}

/// Takes the lock of the run, for this process and all that it starts. Fails if the run has been concluded.
fn take_lock(dir: &RunDir) -> io::Result<File> {
    let lock = dir.wait_for_lock()?;
    if dir.has(RESULT) || dir.has(FINAL) {
        return Err(io::Error::other("the run is over: this process started too late"));
    }
    fcntl_setfd(&lock, FdFlags::empty())?;
    Ok(lock)
}

#[cfg(test)]
mod tests;
