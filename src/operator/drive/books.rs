//! What is recorded and shown of a rollout.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::operator::journal::Journal;
use crate::report::Reporter;
use crate::rollout::{Event, Summary};

/// How long what hosts answer may wait to be written and shown, together with what others answer meanwhile: a crowd of them
/// answers at once, and each write costs more than what it writes. After a crash they are asked for it again.
const GATHER: Duration = Duration::from_millis(50);

/// The record of a rollout and its displays.
pub(super) struct Books<'a> {
    /// What it has come to.
    pub(super) summary: Summary,
    journal: Option<Journal>,
    reporters: Vec<Box<dyn Reporter + 'a>>,
    due: Option<Instant>,
}

impl<'a> Books<'a> {
    pub(super) fn new(summary: Summary, journal: Option<Journal>, reporters: Vec<Box<dyn Reporter + 'a>>) -> Self {
        Self { summary, journal, reporters, due: None }
    }

    /// Takes an event down, to be [written](Self::write) in time.
    pub(super) fn take(&mut self, event: &Event) -> io::Result<()> {
        self.summary.apply(event);
        let summary = &self.summary;
        on_displays(&mut self.reporters, |reporter| reporter.event(event, summary));
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        self.journal.as_mut().map_or(Ok(()), |journal| journal.record(event))
    }

    /// Lets the displays know that time passes.
    pub(super) fn tick(&mut self, now: Timestamp) {
        let summary = &self.summary;
        on_displays(&mut self.reporters, |reporter| reporter.tick(now, summary));
        self.due = Some(Instant::now());
    }

    /// By when to write; never, when nothing waits for that.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether something has waited for long enough.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Puts all that was taken down on disk, and lets it be seen.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.due = None;
        self.journal.as_mut().map_or(Ok(()), Journal::sync)?;
        on_displays(&mut self.reporters, Reporter::flush);
        Ok(())
    }

    /// Goes on without a record.
    pub(super) fn lose_journal(&mut self) {
        self.journal = None;
    }
}

/// Has each display show something, and drops those that fail to.
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

/// A closed pipe is no error: its reader has seen what it wanted to.
fn report_lost_display(error: &io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        tracing::warn!("a display is given up: {error}");
    }
}
