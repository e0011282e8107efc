//! All processes of a run: the program, its descendants, and those that their parents left behind.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::timeout;

use crate::listener::verdict::End;

/// How often those that cannot be ended are tried again, and how often in all: a process in the kernel's hands may
/// never end, and the result must not wait for it.
const KILL_EVERY: Duration = Duration::from_millis(20);
const KILL_ROUNDS: usize = 250;

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
