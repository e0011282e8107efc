//! The output of a run: written to disk within bounds, and read while it is written and rotated.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem;

use super::{PHASE, RunDir};
use crate::listener::output::{MAX_LINE_BYTES, begins_activation, clean_lines};
use crate::protocol::Phase;

/// The length of the output's end that the verdict is based on, in bytes.
pub(super) const TAIL_BYTES: usize = 64 * 1024;

/// The size at which the output is rotated, in bytes.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// The writer of the output. It keeps the end in memory, for the verdict, and the phase of the run.
pub(crate) struct OutputLog {
    dir: RunDir,
    /// The current part. `None` if the disk has no room for it.
    file: Option<File>,
    /// The length of all previous parts.
    start: u64,
    part_bytes: u64,
    tail: VecDeque<u8>,
    pub(crate) phase: Phase,
    /// Whether the program that writes may activate a system. The output of a build proves nothing.
    pub(crate) may_activate: bool,
    /// The beginning of a line whose end is not there yet.
    line: Vec<u8>,
}

impl OutputLog {
    pub(crate) fn create(dir: &RunDir) -> Self {
        Self {
            file: File::create(dir.output_part(0)).ok(),
            dir: dir.clone(),
            start: 0,
            part_bytes: PART_BYTES,
            tail: VecDeque::new(),
            phase: Phase::Resolve,
            may_activate: false,
            line: Vec::new(),
        }
    }

    /// Enters a phase. If it cannot be written down, only the progress report is lost.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.dir.write_volatile(PHASE, &phase).ok();
    }

    /// Enters a phase unless a later one was reached.
    pub(crate) fn reach(&mut self, phase: Phase) {
        if self.phase < phase {
            self.enter(phase);
        }
    }

    pub(crate) fn tail(&self) -> String {
        let (front, back) = self.tail.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        clean_lines(&self.tail())
    }

    /// Keeps this output. On a full disk only its end is kept: the rebuild goes on, as it may free the disk.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.may_activate && self.phase < Phase::Activate {
            self.look_for_activation(bytes);
        }
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        self.write_to_disk(bytes).ok();
    }

    fn look_for_activation(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                if begins_activation(&String::from_utf8_lossy(&self.line)) {
                    self.reach(Phase::Activate);
                }
                self.line.clear();
            }
        }
    }

    fn write_to_disk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let length = file.metadata()?.len();
        if length > 0 && length + bytes.len() as u64 > self.part_bytes {
            let start = self.start + length;
            *file = File::create_new(self.dir.output_part(start))?;
            let previous = mem::replace(&mut self.start, start);
            // The part before the new one is kept.
            for (_, path) in self.dir.output_parts().range(..previous) {
                fs::remove_file(path).ok();
            }
        }
        file.write_all(bytes)
    }
}

