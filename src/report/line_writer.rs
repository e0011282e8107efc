//! Where a display goes.

use std::io::{self, Write};

/// How much is taken before it is written without being asked to, in bytes. More room than that is not kept.
const FULL: usize = 64 * 1024;

/// A writer whose reader may leave. One that has left, as `head` does, has seen what it wanted to: that is no error, and
/// nothing more is written.
#[derive(Debug)]
pub(super) struct LineWriter<W> {
    writer: Option<W>,
    /// What is to be written with the next [flush](Self::flush).
    waiting: Vec<u8>,
}

impl<W: Write> LineWriter<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer: Some(writer), waiting: Vec::new() }
    }

    /// Takes a line, to be written together with others.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        write(&mut self.waiting)?;
        self.waiting.push(b'\n');
        if self.waiting.len() < FULL { Ok(()) } else { self.flush() }
    }

    /// Writes whole lines, so that they can be seen at once.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(lines);
        self.flush()
    }

    /// Writes what was taken, so that it can be seen.
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
