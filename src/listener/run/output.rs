//! The output of a run: written to disk within bounds, and read while it is written and rotated.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{PHASE, Record, RunDir};
use crate::listener::output::{PhaseFinder, clean_lines};
use crate::protocol::Phase;

/// The length of the output's end that the verdict is based on, in bytes.
pub(super) const TAIL_BYTES: usize = 64 * 1024;

/// The size at which the output is rotated, in bytes.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// The start of the current part of the output, or of the part that is about to become current.
const PART: Record<OutputPart> = Record("part", PhantomData);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct OutputPart {
    inode: u64,
    /// The length of all output before it, in bytes.
    start: u64,
}

/// The writer of the output. It keeps the end in memory, for the verdict, and the phase that the output shows.
pub(in crate::listener) struct OutputLog {
    dir: RunDir,
    /// The current part. `None` if the disk has no room for it.
    file: Option<File>,
    written: usize,
    /// The length of all previous parts.
    start: u64,
    part_bytes: usize,
    tail: VecDeque<u8>,
    finder: PhaseFinder,
}

impl OutputLog {
    pub(in crate::listener) fn create(dir: &RunDir) -> Self {
        let [current, _] = dir.output_files();
        Self {
            dir: dir.clone(),
            file: File::create(current).ok(),
            written: 0,
            start: 0,
            part_bytes: PART_BYTES,
            tail: VecDeque::new(),
            finder: PhaseFinder::new(),
        }
    }

    /// Enters a phase. If it cannot be written down, only the progress report is lost.
    pub(in crate::listener) fn enter(&mut self, phase: Phase) {
        self.finder.phase = phase;
        self.dir.write_volatile(PHASE, &phase).ok();
    }

    /// Enters a phase unless a later one was reached.
    pub(in crate::listener) fn reach(&mut self, phase: Phase) {
        if self.phase() < phase {
            self.enter(phase);
        }
    }

    pub(in crate::listener) const fn phase(&self) -> Phase {
        self.finder.phase
    }

    pub(in crate::listener) fn tail(&self) -> String {
        let (front, back) = self.tail.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    pub(in crate::listener) fn lines(&self) -> Vec<String> {
        clean_lines(&self.tail())
    }

    /// Keeps this output. On a full disk only its end is kept: the rebuild goes on, as it may free the disk.
    pub(in crate::listener) fn write(&mut self, bytes: &[u8]) {
        if let Some(phase) = self.finder.read(bytes) {
            self.enter(phase);
        }
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        self.write_to_disk(bytes).ok();
    }

    fn write_to_disk(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + bytes.len() > self.part_bytes {
            self.rotate()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.written += bytes.len();
        }
        Ok(())
    }

    /// Begins another part, and keeps one previous part. The start of the new one is noted before files are renamed, so
    /// that readers always know it.
    fn rotate(&mut self) -> io::Result<()> {
        let [current, previous] = self.dir.output_files();
        self.start += fs::metadata(&current)?.len();
        let next = current.with_extension("next");
        let file = File::create(&next)?;
        self.dir.write_volatile(PART, &OutputPart { inode: file.metadata()?.ino(), start: self.start })?;
        fs::rename(&current, previous)?;
        fs::rename(next, current)?;
        self.file = Some(file);
        self.written = 0;
        Ok(())
    }
}

impl RunDir {
    /// Returns the end of the output, as far as the disk took it.
    pub(in crate::listener) fn output_tail(&self) -> String {
        let page = |offset| OutputPage::read(self, offset, TAIL_BYTES).ok().flatten().unwrap_or_default();
        let OutputPage { offset, bytes, .. } = page(page(u64::MAX).offset.saturating_sub(TAIL_BYTES as u64));
        // The output may have been rotated just before the end.
        let rest = page(offset + bytes.len() as u64).bytes;
        String::from_utf8_lossy(&[bytes, rest].concat()).into_owned()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::listener) struct OutputPage {
    pub(in crate::listener) offset: u64,
    pub(in crate::listener) bytes: Vec<u8>,
    /// Whether nothing followed it when it was read.
    pub(in crate::listener) is_last: bool,
}

impl OutputPage {
    /// Reads the page at this offset, or at the beginning of what is kept; `None` if nothing is kept.
    pub(in crate::listener) fn read(dir: &RunDir, offset: u64, most: usize) -> io::Result<Option<Self>> {
        let [current, previous] = dir.output_files();
        let (current, part) = (open(&current)?, dir.get(PART));
        let previous = open(&previous)?;
        if current.is_none() && previous.is_none() {
            return Ok(None);
        }
        // The length is read after the note: a part that the note does not name is complete by then.
        let (inode, length) = inode_and_length(current.as_ref())?;
        let (previous_inode, previous_length) = inode_and_length(previous.as_ref())?;
        // The current part may have been rotated in between.
        let kept_before = if previous_inode == inode { 0 } else { previous_length };
        let start = match part {
            Some(part) if Some(part.inode) == inode => part.start,
            Some(part) => part.start.saturating_sub(length),
            None => kept_before,
        };
        let first = start.saturating_sub(kept_before);
        let offset = offset.clamp(first, start + length);
        let (file, at) = if offset < start { (previous, offset - first) } else { (current, offset - start) };
        let mut bytes = Vec::new();
        if let Some(mut file) = file {
            file.seek(SeekFrom::Start(at))?;
            file.take(most as u64).read_to_end(&mut bytes)?;
        }
        Ok(Some(Self { is_last: offset >= start && bytes.len() < most, offset, bytes }))
    }

