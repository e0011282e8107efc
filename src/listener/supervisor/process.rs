//! Runs a program of a run, and ends it with all its descendants, orphans included, when it has to stop.

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
use crate::listener::nixos::Host;
use crate::listener::run::OutputLog;
use crate::listener::run::verdict::ProcessEnd;
use crate::lookup::in_english;
use crate::protocol::Phase;

const PIECE_BYTES: usize = 8 * 1024;

/// The usual capacity of a pipe, in bytes.
const PIPE_BYTES: u64 = 64 * 1024;

/// The interval at which an activation is looked for, which need not show in the output.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The interval and number of attempts to kill: a process blocked in the kernel may never end, but the run must.
const KILL_EVERY: Duration = Duration::from_millis(20);
const KILL_ROUNDS: usize = 250;

pub(super) struct ProcessRunner {
    pub(super) tree: ProcessTree,
    pub(super) stop: StopCondition,
    /// The time that processes get to end after SIGTERM.
    pub(super) grace: Duration,
    pub(super) log: OutputLog,
    /// The activation that the program was seen to wait for.
    pub(super) activation: Option<Activation>,
}

impl ProcessRunner {
    /// Runs a program until it ends or has to stop, and keeps its output.
    pub(super) async fn run(&mut self, command: &mut Command) -> ProcessEnd {
        let name = command.get_program().to_string_lossy().into_owned();
        let followed = async {
            let (program, output) = start(command)?;
            self.follow(program, output).await
        };
        followed.await.unwrap_or_else(|error| ProcessEnd::NotStarted(format!("{name} cannot be started: {error}")))
    }

    /// Waits for something other than a program, within the limits of the run.
    pub(super) async fn until_stopped<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ProcessEnd> {
        tokio::select! {
            done = work => Ok(done),
            end = self.stop.reached() => {
                self.tree.end(self.grace).await;
                Err(end)
            }
        }
    }

    /// Keeps the output until the program has ended.
    async fn follow(&mut self, program: Pid, output: PipeReader) -> io::Result<ProcessEnd> {
        let Self { tree, stop, grace, log, activation } = self;
        let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        let (end, stopped) = tokio::select! {
            end = watch(program, tree, stop, *grace) => end,
            never = keep(&mut output, log, activation) => match never {},
        };
        // The activation may have begun since the last look.
        if stopped.is_some() {
            log.reach(Phase::Activate);
            *activation = stopped;
        }
        // The pipe holds the last output, and is read directly: the runtime may not have noticed it yet.
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
    // Only this process notifies the starter.
    command.env_remove("NOTIFY_SOCKET");
    in_english(command);
    let child = command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).spawn()?;
    // Closes the command's copies of the pipe's writing end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((Pid::from_child(&child), output))
}

/// Waits for the program, or stops it. Returns the activation that had to be stopped, too.
async fn watch(
    program: Pid,
    tree: &mut ProcessTree,
    stop: &mut StopCondition,
    grace: Duration,
) -> (ProcessEnd, Option<Activation>) {
    let end = tokio::select! {
        end = tree.ended(program) => return (end, None),
        end = stop.reached() => end,
    };
    // With systemd, the activation runs in a unit. It belongs to this run if a descendant of this process waits.
    let activation = awaited_activation();
    if let Some(activation) = &activation {
        activation::stop(activation, grace).await;
    }
    tree.end(grace).await;
    (end, activation)
}

/// Keeps all output, and looks for an activation.
async fn keep(output: &mut pipe::Receiver, log: &mut OutputLog, activation: &mut Option<Activation>) -> Infallible {
    let mut piece = [0; PIECE_BYTES];
    let mut is_open = true;
    let (mut looks, host) = (interval(LOOK_EVERY), Host::new("/".into()));
    loop {
        tokio::select! {
            read = output.read(&mut piece), if is_open => match read {
                Ok(length @ 1..) => log.write(piece.get(..length).unwrap_or_default()),
                Ok(0) | Err(_) => is_open = false,
            },
            // Usually there is no such unit, and descendants need not be looked at.
            _ = looks.tick() => if host.has_activation_unit() && let Some(seen) = awaited_activation() {
                log.reach(Phase::Activate);
                *activation = Some(seen);
            },
        }
    }
}

/// The time limit of a run, and the signals that stop it together with its supervisor.
pub(super) struct StopCondition {
    deadline: Instant,
    terminate: Signals,
    interrupt: Signals,
}

impl StopCondition {
    /// Begins the time limit now. Signals are recorded from here on.
    pub(super) fn of(limit: Duration) -> io::Result<Self> {
        Ok(Self {
            deadline: Instant::now() + limit,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) fn renew(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// Waits until the run must stop, and returns the reason. Cancel safe.
    pub(super) async fn reached(&mut self) -> ProcessEnd {
        tokio::select! {
            () = sleep_until(self.deadline) => ProcessEnd::TimedOut,
            _ = self.terminate.recv() => ProcessEnd::Stopped(Signal::TERM.as_raw()),
            _ = self.interrupt.recv() => ProcessEnd::Stopped(Signal::INT.as_raw()),
        }
    }
}

/// All processes of a run. This process must be a subreaper, and all its children belong to the run.
pub(super) struct ProcessTree {
    /// `SIGCHLD`.
    pub(super) deaths: Signals,
}

impl ProcessTree {
    /// Waits for a program, and not for what it leaves behind. Cancel safe.
    pub(super) async fn ended(&mut self, program: Pid) -> ProcessEnd {
        loop {
            // Checked before the first signal, which may have come before anyone waited.
            match rustix::process::waitpid(Some(program), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => return end_of(status),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return ProcessEnd::NotStarted(format!("cannot wait for the program: {error}")),
            }
            self.deaths.recv().await;
        }
    }

    /// Sends SIGTERM to all, waits for the grace period, and then kills the rest.
    pub(super) async fn end(&mut self, grace: Duration) {
        signal_all(Signal::TERM);
        if timeout(grace, self.all_ended()).await.is_ok() {
            return;
        }
        for _ in 0..KILL_ROUNDS {
            // In each round anew: a process that was about to fork has a child now.
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

/// Reaps ended children, and returns whether any process of the run is left: without children there are none.
fn is_any_left() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn end_of(status: WaitStatus) -> ProcessEnd {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => ProcessEnd::Killed(signal),
        (code, None) => ProcessEnd::Exited(code.unwrap_or_default()),
    }
}

/// Returns the activation that a descendant of this process waits for: other programs use units of that name, too.
fn awaited_activation() -> Option<Activation> {
    let pids = descendants(rustix::process::getpid().as_raw_pid(), &parents());
    pids.into_iter().find_map(|pid| activation::awaited_by(&fs::read(format!("/proc/{pid}/cmdline")).ok()?))
}

fn signal_all(signal: Signal) {
    for pid in descendants(rustix::process::getpid().as_raw_pid(), &parents()) {
        if let Some(pid) = Pid::from_raw(pid) {
            // One that has ended meanwhile is no error.
            rustix::process::kill_process(pid, signal).ok();
        }
    }
}

/// Returns all processes with their parents, as far as they can be read.
fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// Returns the parent in a line of `/proc/<pid>/stat`. The program's name in it may contain anything, even parentheses.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Returns all processes below this one, parents before their children.
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
