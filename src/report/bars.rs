//! Displays a rollout on a terminal: progress is redrawn in place at the bottom, and lasting lines scroll by above it.
//!
//! What is redrawn is the running wave with its hosts, and the waves to come, no faster than people can read.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::describe::{self, is_active, is_deployment};
use super::format::{DisplayDuration, Symbol, count};
use super::layout::{Layout, LayoutState, Line};
use super::lines::LineWriter;
use super::{LogView, Reporter, Style};
use crate::protocol::HostName;
use crate::rollout::summary::{Counts, HostProgress, HostState, WaveState};
use crate::rollout::{Event, EventKind, HostOutcome, Summary, WaveIndex};

/// Nothing is drawn in place before a rollout is this old, so that a short rollout does not flash.
const QUIET: Duration = Duration::from_millis(250);

/// The least time between two draws. What happens within it is drawn with the next event, or within a second.
const PAUSE: Duration = Duration::from_millis(50);

/// A quarter of the terminal is left to lines that scrolled by, and a quarter of the rest to the waves to come.
const QUARTER: usize = 4;

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
    drawn_at: Timestamp,
    layout: LayoutState,
    /// When the first event of this process arrived. A resumed rollout began earlier.
    since: Option<Timestamp>,
    /// Lines that will scroll by, not yet written.
    lasting: Vec<String>,
    logs: LogView,
    last_lines: LastLines,
}

/// The last line that each host's run wrote.
type LastLines = BTreeMap<HostName, String>;

impl Bars<io::Stderr> {
    /// Draws on standard error. `size` is called for each draw, since the terminal may be resized at any time.
    pub fn stderr(style: Style, size: fn() -> Size, logs: LogView) -> Self {
        Self::new(io::stderr(), ProgressDrawTarget::stderr(), style, size, logs)
    }
}

impl<W: Write> Bars<W> {
    fn new(out: W, target: ProgressDrawTarget, style: Style, size: fn() -> Size, logs: LogView) -> Self {
        let template = ProgressStyle::with_template("{msg}").expect("a placeholder alone is a template");
        let bar = ProgressBar::with_draw_target(None, target).with_style(template);
        bar.finish_and_clear();
        Self {
            out: LineWriter::new(out),
            style,
            size,
            bar,
            drawn_at: Timestamp::default(),
            layout: LayoutState::default(),
            since: None,
            lasting: Vec::new(),
            logs,
            last_lines: LastLines::new(),
        }
    }

    fn show(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        self.drawn_at = now;
        // Drawing would overwrite the open question. Pending lines are written once it is answered.
        if summary.waves.iter().any(|wave| wave.state == WaveState::AwaitingConfirmation) {
            return Ok(());
        }
        let is_early = self.since.is_none_or(|since| DisplayDuration::between(since, now) < DisplayDuration(QUIET));
        let layout = Layout::new(summary, self.layout).filter(|_| !is_early);
        let region = layout.map(|layout| region(&layout, &self.last_lines, now, (self.size)(), self.style));
        let region = region.unwrap_or_default();
        if region.is_empty() || !self.lasting.is_empty() {
            self.clear()?;
        }
        if region.is_empty() { Ok(()) } else { self.draw(&region) }
    }

