//! Records a rollout's events in its journal and shows them on the displays.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::operator::journal::Journal;
use crate::protocol::HostName;
use crate::rollout::{Event, Summary};

/// How long events are batched before they are written and displayed: many hosts answer at once, and a write costs more
/// than its bytes. Events that a crash loses are requested again, or follow from the recorded ones.
const BATCH_WITHIN: Duration = Duration::from_millis(50);

/// Shows a rollout while it goes on.
pub trait Reporter {
    /// Shows an event that `summary` already includes. The journal has it as the JSON object `json`, which is empty for an
    /// event that is not journaled.
    fn event(&mut self, event: &Event, json: &[u8], summary: &Summary) -> io::Result<()>;

    /// Updates elapsed times while no event arrives. The operator calls this about once a second.
    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()>;

    /// Shows output of the run on a host: whole lines, already safe for a terminal.
    fn log(&mut self, _host: &HostName, _lines: &[String]) -> io::Result<()> {
        Ok(())
    }

    /// Writes buffered output. Events arrive in batches, and the lines of one batch are written together.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Recorder<'a> {
    /// `None` after an error: nothing more is recorded.
    pub(super) journal: Option<Journal>,
    reporters: Vec<Box<dyn Reporter + 'a>>,
    /// The time by which to write; `None` if nothing is unwritten.
    pub(super) due: Option<Instant>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(journal: Option<Journal>, reporters: Vec<Box<dyn Reporter + 'a>>) -> Self {
        Self { journal, reporters, due: None }
    }

    /// Shows an event and appends it to the journal, which is [written](Self::write) within `BATCH_WITHIN`.
    pub(super) fn record(&mut self, event: &Event, state: &Summary) -> io::Result<()> {
        self.due.get_or_insert_with(|| Instant::now() + BATCH_WITHIN);
        let recorded = self.journal.as_mut().map_or(Ok(&[][..]), |journal| journal.record_as_json(event));
        // An event that cannot be written is shown, because it has happened.
        let (json, result) = recorded.map_or_else(|error| (&[][..], Err(error)), |json| (json, Ok(())));
        on_displays(&mut self.reporters, |reporter| reporter.event(event, json, state));
        result
    }

    pub(super) fn log(&mut self, host: &HostName, lines: &[String]) {
        on_displays(&mut self.reporters, |reporter| reporter.log(host, lines));
        self.due.get_or_insert_with(|| Instant::now() + BATCH_WITHIN);
    }

    pub(super) fn tick(&mut self, now: Timestamp, state: &Summary) -> io::Result<()> {
        on_displays(&mut self.reporters, |reporter| reporter.tick(now, state));
        self.sync()
    }

    /// Whether that time has come.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Writes all recorded events, so that other processes can read them, and updates the displays.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.flush_with(Journal::write)
    }

    /// Does the same and syncs the journal to disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.flush_with(Journal::sync)
    }

    fn flush_with(&mut self, keep: impl FnOnce(&mut Journal) -> io::Result<()>) -> io::Result<()> {
        self.due = None;
        on_displays(&mut self.reporters, Reporter::flush);
        self.journal.as_mut().map_or(Ok(()), keep)
    }
}

/// Calls `show` for each display and drops those that fail.
fn on_displays<'a>(
    reporters: &mut Vec<Box<dyn Reporter + 'a>>,
    mut show: impl FnMut(&mut (dyn Reporter + 'a)) -> io::Result<()>,
) {
    reporters.retain_mut(|reporter| {
        let shown = show(reporter.as_mut());
        // A closed pipe is no error: its reader has seen enough.
        if let Err(error) = &shown
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::warn!("a display stopped: {error}");
        }
        shown.is_ok()
    });
}
