//! The output of a run on disk: written within bounds, and read while it is written and rotated.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RunDir;
use super::files::Record;

/// The length of the output's end that the verdict is based on, in bytes.
pub(in crate::listener) const TAIL_BYTES: usize = 64 * 1024;

/// The start of the current part of the output, or of the part that is about to become current.
const PART: Record<OutputPart> = Record("part", PhantomData);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct OutputPart {
    inode: u64,
    /// The length of all output before it, in bytes.
    start: u64,
}

impl RunDir {
    /// Returns the files of the current part and of the previous one.
    pub(in crate::listener) fn output_files(&self) -> (PathBuf, PathBuf) {
        (self.kept().join("output.log"), self.kept().join("output.log.1"))
    }

    /// Returns the end of the output, as far as the disk took it.
    pub(in crate::listener) fn output_tail(&self) -> String {
        let (current, previous) = self.output_files();
        let tail = tail_of(&current, TAIL_BYTES);
        // The output may have been rotated just before the end.
        let before = tail_of(&previous, TAIL_BYTES.saturating_sub(tail.len()));
        String::from_utf8_lossy(&[before, tail].concat()).into_owned()
    }
}

/// Returns the last bytes of a file, at most so many; none if it cannot be read.
fn tail_of(path: &Path, bytes: usize) -> Vec<u8> {
    let bytes = bytes as u64;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(bytes).read_to_end(&mut tail)?;
        Ok(tail)
    };
    read().unwrap_or_default()
}

/// Writes the output. At a certain size it rotates the file, and keeps one previous part.
pub(in crate::listener) struct OutputWriter {
    dir: RunDir,
    /// `None` if the disk has no room for it.
    file: Option<File>,
    written: usize,
    /// The length of all previous parts.
    start: u64,
    part_bytes: usize,
}

impl OutputWriter {
    pub(in crate::listener) fn with_parts_of(part_bytes: usize, dir: RunDir) -> Self {
        Self { file: File::create(dir.output_files().0).ok(), dir, written: 0, start: 0, part_bytes }
    }

    pub(in crate::listener) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + bytes.len() > self.part_bytes {
            self.set_aside()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.written += bytes.len();
        }
        Ok(())
    }

    /// Rotates the output. The start of the new part is noted before files are renamed, so that readers always know it.
    fn set_aside(&mut self) -> io::Result<()> {
        let (current, previous) = self.dir.output_files();
        self.start += fs::metadata(&current)?.len();
        let next = current.with_extension("next");
        let file = File::create(&next)?;
        self.dir.note(PART, &OutputPart { inode: file.metadata()?.ino(), start: self.start })?;
        fs::rename(&current, previous)?;
        fs::rename(next, current)?;
        self.file = Some(file);
        self.written = 0;
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct OutputPage {
    pub(in crate::listener) offset: u64,
    pub(in crate::listener) bytes: Vec<u8>,
    /// Whether nothing followed it when it was read.
    pub(in crate::listener) is_last: bool,
}

impl OutputPage {
    /// Reads the page at this offset, or at the beginning of what is kept; `None` if nothing is kept.
    pub(in crate::listener) fn read(dir: &RunDir, offset: u64, most: usize) -> io::Result<Option<Self>> {
        let (current, previous) = dir.output_files();
        let (current, part) = (open(&current)?, dir.get(PART));
        let previous = open(&previous)?;
        if current.is_none() && previous.is_none() {
            return Ok(None);
        }
        // The length is read after the note: a part that the note does not name is complete by then.
        let (inode, length) = facts(current.as_ref())?;
        let (previous_inode, previous_length) = facts(previous.as_ref())?;
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
fn facts(file: Option<&File>) -> io::Result<(Option<u64>, u64)> {
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
        let (current, previous) = dir.output_files();
        let next = current.with_extension("next");
        fs::write(&current, "23456").unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let asked = |place| page(&dir, place, 3);
        dir.note(PART, &OutputPart { inode: inode(&current), start: 2 }).unwrap();
        assert_eq!([asked(0), asked(5)], [(2, "234".to_owned(), false), (5, "56".to_owned(), true)]);

        fs::write(&next, "").unwrap();
        dir.note(PART, &OutputPart { inode: inode(&next), start: 7 }).unwrap();
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
}
