//! Displays a rollout in logs and pipes: one line for each event, and one a minute for each host in flight.

use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;

use super::describe::is_active;
use super::format::DisplayDuration;
use super::layout::{Layout, LayoutState};
use super::{Reporter, Style};
use crate::protocol::HostName;
use crate::rollout::summary::HostState;
use crate::rollout::{Event, EventKind, Summary};

/// How often a host in flight is shown while no event arrives for it.
const REMINDER: Duration = Duration::from_mins(1);

/// The buffer is written once it holds this many bytes.
const FULL: usize = 64 * 1024;

/// Writes lines that are never redrawn.
#[derive(Debug)]
pub struct Lines<W> {
    out: LineWriter<W>,
    style: Style,
    layout: LayoutState,
    /// When each host was last shown, and its state then, by its index in the summary.
    shown: Vec<Option<(Timestamp, HostState)>>,
}

/// Buffers the lines of a display. Its reader may leave, as `head` does: a closed pipe is no error, as the reader has seen
/// what it wanted, and nothing more is written.
#[derive(Debug)]
pub(super) struct LineWriter<W> {
    writer: Option<W>,
    /// Bytes to write with the next [flush](Self::flush).
    buffer: Vec<u8>,
}

impl<W: Write> Lines<W> {
    pub fn new(out: W, style: Style) -> Self {
        Self { out: LineWriter::new(out), style, layout: LayoutState::default(), shown: Vec::new() }
    }

    /// Whether an event is worth a line. A host that repeats its current state is not.
    fn is_news(&mut self, event: &Event, summary: &Summary) -> bool {
        let (EventKind::Dispatched { host, .. } | EventKind::Started { host, .. } | EventKind::Retrying { host, .. }) =
            &event.kind
        else {
            return true;
        };
        self.shown.resize(summary.hosts.len(), None);
        let Some(place) = summary.index_of(host) else { return true };
        let (Some(host), Some(shown)) = (summary.hosts.get(place), self.shown.get_mut(place)) else { return true };
        let is_news = shown.is_none_or(|(_, state)| state != host.state);
        if is_news {
            *shown = Some((event.at, host.state));
        }
        is_news
    }
}

impl<W: Write> Reporter for Lines<W> {
    fn event(&mut self, event: &Event, _json: &[u8], summary: &Summary) -> io::Result<()> {
        self.layout.update(event, summary);
        let layout = Layout::new(summary, self.layout).filter(|_| self.is_news(event, summary));
        layout.and_then(|layout| layout.event(event)).map_or(Ok(()), |line| self.out.text(&line.in_style(self.style)))
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        lines.iter().try_for_each(|line| self.out.text(&self.layout.log_line(host, line)))
    }

    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        let Some(layout) = Layout::new(summary, self.layout) else { return Ok(()) };
        for (host, shown) in summary.hosts.iter().zip(&mut self.shown) {
            if let Some((at, _)) = shown
                && is_active(host)
                && DisplayDuration::between(*at, now) >= DisplayDuration(REMINDER)
            {
                *at = now;
                self.out.text(&layout.host_now(host, now).in_style(self.style))?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> LineWriter<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer: Some(writer), buffer: Vec::new() }
    }

    /// Buffers a line.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        write(&mut self.buffer)?;
        self.buffer.push(b'\n');
        if self.buffer.len() < FULL { Ok(()) } else { self.flush() }
    }

    /// Buffers a text, which may be several lines.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.line(|buffer| buffer.write_all(text.as_bytes()))
    }

    /// Writes bytes at once, behind the buffered ones.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.flush()
    }

    /// Writes the buffered bytes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let Some(writer) = self.writer.as_mut().filter(|_| !buffer.is_empty()) else { return Ok(()) };
        match writer.write_all(&buffer).and_then(|()| writer.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.writer = None;
                Ok(())
            }
            written => written,
        }
    }
}

#[cfg(test)]
mod tests;