impl RunDir {
    /// Returns the end of the output, as far as the disk took it.
    pub(crate) fn output_tail(&self) -> String {
        let page = |offset, most| OutputPage::read(self, offset, most).unwrap_or_default();
        let end = page(u64::MAX, 0).offset;
        String::from_utf8_lossy(&page(end.saturating_sub(TAIL_BYTES as u64), TAIL_BYTES).bytes).into_owned()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OutputPage {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// Whether nothing followed it when it was read.
    pub(crate) is_last: bool,
}

impl OutputPage {
    /// Reads the page at this offset, or at the beginning of what is kept; `None` if nothing is kept.
    pub(crate) fn read(dir: &RunDir, offset: u64, most: usize) -> Option<Self> {
        // A part may be removed before it can be opened.
        let parts = dir.output_parts().into_iter().filter_map(|(start, path)| Some((start, File::open(path).ok()?)));
        let mut parts: Vec<(u64, File)> = parts.collect();
        let (first, _) = parts.first()?;
        let (last, file) = parts.last()?;
        let offset = offset.clamp(*first, *last + file.metadata().ok()?.len());
        let mut bytes = Vec::new();
        for (start, file) in &mut parts {
            // There is nothing to read behind the end of an earlier part.
            file.seek(SeekFrom::Start(offset.saturating_sub(*start))).ok()?;
            file.take((most - bytes.len()) as u64).read_to_end(&mut bytes).ok()?;
        }
        Some(Self { is_last: bytes.len() < most, offset, bytes })
    }

    /// Leaves an incomplete character at the end for the next page.
    pub(crate) fn leave_half_character(&mut self) {
        let rest = self.bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        if std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none()) {
            let whole = self.bytes.len() - rest.len();
            self.bytes.truncate(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads the output "0123456789" while it is rotated: a part that is set aside keeps its place.
    #[test]
    fn a_place_means_the_same_while_parts_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().to_owned());
        let page = |offset, most| {
            let page = OutputPage::read(&dir, offset, most)?;
            Some((page.offset, String::from_utf8(page.bytes).unwrap(), page.is_last))
        };
        let read = |offset, text: &str, is_last| Some((offset, text.to_owned(), is_last));
        assert_eq!(page(0, 8), None);
        fs::write(folder.path().join("output.x.log"), "foreign").unwrap();
        fs::write(dir.output_part(2), "23456").unwrap();
        assert_eq!([page(0, 3), page(5, 3)], [read(2, "234", false), read(5, "56", true)]);
        fs::write(dir.output_part(7), "").unwrap();
        assert_eq!([page(5, 3), page(7, 3)], [read(5, "56", true), read(7, "", true)]);
        fs::write(dir.output_part(7), "789").unwrap();
        assert_eq!([page(4, 3), page(5, 9)], [read(4, "456", false), read(5, "56789", true)]);
        assert_eq!([page(10, 3), page(99, 3)], [read(10, "", true), read(10, "", true)]);
        fs::remove_file(dir.output_part(2)).unwrap();
        assert_eq!(page(5, 9), read(7, "789", true));
    }

    #[test]
    fn an_activation_is_found_in_pieces_and_is_no_word_inside_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().to_owned());
        let mut log = OutputLog::create(&dir);
        let mut phase = |bytes: &[u8]| {
            log.write(bytes);
            log.phase
        };
        assert_eq!(phase(b"activating the configuration...\n"), Phase::Resolve, "a build may print anything");
        log.may_activate = true;
        let mut phase = |bytes: &[u8]| {
            log.write(bytes);
            log.phase
        };
        assert_eq!(phase(b"building\nnginx> activating the configuration...\nstopp"), Phase::Resolve);
        assert_eq!(phase(b"ing the following un"), Phase::Resolve);
        assert_eq!(phase(b"its: x.service\n"), Phase::Activate);
        assert_eq!(dir.phase(), Phase::Activate);
    }

    proptest! {
        #[test]
        fn how_output_is_cut_into_pieces_does_not_matter(text in "(activating the configuration\n|x|\n| ){0,12}", cut in 0..200usize) {
            let folder = tempfile::tempdir().unwrap();
            let dir = RunDir::in_one(folder.path().to_owned());
            let (before, after) = text.as_bytes().split_at(cut.min(text.len()));
            let phase = |pieces: &[&[u8]]| {
                let mut log = OutputLog { may_activate: true, ..OutputLog::create(&dir) };
                for piece in pieces {
                    log.write(piece);
                }
                log.phase
            };
            prop_assert_eq!(phase(&[text.as_bytes()]), phase(&[before, after]));
        }
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
        log.may_activate = true;
        log.write(b"activating the configuration...\n");
        let sizes = dir.output_parts().into_values().map(|path| fs::metadata(path).unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|&size| size <= 100), "{sizes:?}");
        assert!(dir.output_tail().ends_with("line 00998\nline 00999\nactivating the configuration...\n"));
        assert_eq!((log.phase, dir.phase()), (Phase::Activate, Phase::Activate));
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
