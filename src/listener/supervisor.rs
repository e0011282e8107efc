//! The process that stands over one run and outlives the listener: it starts the program, keeps its output, ends it
//! when it takes too long, and leaves behind how it ended.
//!
//! It holds the lock of the run, and so does everything that it starts. The lock lives as long as any of these processes,
//! which is how a listener, also one that was started later, knows that the run goes on: there is no pid that could be
//! someone else's, and a host on which only the supervisor was killed is not free yet.

mod activation;
mod log;
mod tree;

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use self::log::Log;
use self::tree::{Tree, has_descendant};
use super::host::Host;
use super::run::{End, RunDir, RunResult, Spec};
use super::unit::UnitEnd;
use crate::clock;
use crate::notify::Notifier;

/// How much output is taken at once, in bytes.
const PIECE_BYTES: usize = 8 * 1024;

/// What a pipe holds, in bytes, unless someone made it larger.
const PIPE_BYTES: u64 = 64 * 1024;

/// Runs what is written down in this directory, and writes down how it ended. Whoever started this process is told once
/// it has the run in hand.
pub async fn supervise(dir: &Path, starter: &Notifier) -> io::Result<()> {
    let dir = RunDir::new(dir.to_owned());
    let spec = dir.spec()?;
    let _lock = take_in_hand(&dir)?;
    starter.ready();
    // A session of its own: no terminal or process group through which the listener's end could reach it. Who starts it
    // by hand may have given it one already.
    rustix::process::setsid().ok();
    // Descendants that lose their parent become children of this process, so that none escapes a timeout.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    // Heard from before the program runs: whoever ends this process means what it has started too.
    let mut wishes = Wishes::hear()?;
    let started_at = clock::now();
    let mut log = Log::create(&dir)?;
    let end = match start(&spec) {
        Ok((program, output)) => follow(program, output, &spec, &mut wishes, &mut log).await?,
        Err(error) => End::NotStarted(error.to_string()),
    };
    let (generation, system) = Host::new("/".into()).generation_and_system();
    dir.write_result(&RunResult { end, phase: log.phase(), started_at, ended_at: clock::now(), generation, system })
}

/// Notes how the unit of the run in this directory ended.
pub fn note_unit_end(dir: &Path, end: &UnitEnd) -> io::Result<()> {
    RunDir::new(dir.to_owned()).write_unit_end(end)
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

/// Starts the program with both its outputs on one pipe, so that their order is kept.
fn start(spec: &Spec) -> io::Result<(Pid, PipeReader)> {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program was named"));
    };
    let (output, input) = io::pipe()?;
    let child = Command::new(program)
        .args(arguments)
        // Only this process has news for whoever started it.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program} cannot be started: {error}")))?;
    Ok((Pid::from_child(&child), output))
}

/// Keeps the output until the program has ended.
async fn follow(program: Pid, output: PipeReader, spec: &Spec, wishes: &mut Wishes, log: &mut Log) -> io::Result<End> {
    let mut tree = Tree::new(program)?;
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
    let end = tokio::select! {
        end = watch(&mut tree, spec, wishes) => end,
        never = keep(&mut output, log) => match never {},
    };
    // What the program wrote last is in the pipe, which is read itself: the runtime may not have noticed yet that there
    // is something in it. Who else still writes to it is not waited for.
    let mut rest = File::from(output.into_nonblocking_fd()?).take(PIPE_BYTES);
    let mut piece = [0; PIECE_BYTES];
    while let Ok(length @ 1..) = rest.read(&mut piece) {
        log.write(piece.get(..length).unwrap_or_default());
    }
    Ok(end)
}

/// Waits for the program, but not longer than it may take.
async fn watch(tree: &mut Tree, spec: &Spec, wishes: &mut Wishes) -> End {
    let (limit, grace) = (Duration::from_millis(spec.timeout_ms), Duration::from_millis(spec.grace_ms));
    let started_at = clock::now();
    let end = tokio::select! {
        end = tree.program_ended() => return activation::checked(end, started_at).await,
        () = tokio::time::sleep(limit) => End::TimedOut,
        signal = wishes.next() => End::Killed(signal.as_raw()),
    };
    // Where there are units, the activation is in one of its own and no descendant. It is this run's when the process
    // that waits for it is.
    if has_descendant(activation::waits) {
        activation::stop(grace).await;
    }
    tree.end(grace).await;
    end
}

/// The signals by which someone wants this process to end.
struct Wishes {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Wishes {
    fn hear() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
        }
    }
}

/// Keeps all output; waits for ever once there is no more.
async fn keep(output: &mut pipe::Receiver, log: &mut Log) -> Infallible {
    let mut piece = [0; PIECE_BYTES];
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        log.write(piece.get(..length).unwrap_or_default());
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
