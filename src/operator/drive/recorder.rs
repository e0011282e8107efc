//! Records a rollout's events in its journal and shows them on the displays.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::operator::journal::Journal;
use crate::protocol::HostName;
use crate::report::Reporter;
use crate::rollout::{Event, Summary};

/// How long events are batched before they are written and displayed: many hosts answer at once, and a write costs more
/// than its bytes. Events that a crash loses are requested again, or follow from the recorded ones.
const GATHER: Duration = Duration::from_millis(50);

pub(super) struct Recorder<'a> {
    journal: Option<Journal>,
    reporters: Vec<Box<dyn Reporter + 'a>>,
    due: Option<Instant>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(journal: Option<Journal>, reporters: Vec<Box<dyn Reporter + 'a>>) -> Self {
        Self { journal, reporters, due: None }
    }

    /// Shows an event and appends it to the journal, which is [written](Self::write) within `GATHER`.
    pub(super) fn take(&mut self, event: &Event, state: &Summary) -> io::Result<()> {
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        let mut show = |json: &[u8]| on_displays(&mut self.reporters, |reporter| reporter.event(event, json, state));
        if let Some(journal) = &mut self.journal {
            return journal.record_and_show(event, show);
        }
        show(&[]);
        Ok(())
    }

    /// Shows lines of a host's log.
    pub(super) fn log(&mut self, host: &HostName, lines: &[String]) {
        on_displays(&mut self.reporters, |reporter| reporter.log(host, lines));
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// Tells the displays that time has passed.
    pub(super) fn tick(&mut self, now: Timestamp, state: &Summary) -> io::Result<()> {
        on_displays(&mut self.reporters, |reporter| reporter.tick(now, state));
        self.sync()
    }

    /// Returns the time by which to write; `None` if nothing is unwritten.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether that time has come.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Writes all recorded events, so that other processes can read them, and updates the displays.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.catch_up(Journal::write)
    }

    /// Does the same and syncs the journal to disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.catch_up(Journal::sync)
    }

    fn catch_up(&mut self, keep: impl FnOnce(&mut Journal) -> io::Result<()>) -> io::Result<()> {
        self.due = None;
        on_displays(&mut self.reporters, Reporter::flush);
        self.journal.as_mut().map_or(Ok(()), keep)
    }

    pub(super) fn lose_journal(&mut self) {
        self.journal = None;
    }
}

/// Calls `show` for each display and drops those that fail.
fn on_displays<'a>(
    reporters: &mut Vec<Box<dyn Reporter + 'a>>,
    mut show: impl FnMut(&mut (dyn Reporter + 'a)) -> io::Result<()>,
) {
    reporters.retain_mut(|reporter| match show(reporter.as_mut()) {
        Ok(()) => true,
        Err(error) => {
            report_lost_display(&error);
            false
        }
    });
}

/// Logs why a display was dropped. A closed pipe is no error: its reader has seen enough.
fn report_lost_display(error: &io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        tracing::warn!("a display is given up: {error}");
    }
}
