//! Buffers the lines of a display and tolerates a reader that leaves.

use std::io::{self, Write};

/// The buffer is written once it holds this many bytes, and shrinks back to this size.
const FULL: usize = 64 * 1024;

/// A writer whose reader may leave, as `head` does. A closed pipe is no error: the reader has seen what it wanted, and
/// nothing more is written.
#[derive(Debug)]
pub(super) struct LineWriter<W> {
    writer: Option<W>,
    /// Bytes to write with the next [flush](Self::flush).
    waiting: Vec<u8>,
}

impl<W: Write> LineWriter<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer: Some(writer), waiting: Vec::new() }
    }

    /// Buffers a line.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        write(&mut self.waiting)?;
        self.waiting.push(b'\n');
        if self.waiting.len() < FULL { Ok(()) } else { self.flush() }
    }

    /// Writes whole lines and flushes.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(lines);
        self.flush()
    }

    /// Writes the buffered bytes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.waiting.is_empty()) else {
            self.waiting.clear();
            return Ok(());
        };
        let written = writer.write_all(&self.waiting).and_then(|()| writer.flush());
        self.waiting.clear();
        self.waiting.shrink_to(FULL);
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.writer = None;
                Ok(())
            }
            result => result,
        }
    }
}