    /// Leaves an incomplete character at the end for the next page.
    pub(in crate::listener) fn leave_half_character(&mut self) {
        let rest = self.bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        if std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none()) {
            let whole = self.bytes.len() - rest.len();
            self.bytes.truncate(whole);
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the inode and the length of a file.
fn inode_and_length(file: Option<&File>) -> io::Result<(Option<u64>, u64)> {
    let metadata = file.map(File::metadata).transpose()?;
    Ok(metadata.map_or((None, 0), |metadata| (Some(metadata.ino()), metadata.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(dir: &RunDir, offset: u64, most: usize) -> (u64, String, bool) {
        let page = OutputPage::read(dir, offset, most).unwrap().unwrap();
        (page.offset, String::from_utf8(page.bytes).unwrap(), page.is_last)
    }

    /// Reads the output "0123456789", without its first two bytes, at each step of a rotation.
    #[test]
    fn a_place_means_the_same_while_a_part_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().to_owned());
        assert_eq!(OutputPage::read(&dir, 0, 8).unwrap(), None);
        let [current, previous] = dir.output_files();
        let next = current.with_extension("next");
        fs::write(&current, "23456").unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let asked = |place| page(&dir, place, 3);
        dir.write_volatile(PART, &OutputPart { inode: inode(&current), start: 2 }).unwrap();
        assert_eq!([asked(0), asked(5)], [(2, "234".to_owned(), false), (5, "56".to_owned(), true)]);

        fs::write(&next, "").unwrap();
        dir.write_volatile(PART, &OutputPart { inode: inode(&next), start: 7 }).unwrap();
        assert_eq!([asked(0), asked(5)], [(2, "234".to_owned(), false), (5, "56".to_owned(), true)]);
        fs::rename(&current, &previous).unwrap();
        assert_eq!([asked(0), asked(5)], [(2, "234".to_owned(), false), (5, "56".to_owned(), false)]);
        assert_eq!(asked(7), (7, String::new(), true));
        fs::rename(&next, &current).unwrap();
        fs::write(&current, "789").unwrap();
        assert_eq!([asked(4), asked(7)], [(4, "456".to_owned(), false), (7, "789".to_owned(), false)]);
        assert_eq!([asked(10), asked(99)], [(10, String::new(), true), (10, String::new(), true)]);
        // After a reboot the length of removed output is unknown.
        fs::remove_file(dir.path().join("part")).unwrap();
        assert_eq!(page(&dir, 5, 9), (5, "789".to_owned(), true));
    }

    #[test]
    fn a_half_character_is_left_for_the_next_page_and_garbage_is_not() {
        for (bytes, left) in [(&b"a\xc3"[..], 1), (b"a\xc3\xa4", 3), (b"a\xff", 2), (b"\xffa\xe2\x82", 2), (b"", 0)] {
            let mut page = OutputPage { offset: 0, bytes: bytes.to_owned(), is_last: false };
            page.leave_half_character();
            assert_eq!(page.bytes.len(), left, "{bytes:?}");
        }
    }

    #[test]
    fn output_is_bounded_and_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().to_owned());
        let mut log = OutputLog { part_bytes: 100, ..OutputLog::create(&dir) };
        for number in 0..1_000 {
            log.write(format!("line {number:05}\n").as_bytes());
        }
        log.write(b"activating the configuration...\n");
        let [current, previous] = dir.output_files();
        let size = |path| fs::metadata(path).unwrap().len();
        assert!(size(current) <= 100 && size(previous) <= 100);
        assert!(dir.output_tail().ends_with("line 00998\nline 00999\nactivating the configuration...\n"));
        assert_eq!((log.phase(), dir.phase()), (Phase::Activate, Phase::Activate));
    }

    #[test]
    fn the_end_is_there_without_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path().to_owned(), "/dev/full/run".into());
        let mut log = OutputLog::create(&dir);
        for number in 0..20_000 {
            log.write(format!("line {number:05}\n").as_bytes());
        }
        let lines = log.lines();
        assert_eq!(lines.last().unwrap(), "line 19999");
        assert!((5_000..6_000).contains(&lines.len()), "{}", lines.len());
        assert_eq!(dir.output_tail(), "");
    }
}
