//! What systemd is told of a listener: that it is up, that its loop turns, and what it is at.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::notify::Notifier;

/// The signs of life of the loop that serves. Whoever owns it has to come by and [`beat`](Self::beat): nothing does that
/// by itself, so that a loop which hangs is one that systemd no longer hears of.
#[derive(Debug)]
pub struct Pulse {
    notifier: Notifier,
    beats: Option<Interval>,
    stage: Stage,
    status: String,
}

/// Whether systemd was told that the service is up, which it is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Up,
}

impl Pulse {
    /// The pulse of a service whose watchdog, if it has one, loses patience after so long: it hears of it twice in that
    /// time. Has to be called on the runtime.
    pub fn new(notifier: Notifier, watchdog: Option<Duration>) -> Self {
        let beats = watchdog.map(|patience| patience / 2).filter(|period| !period.is_zero()).map(|period| {
            let mut beats = interval(period);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        });
        Self { notifier, beats, stage: Stage::Starting, status: String::new() }
    }

    /// Waits until it is time to [`beat`](Self::beat); for ever where nobody watches.
    pub(super) async fn due(&mut self) {
        match &mut self.beats {
            Some(beats) => _ = beats.tick().await,
            None => std::future::pending().await,
        }
    }

    /// Shows that the loop turns.
    pub(super) fn beat(&self) {
        self.notifier.watchdog();
    }

    /// Whether systemd takes the service for up.
    pub(super) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// The service is up, as far as that is its own doing.
    pub(super) fn up(&mut self) {
        if self.stage == Stage::Starting {
            self.stage = Stage::Up;
            self.notifier.ready();
        }
    }

    /// What the service is at, in words; told when it is something else than before.
    pub(super) fn status(&mut self, words: String) {
        if words != self.status {
            self.notifier.status(&words);
            self.status = words;
        }
    }

    /// The service ends, as it was asked to.
    pub(super) fn stopping(&self) {
        self.notifier.stopping();
    }
}
