//! For programs: each event as one JSON object in a line of its own.

use std::io::{self, Write};

use jiff::Timestamp;

use super::Reporter;
use super::pipe::Pipe;
use crate::rollout::{Event, Summary};

/// Writes every event as it is, at once.
#[derive(Debug)]
pub struct Json<W> {
    out: Pipe<W>,
}

impl<W: Write> Json<W> {
    /// Writes to `out`.
    pub const fn new(out: W) -> Self {
        Self { out: Pipe::new(out) }
    }
}

impl<W: Write> Reporter for Json<W> {
    fn event(&mut self, event: &Event, _: &Summary) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.out.write(&line)
    }

    fn tick(&mut self, _: Timestamp, _: &Summary) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
