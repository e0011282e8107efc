//! For logs and pipes: one line for each thing that happens, and once a minute one for each host in flight.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;

use super::format::{Symbol, Took, count, pad, safe, widest};
use super::pipe::Pipe;
use super::{Reporter, Style, words};
use crate::plan::FrozenWave;
use crate::protocol::HostName;
use crate::rollout::summary::{Counts, HostState, HostView};
use crate::rollout::{Connection, Event, EventKind, HostOutcome, Interrupt, Rollout, Summary, WaveIndex, WaveVerdict};

/// How often hosts in flight are shown while nothing happens to them.
const REMINDER: Duration = Duration::from_mins(1);

/// Writes lines that are never taken back.
#[derive(Debug)]
pub struct Lines<W> {
    out: Pipe<W>,
    style: Style,
    told: BTreeMap<HostName, Told>,
}

/// What was last told of a host.
#[derive(Debug)]
struct Told {
    at: Timestamp,
    state: HostState,
}

impl<W: Write> Lines<W> {
    /// Writes to `out` in this style.
    pub const fn new(out: W, style: Style) -> Self {
        Self { out: Pipe::new(out), style, told: BTreeMap::new() }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.out.write(format!("{line}\n").as_bytes())
    }

    /// Whether an event is not just a host that repeats what it is at.
    fn is_news(&mut self, event: &Event, summary: &Summary) -> bool {
        let (EventKind::Joined { host }
        | EventKind::Dispatched { host: Some(host), .. }
        | EventKind::Started { host, .. }
        | EventKind::Retrying { host, .. }) = &event.kind
        else {
            return true;
        };
        let Some(state) = summary.host(host).map(|host| host.state) else {
            return true;
        };
        if self.told.get(host).is_some_and(|told| told.state == state) {
            return false;
        }
        self.told.insert(host.clone(), Told { at: event.at, state });
        true
    }

    /// Whether nothing was told of a host for a while; from now on it was.
    fn is_due(&mut self, host: &HostView, now: Timestamp) -> bool {
        match self.told.get_mut(&host.name) {
            Some(told) if Took::between(told.at, now) >= Took(REMINDER) => {
                told.at = now;
                true
            }
            Some(_) | None => false,
        }
    }
}

impl<W: Write> Reporter for Lines<W> {
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()> {
        let Some(page) = Page::new(summary, self.style).filter(|_| self.is_news(event, summary)) else {
            return Ok(());
        };
        page.event(event).map_or(Ok(()), |line| self.write(&line))
    }

    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        let Some(page) = Page::new(summary, self.style) else {
            return Ok(());
        };
        for host in words::in_flight(summary) {
            if self.is_due(host, now) {
                self.write(&page.in_flight(host, now))?;
            }
        }
        Ok(())
    }
}

/// Where lines are laid out: all of one rollout share their columns.
struct Page<'a> {
    summary: &'a Summary,
    rollout: &'a Rollout,
    style: Style,
}

impl<'a> Page<'a> {
    fn new(summary: &'a Summary, style: Style) -> Option<Self> {
        summary.rollout.as_deref().map(|rollout| Self { summary, rollout, style })
    }