    /// Erases the redrawn lines and writes the lasting ones.
    fn clear(&mut self) -> io::Result<()> {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
        let lasting: String = self.lasting.drain(..).map(|line| line + "\n").collect();
        self.out.write(lasting.as_bytes())
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
    fn event(&mut self, event: &Event, _json: &[u8], summary: &Summary) -> io::Result<()> {
        self.since.get_or_insert(event.at);
        self.layout.update(event, summary);
        if let Some(line) = Layout::new(summary, self.layout).and_then(|layout| lasting_line(&layout, event)) {
            self.lasting.push(line.wrapped((self.size)().columns, self.style));
        }
        match event.kind {
            EventKind::AwaitingConfirmation { .. } => self.clear(),
            EventKind::Ended { .. } => self.show(event.at, summary),
            _ if DisplayDuration::between(self.drawn_at, event.at) >= DisplayDuration(PAUSE) => {
                self.show(event.at, summary)
            }
            _ => Ok(()),
        }
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        match self.logs {
            LogView::Whole => self.lasting.extend(lines.iter().map(|line| self.layout.log_line(host, line))),
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

/// Returns the line that an event leaves behind. A line about a host names its wave, which may have scrolled away.
fn lasting_line(layout: &Layout<'_>, event: &Event) -> Option<Line> {
    match &event.kind {
        // A completed host is shown in place until its wave ends. A deployment without a plan has no wave line.
        EventKind::Final { outcome: HostOutcome::Completed, .. } if !is_deployment(layout.rollout) => None,
        EventKind::Final { host, .. } | EventKind::Retrying { host, .. } | EventKind::RollbackEnded { host, .. } => {
            let line = layout.event(event)?;
            let wave = layout.summary.host(host)?.wave;
            layout.wave(line.symbol, wave, &line.text).or(Some(line))
        }
        // What is shown in place.
        EventKind::AnsweredLate { .. }
        | EventKind::AwaitingConfirmation { .. }
        | EventKind::WaveStarted { .. }
        | EventKind::Dispatched { .. }
        | EventKind::Accepted { .. }
        | EventKind::Started { .. }
        | EventKind::RollingBack { .. }
        | EventKind::Baking { .. }
        | EventKind::Checking { .. } => None,
        _ => layout.event(event),
    }
}

// -- what is redrawn

/// Returns the lines for a terminal of this size, or none if no wave is left to show. A line is wider than the terminal
/// only if a host name is.
fn region(layout: &Layout<'_>, last_lines: &LastLines, now: Timestamp, size: Size, style: Style) -> Vec<String> {
    let is_over = |state: &WaveState| matches!(state, WaveState::Ended(_));
    let runs = || layout.summary.waves.iter().position(|wave| !is_over(&wave.state)).map(WaveIndex);
    let returns = layout.summary.unfinished_rollback().filter(|_| layout.summary.outcome.is_none());
    let Some(wave) = returns.or_else(runs) else { return Vec::new() };
    let rows = size.rows - size.rows.div_ceil(QUARTER);
    let later = waves_to_come(layout, wave, (rows / QUARTER).max(1));
    let header = header(layout, wave, now);
    let hosts = hosts(layout, wave, last_lines, now, rows.saturating_sub(later.len() + header.iter().len()));
    header.into_iter().chain(hosts).chain(later).map(|line| line.within(size.columns, style)).collect()
}

/// Returns the header of the running wave: how many hosts completed, how many did not, and the current phase.
fn header(layout: &Layout<'_>, wave: WaveIndex, now: Timestamp) -> Option<Line> {
    let view = layout.summary.waves.get(wave.0)?;
    let (symbol, doing) = match view.state {
        WaveState::Running if layout.summary.interrupt.is_some() => (Symbol::Bad, Some("interrupted".to_owned())),
        WaveState::Draining => (Symbol::Bad, Some("halted".to_owned())),
        WaveState::Baking => (Symbol::Waits, layout.baking(wave, now)),
        WaveState::Checking => (Symbol::UnderWay, layout.checking(wave)),
        WaveState::Ended(_) => (Symbol::Bad, Some("failed, and returns to what ran before".to_owned())),
        WaveState::Running => (Symbol::UnderWay, None),
        WaveState::Pending | WaveState::AwaitingConfirmation => (Symbol::Waits, None),
    };
    let counts = Counts::of(layout.summary.hosts_of(wave));
    let lost = Counts { completed: 0, in_flight: 0, pending: 0, ..counts };
    let mut parts = vec![format!("{}/{}", counts.completed + counts.current, counts.total)];
    if layout.summary.waves.len() > 1 {
        let all = layout.summary.counts();
        parts.push(format!("{} of {}", all.completed + all.current, count(all.total, "host")));
    }
    parts.extend(Some(describe::counts(&lost)).filter(|lost| !lost.is_empty()));
    parts.extend(doing);
    layout.wave(symbol, wave, &parts.join("   "))
}

/// Returns at most `room` lines for the waves after this one.
fn waves_to_come(layout: &Layout<'_>, wave: WaveIndex, room: usize) -> Vec<Line> {
    let later = wave.0 + 1..layout.summary.waves.len();
    let shown = if later.len() <= room { later.len() } else { room.saturating_sub(1) };
    let hidden = later.len() - shown;
    let line = |wave| {
        let resolved = layout.resolved_wave(wave)?;
        let text = if resolved.limits.confirm { "asks first".to_owned() } else { count(resolved.hosts.len(), "host") };
        layout.wave(Symbol::Waits, wave, &text)
    };
    let more = || Line::new(Symbol::Others, format!("{} to come", count(hidden, "more wave")));
    later.take(shown).map(WaveIndex).filter_map(line).chain((hidden > 0).then(more)).collect()
}

/// Returns the hosts of a wave: all of them if they fit, else the active ones and a count of the others.
fn hosts(layout: &Layout<'_>, wave: WaveIndex, last_lines: &LastLines, now: Timestamp, room: usize) -> Vec<Line> {
    let line = |host: &HostProgress| {
        let mut line = layout.host_now(host, now);
        line.aside = last_lines.get(&host.name).filter(|_| is_active(host)).cloned();
        line
    };
    let hosts: Vec<&HostProgress> =
        layout.summary.hosts_of(wave).filter(|host| !has_scrolled_by(layout, host)).collect();
    if hosts.len() <= room {
        return hosts.into_iter().map(line).collect();
    }
    let room = room.saturating_sub(1);
    let (active, others): (Vec<&HostProgress>, Vec<&HostProgress>) =
        hosts.into_iter().partition(|host| is_active(host));
    let unseen = active.iter().skip(room).chain(&others);
    let rest = layout.among_hosts(Symbol::Others, describe::counts(&Counts::of(unseen.copied())));
    active.iter().copied().take(room).map(line).chain([rest]).collect()
}

/// Whether a line that scrolled by has already told how the host ended.
fn has_scrolled_by(layout: &Layout<'_>, host: &HostProgress) -> bool {
    match host.state {
        HostState::Final(HostOutcome::Completed) => {
            is_deployment(layout.rollout) || host.rollback.as_ref().is_some_and(|back| back.outcome.is_some())
        }
        HostState::Final(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
