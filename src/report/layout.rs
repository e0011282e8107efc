//! Lays out the lines about a rollout, identically whether they scroll by or are redrawn in place.

use jiff::Timestamp;

use super::Style;
use super::describe::{self, is_deployment};
use super::format::{
    DisplayDuration, Symbol, columns, count, first_line, pad, push_padded, safe, shorten, widest, wrap_indented,
};
use crate::plan::ResolvedWave;
use crate::protocol::HostName;
use crate::rollout::summary::{Counts, HostProgress, HostState};
use crate::rollout::{Connection, Event, EventKind, HostOutcome, Interrupt, Rollout, Summary, WaveIndex, WaveVerdict};

/// State that a display keeps beside the summary, so that no event makes it iterate over all hosts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayoutState {
    /// The width of the longest host name, in columns.
    name_width: usize,
    /// When the most recent bake ends.
    bake_ends_at: Option<Timestamp>,
}

impl LayoutState {
    /// Updates the state with an event that `summary` already includes.
    pub(super) fn update(&mut self, event: &Event, summary: &Summary) {
        match &event.kind {
            EventKind::Begun(_) | EventKind::Resumed => {
                self.name_width = widest(summary.hosts.iter().map(|host| host.name.as_str()));
            }
            EventKind::Baking { remaining, .. } => self.bake_ends_at = event.at.checked_add(*remaining).ok(),
            _ => {}
        }
    }

    /// Formats a line of a log behind the name of the host that wrote it.
    pub(super) fn log_line(self, host: &HostName, line: &str) -> String {
        format!("      {} | {line}", pad(host.as_str(), self.name_width))
    }
}

/// The columns of a symbol, with the space after it.
const SYMBOL_COLUMNS: usize = 2;

/// The space before the aside of a line.
const ASIDE: &str = "   ";

/// An aside is left out if fewer columns than this are left for it.
const MIN_ASIDE: usize = 16;

/// A line of a display: a symbol and a text.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) symbol: Symbol,
    pub(super) text: String,
    /// Columns before the symbol.
    indent: usize,
    /// Columns at the start of the text that hold a name, which is never cut.
    name_columns: usize,
    /// Dimmed text after the line, cut to the room that is left.
    pub(super) aside: Option<String>,
}

impl Line {
    pub(super) fn new(symbol: Symbol, text: impl Into<String>) -> Self {
        Self { symbol, text: text.into(), indent: 0, name_columns: 0, aside: None }
    }

    pub(super) fn in_style(&self, style: Style) -> String {
        let (Self { text, indent, .. }, (symbol, color)) = (self, self.symbol.with_color());
        let mut line = String::with_capacity(indent + text.len() + 16);
        push_padded(&mut line, "", *indent);
        match style {
            Style::Plain => line.push_str(symbol),
            Style::Colored => line.extend(["\x1b[", color, "m", symbol, "\x1b[0m"]),
        }
        line.extend([" ", text]);
        line
    }

    /// Formats the whole line, wrapped between words to `width` columns.
    pub(super) fn wrapped(&self, width: usize, style: Style) -> String {
        let hanging = " ".repeat(self.indent + SYMBOL_COLUMNS);
        Self { text: wrap_indented(&self.text, width, &hanging), ..self.clone() }.in_style(style)
    }

    /// Formats the line cut to `width` columns. It is wider only if the name in it is.
    pub(super) fn within(mut self, width: usize, style: Style) -> String {
        let room = width.saturating_sub(self.indent + SYMBOL_COLUMNS);
        // Room for the `…`, so that a cut does not look like the end of the name.
        self.text = shorten(&self.text, room.max(self.name_columns + "  …".chars().count()));
        let left = room.saturating_sub(columns(&self.text) + ASIDE.len());
        let aside = self.aside.take().filter(|_| left >= MIN_ASIDE).map(|aside| shorten(&aside, left));
        let (dim, plain) = if style == Style::Colored { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        self.in_style(style) + &aside.map(|aside| format!("{ASIDE}{dim}{aside}{plain}")).unwrap_or_default()
    }
}

/// Lays out the lines of one rollout, which share their columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) summary: &'a Summary,
    pub(super) rollout: &'a Rollout,
    state: LayoutState,
}

impl<'a> Layout<'a> {
    pub(super) fn new(summary: &'a Summary, state: LayoutState) -> Option<Self> {
        summary.rollout.as_deref().map(|rollout| Self { summary, rollout, state })
    }

