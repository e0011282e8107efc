//! For terminals: what moves stands in place at the bottom, and what has to stay readable scrolls by above it.
//!
//! What the place at the bottom shows is decided in [`region`]; here it is only drawn, and not more often than anybody
//! can read.

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

/// What is over before this is told in lines, without anything that flashes up and goes.
const QUIET: Duration = Duration::from_millis(250);

/// The room on a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Draws on a terminal, which nobody else writes to unless a question is asked there.
#[derive(Debug)]
pub struct Bars<W: Write> {
    out: LineWriter<W>,
    style: Style,
    size: fn() -> Size,
    bar: ProgressBar,
    pace: RateLimiter,
    memory: LayoutState,
    /// When the first event came, which for a rollout that is resumed is not when it began.
    since: Option<Timestamp>,
    /// What has to scroll by and was not written yet.
    facts: Vec<String>,
    logs: LogView,
    /// What each run has written last.
    last_lines: BTreeMap<HostName, String>,
}

impl Bars<io::Stderr> {
    /// Draws on the terminal behind standard error, whose size may change at any time.
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

    /// Shows this of the logs.
    #[must_use]
    pub fn with_logs(mut self, logs: LogView) -> Self {
        self.logs = logs;
        self
    }

    fn show(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        // The question that stands there would be written over. What happens meanwhile is told once it is answered.
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

    /// Takes back what stands in place, and writes what has to scroll by.
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
        // From the end of a full line, the `^C` that a terminal shows would begin one that the next draw does not know.
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

/// A rollout that is given up in the middle leaves the terminal as clean as one that ends.
impl<W: Write> Drop for Bars<W> {
    fn drop(&mut self) {
        self.clear().ok();
    }
}

fn is_asking(summary: &Summary) -> bool {
    summary.waves.iter().any(|wave| wave.state == WaveState::AwaitingConfirmation)
}

/// The line that an event leaves behind. Where it is about a host, it names the wave, which may have scrolled away.
fn fact(page: &Layout<'_>, event: &Event) -> Option<Line> {
    match &event.kind {
        // A host that completed stands in place until its wave is over. A deployment without a plan has nothing else.
        EventKind::Final { outcome: HostOutcome::Completed, .. } if !wording::is_deployment(page.rollout) => None,
        EventKind::Final { host, .. } | EventKind::Retrying { host, .. } | EventKind::Returned { host, .. } => {
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
        EventKind::TurnedUp { .. }
        | EventKind::AwaitingConfirmation { .. }
        | EventKind::WaveStarted { .. }
        | EventKind::Dispatched { .. }
        | EventKind::Accepted { .. }
        | EventKind::Started { .. }
        | EventKind::Returning { .. }
        | EventKind::Baking { .. }
        | EventKind::Checking { .. }
        | EventKind::Ended { .. } => None,
    }
}

#[cfg(test)]
mod tests;
