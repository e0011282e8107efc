//! Notifies systemd: that the listener is up, that its loop turns, and its status.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::notify::Notifier;

/// The watchdog of the loop that serves NATS. The loop itself calls [`beat`](Self::beat), so that systemd sees it hang.
#[derive(Debug)]
pub struct Watchdog {
    notifier: Notifier,
    beats: Option<Interval>,
    /// Whether systemd was notified that the service is up, which happens once.
    pub(super) is_up: bool,
    status: String,
}

impl Watchdog {
    /// Creates the watchdog for this timeout of systemd, in which it beats twice. Must be called on the runtime.
    pub fn new(notifier: Notifier, watchdog: Option<Duration>) -> Self {
        let beats = watchdog.map(|patience| patience / 2).filter(|period| !period.is_zero()).map(|period| {
            let mut beats = interval(period);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        });
        Self { notifier, beats, is_up: false, status: String::new() }
    }

    /// Waits for the next [`beat`](Self::beat); forever without a watchdog.
    pub(super) async fn due(&mut self) {
        match &mut self.beats {
            Some(beats) => _ = beats.tick().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn beat(&self) {
        self.notifier.watchdog();
    }

    pub(super) fn up(&mut self) {
        if !self.is_up {
            self.is_up = true;
            self.notifier.ready();
        }
    }

    /// Sets the status; systemd is notified of changes only.
    pub(super) fn status(&mut self, words: String) {
        if words != self.status {
            self.notifier.status(&words);
            self.status = words;
        }
    }

    pub(super) fn stopping(&self) {
        self.notifier.stopping();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Returns a watchdog of ten seconds, and the socket that it notifies.
    fn watchdog() -> (Watchdog, UnixDatagram, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str())).unwrap();
        (Watchdog::new(notifier, Some(Duration::from_secs(10))), systemd, folder)
    }

    fn heard(systemd: &UnixDatagram) -> Vec<String> {
        let mut message = [0; 64];
        let next = || systemd.recv(&mut message).ok().map(|length| String::from_utf8_lossy(&message[..length]).into());
        std::iter::from_fn(next).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_not_heard_of_and_one_that_turns_twice_as_often_as_it_has_to() {
        let (mut watchdog, systemd, _folder) = watchdog();
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(heard(&systemd).is_empty());

        let began = tokio::time::Instant::now();
        for _ in 0..5 {
            watchdog.due().await;
            watchdog.beat();
        }
        assert_eq!(heard(&systemd), ["WATCHDOG=1"; 5]);
        // The first one was overdue.
        assert_eq!(began.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_is_not_told_again() {
        let (mut watchdog, systemd, _folder) = watchdog();
        for _ in 0..2 {
            watchdog.status("waiting".to_owned());
            watchdog.up();
        }
        assert_eq!(heard(&systemd), ["STATUS=waiting", "READY=1"]);
        assert!(watchdog.is_up);
    }
}
