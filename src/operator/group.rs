//! A program with all that it starts.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// The processes of a program that leads a group of its own. They end with this value, unless the program has ended by
/// itself.
pub(super) struct Group {
    leader: Option<Pid>,
    signal: Signal,
}

impl Group {
    /// The group that this program leads, and the signal that ends it.
    pub(super) fn led_by(child: &Child, signal: Signal) -> Self {
        Self { leader: child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw), signal }
    }

    /// The program ended by itself. Its process id may soon be that of another program.
    pub(super) fn ended(mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            kill_process_group(leader, self.signal).ok();
        }
    }
}
