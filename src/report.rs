//! Renders the events of a rollout for the operator.
//!
//! Displays decide nothing: they turn events into bytes. They read neither a clock nor the command line. The time comes
//! from the events and ticks; the command line says where to write, whether to color, and how wide the output is. Only
//! [`Bars`] knows that there are terminals.

mod bars;
mod describe;
mod document;
mod format;
mod json;
mod layout;
mod lines;
mod packages;
mod preview;
mod recap;
mod tables;

use std::io;

use jiff::Timestamp;

pub use bars::{Bars, Size};
pub use describe::{HostFacts, Liveness, describe, failure_reason, is_active, missed, outcome, wave_status};
pub use document::{Document, html, junit, markdown};
pub use format::DisplayDuration;
pub use json::Json;
pub use lines::Lines;
pub use packages::packages;
pub use preview::{emphasize, preview, rollback_commits};
pub use recap::recap;
pub use tables::{hosts_table, rollouts_json, rollouts_table};

use crate::protocol::HostName;
use crate::rollout::{Event, Summary};

pub trait Reporter {
    /// Shows an event that `summary` already includes. The journal has it as the JSON object `json`, which is empty for an
    /// event that is not journaled.
    fn event(&mut self, event: &Event, json: &[u8], summary: &Summary) -> io::Result<()>;

    /// Updates elapsed times while no event arrives. The operator calls this about once a second.
    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()>;

    /// Shows output of the run on a host: whole lines, already safe for a terminal.
    fn log(&mut self, _host: &HostName, _lines: &[String]) -> io::Result<()> {
        Ok(())
    }

    /// Writes buffered output. Events arrive in batches, and the lines of one batch are written together.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much of the hosts' logs a display shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogView {
    /// The last line of each log, in the display that redraws in place.
    LastLine,
    /// Every line.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Colored,
}

#[cfg(test)]
mod tests;
