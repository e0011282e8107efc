//! The process that stands over one run and outlives the listener: it finds the commit, starts `nixos-rebuild`, keeps its
//! output, ends it when it takes too long, looks at what came of it, and leaves behind how it ended. Where that is asked
//! for it is also what waits to be told that the host was heard from, and returns it to what ran before: the listener and
//! the network may be the very things that broke.
//!
//! It holds the lock of the run, and so does everything that it starts. The lock lives as long as any of these processes,
//! which is how a listener, also one that was started later, knows that the run goes on: there is no pid that could be
//! someone else's, and a host on which only the supervisor was killed is not free yet.

mod activation;
mod build;
mod deployment;
mod log;
mod process;
mod rollback;

use std::fs::File;
use std::io;

use rustix::io::{FdFlags, fcntl_setfd};

use self::deployment::Deployment;
use self::log::Log;
use self::process::{ProcessRunner, ProcessTree, StopSignal};
use super::host::Host;
pub use super::run::RunDir;
use super::run::{UnitEnd, files};
use crate::notify::Notifier;

/// Carries out a run that is written down, and writes down how it ended. The starter is told once it has the run in hand.
pub async fn supervise(dir: RunDir, starter: &Notifier) -> io::Result<()> {
    let spec = dir.spec()?;
    let _lock = take_in_hand(&dir)?;
    starter.ready();
    // A session of its own: no terminal or process group through which the listener's end could reach it. Who starts it
    // by hand may have given it one already.
    rustix::process::setsid().ok();
    // Descendants that lose their parent become children of this process, so that none escapes a timeout. Other systems
    // cannot do that, and no host of a fleet has one: there the operator's half of this program has to build, and no more.
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let runner = ProcessRunner {
        // Heard from before any program runs: a signal to this process is meant for what it has started, too.
        bounds: StopSignal::of(spec.settings.timeout())?,
        tree: ProcessTree::new()?,
        grace: spec.settings.grace(),
        log: Log::create(&dir),
        activation: None,
    };
    let host = Host::new(spec.settings.root.clone());
    // On the heap, since every future above would hold all of it otherwise.
    let result = Box::pin(Deployment { dir: dir.clone(), spec, host, runner }.carry_out()).await?;
    dir.keep(files::RESULT, &result)
}

pub fn note_unit_end(dir: &RunDir, end: &UnitEnd) -> io::Result<()> {
    dir.keep(files::UNIT, end)
}

/// Takes the lock of the run, for this process and all that it starts. An error when nobody waits for the run any more.
fn take_in_hand(dir: &RunDir) -> io::Result<File> {
    let lock = dir.wait_for_lock()?;
    if dir.is_concluded() {
        return Err(io::Error::other("it is over: this process came too late"));
    }
    fcntl_setfd(&lock, FdFlags::empty())?;
    Ok(lock)
}

#[cfg(test)]
mod tests;
