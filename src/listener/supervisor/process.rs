//! A program that does a part of the run, with its descendants and those that their parents left behind, and what ends them
//! when they do not end by themselves.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::activation::{self, Activation};
use super::log::Log;
use crate::listener::verdict::End;
use crate::lookup::in_plain_words;
use crate::protocol::Phase;

const PIECE_BYTES: usize = 8 * 1024;

/// What a pipe holds, in bytes, unless someone made it larger.
const PIPE_BYTES: u64 = 64 * 1024;

/// How often it is looked whether the program has come to the activation, of which it need not say a word.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often those that cannot be ended are tried again, and how often in all: a process in the kernel's hands may
/// never end, and the result must not wait for it.
const KILL_EVERY: Duration = Duration::from_millis(20);
const KILL_ROUNDS: usize = 250;

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

/// The processes of a run. This process must be the subreaper, and each of its children is part of the run.
pub(super) struct ProcessTree {
    deaths: Signals,
}

impl ProcessTree {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { deaths: signal(SignalKind::child())? })
    }

    /// Waits for a program; what it left behind goes on. Cancel safe.
    pub(super) async fn ended(&mut self, program: Pid) -> End {
        loop {
            // Before the first signal too: it may have come before anyone waited for one.
            match rustix::process::waitpid(Some(program), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => return end_of(status),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return End::NotStarted(format!("the program was lost: {error}")),
            }
            self.deaths.recv().await;
        }
    }

    /// Ends all: asks, waits for at most this long, and then forces what is left.
    pub(super) async fn end(&mut self, grace: Duration) {
        signal_all(Signal::TERM);
        if timeout(grace, self.all_ended()).await.is_ok() {
            return;
        }
        for _ in 0..KILL_ROUNDS {
            // Anew in each round: one that was just about to fork has a child now.
            signal_all(Signal::KILL);
            if timeout(KILL_EVERY, self.all_ended()).await.is_ok() {
                return;
            }
        }
    }

    async fn all_ended(&mut self) {
        while is_any_left() {
            self.deaths.recv().await;
        }
    }
}

/// Takes note of all children that have ended, and tells whether any process of the run is left. With no child left there is
/// no descendant left either: each hangs from one.
fn is_any_left() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn end_of(status: WaitStatus) -> End {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => End::Killed(signal),
        (code, None) => End::Exited(code.unwrap_or_default()),
    }
}

/// What is found first in how a descendant of this process was called: its words with a NUL after each.
pub(super) fn in_descendants<T>(found: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let pids = descendants(rustix::process::getpid().as_raw_pid(), &parents());
    pids.into_iter().find_map(|pid| found(&fs::read(format!("/proc/{pid}/cmdline")).ok()?))
}

fn signal_all(signal: Signal) {
    for pid in descendants(rustix::process::getpid().as_raw_pid(), &parents()) {
        if let Some(pid) = Pid::from_raw(pid) {
            // One that has ended meanwhile needs none.
            rustix::process::kill_process(pid, signal).ok();
        }
    }
}

/// Each process with its parent, as far as they can be read.
fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The parent in a line of `/proc/<pid>/stat`. The name of the program in it may hold anything, parentheses too.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// All processes below this one, parents before their children.
fn descendants(root: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![root];
    let mut looked_at = 0;
    while let Some(&parent) = found.get(looked_at) {
        looked_at += 1;
        found.extend(parents.iter().filter(|&&(pid, of)| of == parent && pid != root).map(|&(pid, _)| pid));
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_any_depth() {
        let parents = [(1, 0), (9, 1), (5, 3), (3, 2), (2, 1), (4, 2), (8, 9)];
        assert_eq!(descendants(2, &parents), [3, 4, 5]);
        assert!(descendants(8, &parents).is_empty());
    }

    #[test]
    fn the_parent_is_read_behind_any_name() {
        assert_eq!(parent_in("42 (a) R 7 (b) S 17 42 42 0"), Some(17));
        assert_eq!(parent_in("42 (nix"), None);
        assert!(
            parents().contains(&(std::process::id().cast_signed(), std::os::unix::process::parent_id().cast_signed()))
        );
    }
}
