//! A program that does a part of the run, and what ends it when it does not end by itself.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};

use super::activation::{self, Activation};
use super::log::Log;
use super::process_tree::ProcessTree;
use crate::listener::verdict::End;
use crate::lookup::in_plain_words;
use crate::protocol::Phase;

/// How much output is taken at once, in bytes.
const PIECE_BYTES: usize = 8 * 1024;

/// What a pipe holds, in bytes, unless someone made it larger.
const PIPE_BYTES: u64 = 64 * 1024;

/// How often it is looked whether the program has come to the activation, of which it need not say a word.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) struct ProcessRunner {
    pub(super) tree: ProcessTree,
    pub(super) bounds: StopSignal,
    /// How long what must end may take to do so by itself.
    pub(super) grace: Duration,
    pub(super) log: Log,
    /// The activation that the program was seen to wait for.
    pub(super) activation: Option<Activation>,
}

impl ProcessRunner {
    /// Runs a program to its end or to the end of its time, and keeps what it writes.
    pub(super) async fn run(&mut self, command: &mut Command) -> End {
        let name = command.get_program().to_string_lossy().into_owned();
        let followed = match start(command) {
            Ok((program, output)) => self.follow(program, output).await,
            Err(error) => Err(error),
        };
        followed.unwrap_or_else(|error| End::NotStarted(format!("{name} cannot be started: {error}")))
    }

    /// Waits for something that is no program of the run, but no longer than the run may take.
    pub(super) async fn within_bounds<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::select! {
            done = work => Ok(done),
            end = self.bounds.reached() => {
                self.tree.end(self.grace).await;
                Err(end)
            }
        }
    }

    /// Keeps the output until the program has ended.
    async fn follow(&mut self, program: Pid, output: PipeReader) -> io::Result<End> {
        let Self { tree, bounds, grace, log, activation } = self;
        let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        let (end, stopped) = tokio::select! {
            end = watch(program, tree, bounds, *grace) => end,
            never = keep(&mut output, log, activation) => match never {},
        };
        // It may have begun since the last look.
        if stopped.is_some() {
            log.reach(Phase::Activate);
            *activation = stopped;
        }
        // What the program wrote last is in the pipe, which is read itself: the runtime may not have noticed yet that
        // there is something in it. Who else still writes to it is not waited for.
        let mut rest = File::from(output.into_nonblocking_fd()?).take(PIPE_BYTES);
        let mut piece = [0; PIECE_BYTES];
        while let Ok(length @ 1..) = rest.read(&mut piece) {
            log.write(piece.get(..length).unwrap_or_default());
        }
        Ok(end)
    }
}

/// Starts the program with both its outputs on one pipe, so that their order is kept.
fn start(command: &mut Command) -> io::Result<(Pid, PipeReader)> {
    let (output, input) = io::pipe()?;
    // Only this process reports to the one that started it.
    command.env_remove("NOTIFY_SOCKET");
    in_plain_words(command);
    let child = command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).spawn()?;
    // The command holds the end of the pipe that the program writes to, and is not needed any more.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((Pid::from_child(&child), output))
}

/// Waits for the program, but not longer than it may take. Returns the activation that had to be stopped, too.
async fn watch(
    program: Pid,
    tree: &mut ProcessTree,
    bounds: &mut StopSignal,
    grace: Duration,
) -> (End, Option<Activation>) {
    let end = tokio::select! {
        end = tree.ended(program) => return (end, None),
        end = bounds.reached() => end,
    };
    // Where there are units, the activation is in one of its own and no descendant. It is this run's when the process
    // that waits for it is.
    let activation = activation::awaited();
    if let Some(activation) = &activation {
        activation::stop(activation, grace).await;
    }
    tree.end(grace).await;
    (end, activation)
}

/// Keeps all output, and looks out for the activation.
async fn keep(output: &mut pipe::Receiver, log: &mut Log, activation: &mut Option<Activation>) -> Infallible {
    let mut piece = [0; PIECE_BYTES];
    let mut is_open = true;
    let mut looks = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            read = output.read(&mut piece), if is_open => match read {
                Ok(length @ 1..) => log.write(piece.get(..length).unwrap_or_default()),
                Ok(0) | Err(_) => is_open = false,
            },
            _ = looks.tick() => if let Some(seen) = activation::seen() {
                log.reach(Phase::Activate);
                *activation = Some(seen);
            },
        }
    }
}

/// How long a run may take, and the signals by which someone wants its supervisor to end, and means the run too.
pub(super) struct StopSignal {
    deadline: Instant,
    terminate: Signals,
    interrupt: Signals,
}

impl StopSignal {
    /// A run that begins now. Signals are heard from here on, and kept for when somebody waits for them.
    pub(super) fn of(limit: Duration) -> io::Result<Self> {
        Ok(Self {
            deadline: Instant::now() + limit,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Gives another such time, which begins now.
    pub(super) fn renew(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// Waits until the run must end, and tells why. Cancel safe.
    pub(super) async fn reached(&mut self) -> End {
        tokio::select! {
            () = sleep_until(self.deadline) => End::TimedOut,
            _ = self.terminate.recv() => End::Stopped(Signal::TERM.as_raw()),
            _ = self.interrupt.recv() => End::Stopped(Signal::INT.as_raw()),
        }
    }
}
