//! Displays a rollout on a terminal: progress is redrawn in place at the bottom, and lasting lines scroll by above it.
//!
//! [`region`] decides what the redrawn lines say. This module only draws them, and no faster than people can read.

mod rate_limiter;
mod region;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use self::rate_limiter::RateLimiter;
use super::format::DisplayDuration;
use super::layout::{Layout, LayoutState, Line};
use super::line_writer::LineWriter;
use super::{LogView, Reporter, Style, wording};
use crate::protocol::HostName;
use crate::rollout::summary::WaveState;
use crate::rollout::{Event, EventKind, HostOutcome, Summary};

/// Nothing is drawn in place before a rollout is this old, so that a short rollout does not flash.
const QUIET: Duration = Duration::from_millis(250);

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Draws on a terminal that nothing else writes to, except while the operator is asked a question there.
#[derive(Debug)]
pub struct Bars<W: Write> {
    out: LineWriter<W>,
    style: Style,
    size: fn() -> Size,
    bar: ProgressBar,
    pace: RateLimiter,
    memory: LayoutState,
    /// When the first event of this process arrived. A resumed rollout began earlier.
    since: Option<Timestamp>,
    /// Lines that will scroll by, not yet written.
    facts: Vec<String>,
    logs: LogView,
    /// The last line that each host's run wrote.
    last_lines: BTreeMap<HostName, String>,
}

impl Bars<io::Stderr> {
    /// Draws on standard error. `size` is called for each draw, since the terminal may be resized at any time.
    pub fn stderr(style: Style, size: fn() -> Size) -> Self {
        Self::new(io::stderr(), ProgressDrawTarget::stderr_with_hz(rate_limiter::PER_SECOND), style, size)
    }
}

impl<W: Write> Bars<W> {
    fn new(out: W, target: ProgressDrawTarget, style: Style, size: fn() -> Size) -> Self {
        let template = ProgressStyle::with_template("{msg}").expect("a placeholder alone is a template");
        let bar = ProgressBar::with_draw_target(None, target).with_style(template);
        bar.finish_and_clear();
        Self {
            out: LineWriter::new(out),
            style,
            size,
            bar,
            pace: RateLimiter::default(),
            memory: LayoutState::default(),
            since: None,
            facts: Vec::new(),
            logs: LogView::LastLine,
            last_lines: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn with_logs(mut self, logs: LogView) -> Self {
        self.logs = logs;
        self
    }

    fn show(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        // Drawing would overwrite the open question. Pending lines are written once it is answered.
        if is_asking(summary) {
            return Ok(());
        }
        let is_early = self.since.is_none_or(|since| DisplayDuration::between(since, now) < DisplayDuration(QUIET));
        let page = Layout::new(summary, self.memory).filter(|_| !is_early);
        let region = page
            .map(|page| region::region(&page, &self.last_lines, now, (self.size)(), self.style))
            .unwrap_or_default();
        if region.is_empty() || !self.facts.is_empty() {
            self.clear()?;
        }
        if region.is_empty() { Ok(()) } else { self.draw(&region) }
    }

    /// Erases the redrawn lines and writes the pending ones.
    fn clear(&mut self) -> io::Result<()> {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
        let facts: String = self.facts.drain(..).map(|fact| fact + "\n").collect();
        self.out.write(facts.as_bytes())
    }

    fn draw(&mut self, region: &[String]) -> io::Result<()> {
        self.bar.set_message(region.join("\n"));
        if self.bar.is_finished() {
            self.bar.reset();
        }
        // A terminal echoes `^C` at the cursor. At the end of a full line it would begin a line that the next draw does
        // not erase.
        self.out.write(b"\r")
    }
}

impl<W: Write> Reporter for Bars<W> {
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()> {
        self.since.get_or_insert(event.at);
        self.memory.learn(event, summary);
        if let Some(fact) = Layout::new(summary, self.memory).and_then(|page| fact(&page, event)) {
            self.facts.push(fact.wrapped((self.size)().columns, self.style));
        }
        match event.kind {
            EventKind::AwaitingConfirmation { .. } => self.clear(),
            EventKind::Ended { .. } => self.show(event.at, summary),
            _ if self.pace.allows(event.at) => self.show(event.at, summary),
            _ => Ok(()),
        }
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        match self.logs {
            LogView::Whole => self.facts.extend(lines.iter().map(|line| self.memory.log_line(host, line))),
            LogView::LastLine => {
                let last = lines.iter().rfind(|line| !line.trim().is_empty());
                self.last_lines.extend(last.map(|line| (host.clone(), line.trim().to_owned())));
            }
        }
        Ok(())
    }

    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        self.show(now, summary)
    }
}

/// Leaves the terminal clean even if the rollout is abandoned midway.
impl<W: Write> Drop for Bars<W> {
    fn drop(&mut self) {
        self.clear().ok();
    }
}

fn is_asking(summary: &Summary) -> bool {
    summary.waves.iter().any(|wave| wave.state == WaveState::AwaitingConfirmation)
}

/// Returns the line that an event leaves behind. A line about a host names its wave, which may have scrolled away.
fn fact(page: &Layout<'_>, event: &Event) -> Option<Line> {
    match &event.kind {
        // A completed host is shown in place until its wave ends. A deployment without a plan has no wave line.
        EventKind::Final { outcome: HostOutcome::Completed, .. } if !wording::is_deployment(page.rollout) => None,
        EventKind::Final { host, .. } | EventKind::Retrying { host, .. } | EventKind::RollbackEnded { host, .. } => {
            let line = page.event(event)?;
            let wave = page.summary.host(host)?.wave;
            page.wave(line.symbol, wave, &line.text).or(Some(line))
        }
        EventKind::Begun(_)
        | EventKind::Resumed
        | EventKind::Resolved { .. }
        | EventKind::Draining { .. }
        | EventKind::WaveEnded { .. }
        | EventKind::Staged
        | EventKind::Interrupted { .. }
        | EventKind::Connection { .. }
        | EventKind::UnexpectedResponse { .. }
        | EventKind::HookFailed { .. } => page.event(event),
        EventKind::AnsweredLate { .. }
        | EventKind::AwaitingConfirmation { .. }
        | EventKind::WaveStarted { .. }
        | EventKind::Dispatched { .. }
        | EventKind::Accepted { .. }
        | EventKind::Started { .. }
        | EventKind::RollingBack { .. }
        | EventKind::Baking { .. }
        | EventKind::Checking { .. }
        | EventKind::Ended { .. } => None,
    }
}

#[cfg(test)]
mod tests;