    /// The line for an event, unless it is one that another line tells already.
    fn event(&self, event: &Event) -> Option<String> {
        use Symbol::{Bad, Good, UnderWay, Waits, Warning};
        match &event.kind {
            EventKind::Begun(_) => Some(self.begun()),
            EventKind::Resumed => Some(self.resumed()),
            EventKind::AwaitingConfirmation { wave } => self.wave(Waits, *wave, "asks first"),
            EventKind::WaveStarted { wave } => self.wave_started(*wave),
            EventKind::Joined { host } => Some(self.host(UnderWay, host, "sent", None, "")),
            // Of the hosts of a deployment each one is told of when it joins.
            EventKind::Dispatched { .. } if words::is_deployment(self.rollout) => None,
            EventKind::Dispatched { host, attempt, .. } => {
                let again = if *attempt > 1 { format!("attempt {attempt}") } else { String::new() };
                host.as_ref().map(|host| self.host(UnderWay, host, "sent", None, &again))
            }
            EventKind::Started { host, .. } => {
                self.summary.host(host).map(|view| self.host_at(UnderWay, view, event.at, ""))
            }
            EventKind::Retrying { host, outcome, delay } => {
                let detail = format!("asked again in {}", Took(*delay));
                Some(self.host(Waits, host, outcome.as_str(), None, &detail))
            }
            EventKind::Final { host, outcome, .. } => self.ended(host, *outcome, event.at),
            EventKind::Draining { wave, cause } => {
                let text = format!("halted: {}; {}", words::cause(cause), words::awaited(self.summary));
                self.wave(Bad, *wave, &text)
            }
            EventKind::Baking { wave, remaining } => self.wave(Waits, *wave, &format!("baking {}", Took(*remaining))),
            EventKind::Checking { wave } => self.checking(*wave),
            EventKind::WaveEnded { wave, verdict } => self.wave_ended(*wave, verdict),
            EventKind::Interrupted { how: Interrupt::Drain } => {
                let awaited = words::awaited(self.summary);
                let text = format!("interrupted: nothing new is sent; {awaited}. A second interrupt leaves at once");
                Some(self.line(Bad, &text))
            }
            EventKind::Interrupted { how: Interrupt::Abort } => Some(self.line(Bad, "interrupted: leaving at once")),
            EventKind::Connection { state: Connection::Down } => {
                Some(self.line(Warning, "connection lost; what runs on the hosts goes on"))
            }
            EventKind::Connection { state: Connection::Up } => Some(self.line(Good, "reconnected")),
            EventKind::Anomaly { host, anomaly } => {
                let sentence = words::anomaly(host, anomaly, self.summary);
                Some(self.line(Warning, &format!("warning: {sentence}")))
            }
            // A host that takes the request is at it in the next moment, and the end is for the recap to tell.
            EventKind::Accepted { .. } | EventKind::Ended { .. } => None,
        }
    }

    fn line(&self, symbol: Symbol, text: &str) -> String {
        format!("{} {text}", symbol.in_style(self.style))
    }

    fn begun(&self) -> String {
        let Rollout { plan, id, .. } = self.rollout;
        let revision = words::revision(self.rollout);
        let what = match plan.waves.as_slice() {
            [wave] if words::is_deployment(self.rollout) => format!("{}: {} {revision}", plan.name, wave.action),
            waves => {
                let (hosts, waves) = (count(self.summary.hosts.len(), "host"), count(waves.len(), "wave"));
                format!("Rollout {} {} begins: {revision}, {hosts} in {waves}", plan.name, id.short())
            }
        };
        self.line(Symbol::UnderWay, &what)
    }

    fn resumed(&self) -> String {
        let counts = self.summary.counts();
        let at_it = if counts.in_flight > 0 { format!(", {} may be at it", counts.in_flight) } else { String::new() };
        let left = format!("{} of {} completed before{at_it}", counts.completed, count(counts.total(), "host"));
        self.line(
            Symbol::UnderWay,
            &format!("Rollout {} {} resumes: {left}", self.rollout.name(), self.rollout.id.short()),
        )
    }

    // -- waves, of which a deployment without a plan says nothing

    fn wave(&self, symbol: Symbol, wave: WaveIndex, text: &str) -> Option<String> {
        let waves = &self.rollout.plan.waves;
        let width = widest(waves.iter().map(|wave| &wave.name));
        let name = pad(&self.frozen(wave)?.name, width);
        let (number, total) = (wave.to_string(), waves.len().to_string());
        Some(self.line(symbol, &format!("{number:>0$}/{total} {name}   {text}", total.len())))
    }

    fn frozen(&self, wave: WaveIndex) -> Option<&FrozenWave> {
        self.rollout.plan.waves.get(wave.0).filter(|_| !words::is_deployment(self.rollout))
    }

