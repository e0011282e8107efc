//! The output of a run: on disk, within bounds; its end in memory, for the verdict; and the phase that it shows.

use std::collections::VecDeque;

use crate::listener::output::{PhaseFinder, clean_lines};
use crate::listener::run::{OutputWriter, RunDir, TAIL_BYTES, files};
use crate::protocol::Phase;

/// The size at which the output is rotated, in bytes.
const PART_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Log {
    dir: RunDir,
    output: OutputWriter,
    tail: VecDeque<u8>,
    finder: PhaseFinder,
}

impl Log {
    pub(super) fn create(dir: &RunDir) -> Self {
        Self::with_parts_of(PART_BYTES, dir)
    }

    fn with_parts_of(part_bytes: usize, dir: &RunDir) -> Self {
        let output = OutputWriter::with_parts_of(part_bytes, dir.clone());
        Self { dir: dir.clone(), output, tail: VecDeque::new(), finder: PhaseFinder::new() }
    }

    /// Enters a phase. If it cannot be written down, only the progress report is lost.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.finder.phase = phase;
        self.dir.note(files::PHASE, &phase).ok();
    }

    /// Enters a phase unless a later one was reached.
    pub(super) fn reach(&mut self, phase: Phase) {
        if self.phase() < phase {
            self.enter(phase);
        }
    }

    pub(super) fn tail(&self) -> String {
        let (front, back) = self.tail.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    pub(super) const fn phase(&self) -> Phase {
        self.finder.phase
    }

    pub(super) fn lines(&self) -> Vec<String> {
        clean_lines(&self.tail())
    }

    /// Keeps this output. On a full disk only its end is kept: the rebuild goes on, as it may free the disk.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if let Some(phase) = self.finder.read(bytes) {
            self.dir.note(files::PHASE, &phase).ok();
        }
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        self.output.write(bytes).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn output_is_bounded_and_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().to_owned());
        let mut log = Log::with_parts_of(100, &dir);
        for number in 0..1_000 {
            log.write(format!("line {number:05}\n").as_bytes());
        }
        log.write(b"activating the configuration...\n");
        let (current, previous) = dir.output_files();
        let size = |path| fs::metadata(path).unwrap().len();
        assert!(size(current) <= 100 && size(previous) <= 100);
        assert!(dir.output_tail().ends_with("line 00998\nline 00999\nactivating the configuration...\n"));
        assert_eq!((log.phase(), dir.phase()), (Phase::Activate, Phase::Activate));
    }

    #[test]
    fn the_end_is_there_without_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path().to_owned(), "/dev/full/run".into());
        let mut log = Log::create(&dir);
        for number in 0..20_000 {
            log.write(format!("line {number:05}\n").as_bytes());
        }
        let lines = log.lines();
        assert_eq!(lines.last().unwrap(), "line 19999");
        assert!((5_000..6_000).contains(&lines.len()), "{}", lines.len());
        assert_eq!(dir.output_tail(), "");
    }
}
