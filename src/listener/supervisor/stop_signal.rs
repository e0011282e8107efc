//! What ends a run that does not end by itself.

use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::listener::verdict::End;

/// How long a run may take, and the signals by which someone wants its supervisor to end, and means the run too.
pub(super) struct StopSignal {
    deadline: Instant,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
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
