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

pub use bars::{Bars, Size};
pub use describe::{
    HostFacts, Liveness, describe, failure_reason, is_active, last_response, missed, outcome, wave_status,
};
pub use document::{Document, html, junit, markdown};
pub use format::DisplayDuration;
pub use json::Json;
pub use lines::Lines;
pub use packages::packages;
pub use preview::{emphasize, preview, rollback_commits};
pub use recap::recap;
pub use tables::{hosts_table, rollouts_json, rollouts_table};

pub use crate::operator::{LogView, Reporter};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Colored,
}

#[cfg(test)]
mod tests;
