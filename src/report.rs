//! What the operator sees: folds over the events of a rollout.
//!
//! Nothing is decided here: events in, bytes out. There is no clock or command line in it either: the time is that of the
//! events and ticks, and the command line says where to write, whether to color it and how much room there is. Only
//! [`Bars`] knows that there are terminals.

mod bars;
mod describe;
mod document;
mod format;
mod hosts;
mod json;
mod layout;
mod line_writer;
mod lines;
mod packages;
mod preview;
mod recap;
mod rollouts;
mod wording;

use std::io;

use jiff::Timestamp;

pub use bars::{Bars, Size};
pub use describe::{HostFacts, describe};
pub use document::{Document, html, junit, markdown};
pub use format::DisplayDuration;
pub use hosts::{HostsView, hosts_table};
pub use json::Json;
pub use lines::Lines;
pub use packages::packages;
pub use preview::{emphasize, preview, rollback_commits};
pub use recap::recap;
pub use rollouts::{Liveness, outcome, rollouts_json, rollouts_table};
pub use wording::{cause, missed};

use crate::protocol::HostName;
use crate::rollout::{Event, Summary};

pub trait Reporter {
    /// Shows an event, which is part of `summary` already.
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()>;

    /// Shows an event that the journal has as this JSON object; the object is empty for an event that is not journaled.
    fn recorded(&mut self, event: &Event, _json: &[u8], summary: &Summary) -> io::Result<()> {
        self.event(event, summary)
    }

    /// Shows that time passes while nothing happens. To be called about once a second.
    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()>;

    /// Shows what a run on a host has written, in whole lines that are clean enough for a terminal.
    fn log(&mut self, _host: &HostName, _lines: &[String]) -> io::Result<()> {
        Ok(())
    }

    /// Lets all of that be seen. Events come in crowds, and what they have to say is written together.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is shown of the logs of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogView {
    /// The last line of each, where it can stand in place.
    LastLine,
    /// All of them.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// Symbols are colored with ANSI sequences.
    Colored,
}

#[cfg(test)]
mod tests;
