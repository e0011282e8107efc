//! For logs and pipes: one line for each thing that happens, and once a minute one for each host in flight.

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

/// How often hosts in flight are shown while nothing happens to them.
const REMINDER: Duration = Duration::from_mins(1);

/// Writes lines that are never taken back.
#[derive(Debug)]
pub struct Lines<W> {
    out: LineWriter<W>,
    style: Style,
    logs: LogView,
    memory: LayoutState,
    /// By the places of the hosts in the summary.
    told: Vec<Option<Told>>,
}

/// What was last told of a host.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: Timestamp,
    state: HostState,
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

    /// Writes this of the logs as well.
    #[must_use]
    pub fn with_logs(self, logs: LogView) -> Self {
        Self { logs, ..self }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.out.line(|out| out.write_all(line.in_style(self.style).as_bytes()))
    }

    /// Whether an event is not just a host that repeats what it is at.
    fn is_news(&mut self, event: &Event, summary: &Summary) -> bool {
        let (EventKind::Dispatched { host, .. } | EventKind::Started { host, .. } | EventKind::Retrying { host, .. }) =
            &event.kind
        else {
            return true;
        };
        self.told.resize(summary.hosts.len(), None);
        let Some(place) = summary.place(host) else { return true };
        let (Some(host), Some(told)) = (summary.hosts.get(place), self.told.get_mut(place)) else { return true };
        if told.is_some_and(|told| told.state == host.state) {
            return false;
        }
        *told = Some(Told { at: event.at, state: host.state });
        true
    }

    /// Whether nothing was told for a while of the host at this place; from now on it was.
    fn is_due(&mut self, place: usize, now: Timestamp) -> bool {
        match self.told.get_mut(place) {
            Some(Some(told)) if DisplayDuration::between(told.at, now) >= DisplayDuration(REMINDER) => {
                told.at = now;
                true
            }
            Some(Some(_) | None) | None => false,
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
