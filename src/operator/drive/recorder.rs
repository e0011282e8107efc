//! What is recorded and shown of a rollout.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::operator::journal::Journal;
use crate::protocol::HostName;
use crate::report::Reporter;
use crate::rollout::{Event, Summary};

/// How long what happens may wait to be written and shown, together with what happens meanwhile: a crowd of hosts answers at
/// once, and each write costs more than what it writes. What a crash keeps from being written is asked for again, or follows
/// from the rest.
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

    /// Takes an event down, to be [written](Self::write) in time.
    pub(super) fn take(&mut self, event: &Event, state: &Summary) -> io::Result<()> {
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        let mut show = |json: &[u8]| on_displays(&mut self.reporters, |reporter| reporter.recorded(event, json, state));
        if let Some(journal) = &mut self.journal {
            return journal.record_and_show(event, show);
        }
        show(&[]);
        Ok(())
    }

    /// Has the displays show what a run has written.
    pub(super) fn log(&mut self, host: &HostName, lines: &[String]) {
        on_displays(&mut self.reporters, |reporter| reporter.log(host, lines));
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// Lets the displays know that time passes.
    pub(super) fn tick(&mut self, now: Timestamp, state: &Summary) -> io::Result<()> {
        on_displays(&mut self.reporters, |reporter| reporter.tick(now, state));
        self.sync()
    }

    /// By when to write; never, when nothing waits for that.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether something has waited for long enough.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Lets others read what was taken down, and people see it.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.catch_up(Journal::write)
    }

    /// The same, and what was taken down is on disk as well.
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