    fn wave_started(&self, wave: WaveIndex) -> Option<String> {
        let frozen = self.frozen(wave)?;
        let hosts = frozen.hosts.len();
        let text = format!("{}, {} at once", count(hosts, "host"), frozen.limits.max_parallel.min(hosts));
        self.wave(Symbol::UnderWay, wave, &text)
    }

    fn checking(&self, wave: WaveIndex) -> Option<String> {
        let check = self.frozen(wave)?.limits.check.as_ref()?;
        self.wave(Symbol::UnderWay, wave, &format!("checking: {}", safe(&check.command.join(" "))))
    }

    fn wave_ended(&self, wave: WaveIndex, verdict: &WaveVerdict) -> Option<String> {
        let counts = Counts::of(self.summary.hosts_of(wave));
        let not_completed = Counts { completed: 0, ..counts };
        // The cause of a failure tells of those that were asked already.
        let not_asked = Counts { skipped: counts.skipped, ..Counts::default() };
        let (symbol, verdict, others) = match verdict {
            WaveVerdict::Skipped => {
                return self.wave(Symbol::Skipped, wave, &format!("skipped   {}", count(counts.total(), "host")));
            }
            WaveVerdict::Interrupted => (Symbol::Bad, Some("interrupted".to_owned()), not_completed),
            WaveVerdict::Failed(cause) => (Symbol::Bad, Some(format!("failed: {}", words::cause(cause))), not_asked),
            WaveVerdict::Succeeded => {
                let baked = words::bake(&self.rollout.plan, wave).map(|bake| format!("baked {bake}"));
                (Symbol::Good, baked, not_completed)
            }
        };
        let mut parts = vec![format!("{}/{}", counts.completed, counts.total())];
        parts.extend(self.busy_for(wave).map(|took| took.to_string()));
        parts.extend(verdict);
        parts.extend(Some(words::counts(&others)).filter(|others| !others.is_empty()));
        self.wave(symbol, wave, &parts.join("   "))
    }

    /// How long the hosts of a wave were at it, without the bake and check that came after.
    fn busy_for(&self, wave: WaveIndex) -> Option<Took> {
        let began_at = self.summary.waves.get(wave.0)?.began_at?;
        let asked = self.summary.hosts_of(wave).filter(|host| host.sent_at.is_some());
        asked.filter_map(|host| host.ended_at).max().map(|last| Took::between(began_at, last))
    }

    // -- hosts

    fn host(&self, symbol: Symbol, host: &HostName, state: &str, took: Option<Took>, detail: &str) -> String {
        let width = widest(self.summary.hosts.iter().map(|host| words::name(&host.name)));
        let row = words::host_row(&words::name(host), width, state, took, detail);
        let indent = if words::is_deployment(self.rollout) { "" } else { "    " };
        format!("{indent}{}", self.line(symbol, &row))
    }

    fn host_at(&self, symbol: Symbol, host: &HostView, now: Timestamp, detail: &str) -> String {
        let took = host.sent_at.map(|sent_at| Took::between(sent_at, now));
        self.host(symbol, &host.name, words::state(host.state), took, detail)
    }

    fn in_flight(&self, host: &HostView, now: Timestamp) -> String {
        let timeout = words::timeout(self.rollout, host.wave).map(|timeout| format!("of {timeout}"));
        self.host_at(Symbol::UnderWay, host, now, &timeout.unwrap_or_default())
    }

    /// Hosts that were not asked are counted where their wave ends.
    fn ended(&self, host: &HostName, outcome: HostOutcome, at: Timestamp) -> Option<String> {
        let symbol = match outcome {
            HostOutcome::Completed => Symbol::Good,
            HostOutcome::Skipped(_) => return None,
            HostOutcome::Failed | HostOutcome::Rejected | HostOutcome::Unreachable | HostOutcome::TimedOut => {
                Symbol::Bad
            }
        };
        let view = self.summary.host(host)?;
        Some(self.host_at(symbol, view, at, &words::outcome(view, outcome, self.rollout)))
    }
}

#[cfg(test)]
mod tests;
