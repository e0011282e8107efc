//! Displays a rollout in logs and pipes: one line for each event, and one a minute for each host in flight.

use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;

use super::format::DisplayDuration;
use super::layout::{Layout, LayoutState, Line};
use super::line_writer::LineWriter;
use super::{LogView, Reporter, Style, wording};
use crate::protocol::HostName;
use crate::rollout::summary::HostState;
use crate::rollout::{Event, EventKind, Summary};

/// How often a host in flight is shown while no event arrives for it.
const REMINDER: Duration = Duration::from_mins(1);

/// Writes lines that are never redrawn.
#[derive(Debug)]
pub struct Lines<W> {
    out: LineWriter<W>,
    style: Style,
    logs: LogView,
    memory: LayoutState,
    /// When each host was last shown, and its state then, by its index in the summary.
    told: Vec<Option<(Timestamp, HostState)>>,
}

impl<W: Write> Lines<W> {
    pub fn new(out: W, style: Style) -> Self {
        Self {
            out: LineWriter::new(out),
            style,
            logs: LogView::LastLine,
            memory: LayoutState::default(),
            told: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_logs(self, logs: LogView) -> Self {
        Self { logs, ..self }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.out.line(|out| out.write_all(line.in_style(self.style).as_bytes()))
    }

    /// Whether an event is worth a line. A host that repeats its current state is not.
    fn is_news(&mut self, event: &Event, summary: &Summary) -> bool {
        let (EventKind::Dispatched { host, .. } | EventKind::Started { host, .. } | EventKind::Retrying { host, .. }) =
            &event.kind
        else {
            return true;
        };
        self.told.resize(summary.hosts.len(), None);
        let Some(place) = summary.place(host) else { return true };
        let (Some(host), Some(told)) = (summary.hosts.get(place), self.told.get_mut(place)) else { return true };
        let is_news = told.is_none_or(|(_, state)| state != host.state);
        if is_news {
            *told = Some((event.at, host.state));
        }
        is_news
    }

    /// Whether the host at this place was not shown for a [`REMINDER`]. A `true` counts as shown now.
    fn is_due(&mut self, place: usize, now: Timestamp) -> bool {
        match self.told.get_mut(place) {
            Some(Some((at, _))) if DisplayDuration::between(*at, now) >= DisplayDuration(REMINDER) => {
                *at = now;
                true
            }
            _ => false,
        }
    }
}

impl<W: Write> Reporter for Lines<W> {
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()> {
        self.memory.learn(event, summary);
        let Some(page) = Layout::new(summary, self.memory).filter(|_| self.is_news(event, summary)) else {
            return Ok(());
        };
        page.event(event).map_or(Ok(()), |line| self.write(&line))
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        let lines = lines.iter().filter(|_| self.logs == LogView::Whole);
        lines
            .map(|line| self.memory.log_line(host, line))
            .try_for_each(|line| self.out.line(|out| out.write_all(line.as_bytes())))
    }

    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        let Some(page) = Layout::new(summary, self.memory) else { return Ok(()) };
        for (place, host) in summary.hosts.iter().enumerate() {
            if wording::moves(host) && self.is_due(place, now) {
                self.write(&page.host_now(host, now))?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
