//! For logs and pipes: one line for each thing that happens, and once a minute one for each host in flight.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;

use super::format::Took;
use super::page::{Line, Memory, Page};
use super::pipe::Pipe;
use super::{Reporter, Style, words};
use crate::protocol::HostName;
use crate::rollout::summary::{HostState, HostView};
use crate::rollout::{Event, EventKind, Summary};

/// How often hosts in flight are shown while nothing happens to them.
const REMINDER: Duration = Duration::from_mins(1);

/// Writes lines that are never taken back.
#[derive(Debug)]
pub struct Lines<W> {
    out: Pipe<W>,
    style: Style,
    memory: Memory,
    told: HashMap<HostName, Told>,
}

/// What was last told of a host.
#[derive(Debug)]
struct Told {
    at: Timestamp,
    state: HostState,
}

impl<W: Write> Lines<W> {
    /// Writes to `out` in this style.
    pub fn new(out: W, style: Style) -> Self {
        Self { out: Pipe::new(out), style, memory: Memory::default(), told: HashMap::new() }
    }

    fn write(&mut self, line: &Line) {
        self.out.collect(format!("{}\n", line.in_style(self.style)).as_bytes());
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
        match self.told.get_mut(host) {
            Some(told) if told.state == state => return false,
            Some(told) => *told = Told { at: event.at, state },
            None => _ = self.told.insert(host.clone(), Told { at: event.at, state }),
        }
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
        self.memory.learn(event, summary);
        let Some(page) = Page::new(summary, self.memory).filter(|_| self.is_news(event, summary)) else {
            return Ok(());
        };
        if let Some(line) = page.event(event) {
            self.write(&line);
        }
        Ok(())
    }

    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()> {
        let Some(page) = Page::new(summary, self.memory) else {
            return Ok(());
        };
        for host in words::in_flight(summary) {
            if self.is_due(host, now) {
                self.write(&page.host_now(host, now));
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