    /// Returns the line for an event, or `None` if another line already covers it.
    pub(super) fn event(&self, event: &Event) -> Option<Line> {
        use Symbol::{Bad, Good, Skipped, UnderWay, Waits, Warning};
        let (symbol, text) = match &event.kind {
            EventKind::Begun(_) => (UnderWay, self.begun()),
            EventKind::Resumed => (UnderWay, self.resumed()),
            EventKind::AwaitingConfirmation { wave } => return self.wave(Waits, *wave, "asks first"),
            EventKind::WaveStarted { wave } => {
                let resolved = self.resolved_wave(*wave)?;
                let (hosts, most) = (resolved.hosts.len(), resolved.limits.max_parallel);
                return self.wave(UnderWay, *wave, &format!("{}, {} at once", count(hosts, "host"), most.min(hosts)));
            }
            EventKind::Dispatched { host, attempt, .. } => {
                let again = if *attempt > 1 { format!("attempt {attempt}") } else { String::new() };
                return Some(self.host(UnderWay, host, "sent", None, &again));
            }
            EventKind::Started { host, .. } => {
                let view = self.summary.host(host)?;
                let took = view.sent_at.map(|sent_at| DisplayDuration::between(sent_at, event.at));
                return Some(self.host(UnderWay, host, describe::state_word(view), took, ""));
            }
            EventKind::Retrying { host, outcome, delay } => {
                let detail = format!("asked again in {}", DisplayDuration(*delay));
                return Some(self.host(Waits, host, outcome.as_str(), None, &detail));
            }
            // The line at the end of a wave counts the hosts that were not asked. An accepted host starts a moment
            // later. The recap shows how the rollout ended.
            EventKind::Final { outcome: HostOutcome::Skipped(_) | HostOutcome::Current, .. }
            | EventKind::Accepted { .. }
            | EventKind::Ended { .. } => return None,
            EventKind::Final { host, .. }
            | EventKind::RollingBack { host, .. }
            | EventKind::RollbackEnded { host, .. } => {
                return self.summary.host(host).map(|view| self.host_now(view, event.at));
            }
            EventKind::Draining { wave, cause } => {
                let (reason, awaited) = (describe::failure_reason(cause), describe::awaited(self.summary));
                return self.wave(Bad, *wave, &format!("halted: {reason}; {awaited}"));
            }
            EventKind::Baking { wave, remaining } => {
                return self.wave(Waits, *wave, &format!("baking {}", DisplayDuration(*remaining)));
            }
            EventKind::Checking { wave } => return self.wave(UnderWay, *wave, &self.checking(*wave)?),
            EventKind::WaveEnded { wave, verdict } => return self.wave_ended(*wave, verdict),
            EventKind::Interrupted { how: Interrupt::Drain } => {
                let awaited = describe::awaited(self.summary);
                (Bad, format!("interrupted: nothing new is sent; {awaited}. A second interrupt leaves at once"))
            }
            EventKind::Interrupted { how: Interrupt::Abort } => (Bad, "interrupted: leaving at once".to_owned()),
            EventKind::Connection { state: Connection::Down } => {
                (Warning, "connection lost; deployments on the hosts continue".to_owned())
            }
            EventKind::Connection { state: Connection::Up } => (Good, "reconnected".to_owned()),
            EventKind::Resolved { host, .. } => {
                (Good, format!("{}, as {host} found it", describe::revision(self.rollout)))
            }
            EventKind::Staged => (Good, "every host has fetched its system; from here on they are changed".to_owned()),
            EventKind::AnsweredLate { host, wave } => {
                let text = format!("{host} turned up too late for this wave, and is not deployed");
                return self.wave(Skipped, *wave, &text);
            }
            EventKind::UnexpectedResponse { host, anomaly } => {
                (Warning, format!("warning: {}", describe::unexpected_response(host, anomaly, self.summary)))
            }
            EventKind::HookFailed { hook, reason } => {
                (Warning, format!("warning: {hook} failed: {}", first_line(reason)))
            }
        };
        Some(Line::new(symbol, text))
    }

    fn begun(&self) -> String {
        let Rollout { plan, id, .. } = self.rollout;
        let revision = describe::revision(self.rollout);
        match plan.waves.as_slice() {
            [wave] if is_deployment(self.rollout) => format!("{}: {} {revision}", plan.name, wave.action),
            waves => {
                let (hosts, waves) = (count(self.summary.hosts.len(), "host"), count(waves.len(), "wave"));
                format!("Rollout {} {} begins: {revision}, {hosts} in {waves}", plan.name, id.short())
            }
        }
    }

    fn resumed(&self) -> String {
        let counts = self.summary.counts();
        let at_it =
            if counts.in_flight > 0 { format!(", {} may be in flight", counts.in_flight) } else { String::new() };
        let (name, id, hosts) = (self.rollout.name(), self.rollout.id.short(), count(counts.total, "host"));
        format!("Rollout {name} {id} resumes: {} of {hosts} completed before{at_it}", counts.completed + counts.current)
    }

    // -- waves: a deployment without a plan shows none

