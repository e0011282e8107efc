//! Where a display goes.

use std::io::{self, Write};

/// A writer whose reader may leave. One that has left, as `head` does, has seen what it wanted to: that is no error, and
/// nothing more is written.
#[derive(Debug)]
pub(super) struct Pipe<W> {
    writer: Option<W>,
}

impl<W: Write> Pipe<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer: Some(writer) }
    }

    /// Writes whole lines, so that they can be seen at once.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        match writer.write_all(lines).and_then(|()| writer.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.writer = None;
                Ok(())
            }
            result => result,
        }
    }
}
