//! What the operator sees.

use std::io;

use jiff::Timestamp;

use crate::rollout::{Event, Summary};

/// Shows what happens, as it happens. It decides nothing.
pub trait Reporter {
    /// Shows an event; `summary` already contains it.
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()>;

    /// Takes notice that time passes while nothing happens; called about once a second.
    fn tick(&mut self, now: Timestamp, summary: &Summary) -> io::Result<()>;
}