    pub(super) fn wave(&self, symbol: Symbol, wave: WaveIndex, text: &str) -> Option<Line> {
        let waves = &self.rollout.plan.waves;
        let width = widest(waves.iter().map(|wave| &wave.name));
        let name = pad(&self.resolved_wave(wave)?.name, width);
        let (number, total) = (wave.to_string(), waves.len().to_string());
        Some(Line::new(symbol, format!("{number:>0$}/{total} {name}   {text}", total.len())))
    }

    pub(super) fn resolved_wave(&self, wave: WaveIndex) -> Option<&ResolvedWave> {
        self.rollout.plan.waves.get(wave.0).filter(|_| !is_deployment(self.rollout))
    }

    pub(super) fn checking(&self, wave: WaveIndex) -> Option<String> {
        let check = self.resolved_wave(wave)?.limits.check.as_ref()?;
        Some(format!("checking: {}", safe(&check.command.join(" "))))
    }

    /// Formats how much longer a wave bakes.
    pub(super) fn baking(&self, wave: WaveIndex, now: Timestamp) -> Option<String> {
        let left = DisplayDuration::between(now, self.state.bake_ends_at?);
        Some(format!("baking, {left} left of {}", describe::bake(&self.rollout.plan, wave)?))
    }

    fn wave_ended(&self, wave: WaveIndex, verdict: &WaveVerdict) -> Option<Line> {
        let counts = Counts::of(self.summary.hosts_of(wave));
        let not_completed = Counts { completed: 0, ..counts };
        // The reason of the failure already counts the hosts that were asked.
        let not_asked = Counts { skipped: counts.skipped, ..Counts::default() };
        let (symbol, verdict, others) = match verdict {
            WaveVerdict::Skipped => {
                let hosts = self.resolved_wave(wave).map_or(0, |wave| wave.hosts.len());
                return self.wave(Symbol::Skipped, wave, &format!("skipped   {}", count(hosts, "host")));
            }
            WaveVerdict::Interrupted => (Symbol::Bad, Some("interrupted".to_owned()), not_completed),
            WaveVerdict::Failed(cause) => {
                (Symbol::Bad, Some(format!("failed: {}", describe::failure_reason(cause))), not_asked)
            }
            WaveVerdict::Succeeded => {
                let baked = describe::bake(&self.rollout.plan, wave).map(|bake| format!("baked {bake}"));
                (Symbol::Good, baked, not_completed)
            }
        };
        let mut parts = vec![format!("{}/{}", counts.completed + counts.current, counts.total)];
        parts.extend(self.busy_for(wave).map(|took| took.to_string()));
        parts.extend(verdict);
        parts.extend(Some(describe::counts(&others)).filter(|others| !others.is_empty()));
        self.wave(symbol, wave, &parts.join("   "))
    }

    /// Returns how long the hosts of a wave took, without the bake and check that follow.
    fn busy_for(&self, wave: WaveIndex) -> Option<DisplayDuration> {
        let began_at = self.summary.waves.get(wave.0)?.began_at?;
        let asked = self.summary.hosts_of(wave).filter(|host| host.sent_at.is_some());
        asked.filter_map(|host| host.ended_at).max().map(|last| DisplayDuration::between(began_at, last))
    }

    // -- hosts

    fn host(&self, symbol: Symbol, host: &HostName, state: &str, took: Option<DisplayDuration>, detail: &str) -> Line {
        let name = host.as_str();
        let text = describe::host_row(name, self.state.name_width, state, took, detail);
        Line { name_columns: columns(name), ..self.among_hosts(symbol, text) }
    }

    /// Returns a line indented like those of hosts.
    pub(super) fn among_hosts(&self, symbol: Symbol, text: String) -> Line {
        let indent = if is_deployment(self.rollout) { 0 } else { 4 };
        Line { symbol, text, indent, name_columns: 0, aside: None }
    }

    /// Returns the line for a host's current state, with the time that its run has taken.
    pub(super) fn host_now(&self, host: &HostProgress, now: Timestamp) -> Line {
        let outcome = match (host.state, &host.rollback) {
            (HostState::Final(_), Some(rollback)) => rollback.outcome,
            (HostState::Final(outcome), None) => Some(outcome),
            _ => None,
        };
        let symbol = match outcome {
            Some(HostOutcome::Completed | HostOutcome::Current) => Symbol::Good,
            Some(HostOutcome::Skipped(_)) => Symbol::Skipped,
            Some(_) => Symbol::Bad,
            None if matches!(host.state, HostState::Pending | HostState::Waiting(_)) => Symbol::Waits,
            None => Symbol::UnderWay,
        };
        let took = host.sent_at.map(|sent_at| match host.ended_at {
            Some(ended_at) => DisplayDuration::between(sent_at, ended_at),
            None => DisplayDuration::between(sent_at, now).so_far(),
        });
        self.host(symbol, &host.name, describe::state_word(host), took, &describe::detail(host, self.rollout))
    }
}
