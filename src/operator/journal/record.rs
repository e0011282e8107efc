//! The record of one rollout: writing it, reading it, and following what another process adds to it.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::OFlags;

use super::{JournalError, Journals};
use crate::rollout::{Event, EventKind, EventWriter, Rollout, Summary};

/// How much is recorded before it is written without being asked to, in bytes. More room than that is not kept.
const FULL: usize = 64 * 1024;

/// How much may be written before it is synced, in bytes.
const MAX_UNSYNCED: usize = 256 * 1024;

#[derive(Debug)]
pub struct Journal {
    pub(super) file: File,
    writer: EventWriter,
    /// Whole lines that are not written yet.
    lines: Vec<u8>,
    /// How much was written that may not be on disk yet, in bytes.
    unsynced: usize,
}

impl Journal {
    /// A journal that goes on at the end of a file.
    pub(in crate::operator) fn on(file: File) -> Self {
        Self { file, writer: EventWriter::default(), lines: Vec::new(), unsynced: 0 }
    }

    /// The journal that this process was given as its input. The lock came with it, so that there is no moment at which
    /// the rollout seems to be nobody's.
    pub fn inherited() -> io::Result<Self> {
        io::stdin().as_fd().try_clone_to_owned().map(|file| Self { unsynced: 1, ..Self::on(file.into()) })
    }

    /// Records an event if it is a fact. It outlives this process once it is [written](Self::write), and the machine once it
    /// is [synced](Self::sync).
    pub fn record(&mut self, event: &Event) -> io::Result<()> {
        self.record_and_show(event, |_| {})
    }

    /// The same, and shows the JSON object that is on record of it, which is empty where it is no fact.
    pub(in crate::operator) fn record_and_show(&mut self, event: &Event, show: impl FnOnce(&[u8])) -> io::Result<()> {
        if event.kind.is_fact() {
            let begins = self.lines.len();
            self.writer.write(event, &mut self.lines)?;
            show(self.lines.get(begins..).unwrap_or_default());
            self.lines.push(b'\n');
        } else {
            show(&[]);
        }
        if self.lines.len() < FULL { Ok(()) } else { self.write() }
    }

    /// Writes what was recorded, which others can read from here on. When that has come to much, it is synced as well, so that
    /// it need not be done all at once in the end.
    pub fn write(&mut self) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.unsynced += self.lines.len();
            self.file.write_all(&self.lines)?;
            self.lines.clear();
            // The plan of a large fleet is longer than all that comes after it at once.
            self.lines.shrink_to(FULL);
        }
        if self.unsynced > MAX_UNSYNCED { self.put_on_disk() } else { Ok(()) }
    }

    /// Waits until all that was recorded is on disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if self.unsynced > 0 { self.put_on_disk() } else { Ok(()) }
    }

    fn put_on_disk(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.file.sync_data()
    }
}

impl From<Journal> for Stdio {
    fn from(journal: Journal) -> Self {
        journal.file.into()
    }
}

/// What stands in front of the time of the first event.
const TIME_BEGINS: &str = "{\"at\":\"";

/// How much of a journal has that time in it, in bytes.
const TIME_WITHIN: u64 = 64;

/// When a rollout began, by the first bytes of its journal: a plan may be long.
pub(super) fn began_at(journal: File) -> Option<Timestamp> {
    let mut bytes = Vec::new();
    journal.take(TIME_WITHIN).read_to_end(&mut bytes).ok()?;
    // What stands behind the time may be cut in the middle of a character.
    String::from_utf8_lossy(&bytes).strip_prefix(TIME_BEGINS)?.split('"').next()?.parse().ok()
}

/// What the first line of a journal says, which is as much as a plan is long. What follows may be a lot more.
pub(super) fn beginning(journal: File) -> Option<(Timestamp, Arc<Rollout>)> {
    let mut line = String::new();
    BufReader::new(journal).read_line(&mut line).ok()?;
    match serde_json::from_str(&line).ok()? {
        Event { at, kind: EventKind::Begun(rollout) } => Some((at, rollout)),
        _ => None,
    }
}

/// The events of all whole lines from this one on, and where they end. An error names the line that cannot be read, and why.
pub(super) fn read_events(text: &str, first: usize) -> Result<(Vec<Event>, u64), (usize, String)> {
    let mut events = Vec::new();
    let mut whole = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // Only what is in front of a line's end is known to be all of it.
        let Some(object) = line.strip_suffix('\n') else { break };
        let number = first + index;
        let event: Event = serde_json::from_str(object).map_err(|error| (number, error.to_string()))?;
        if number > 1 && matches!(event.kind, EventKind::Begun(_)) {
            return Err((number, "another rollout begins here".to_owned()));
        }
        events.push(event);
        whole += line.len() as u64;
    }
    Ok((events, whole))
}

/// The journal of a rollout, as far as it was read.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    /// What was read behind the last whole line.
    begun: Vec<u8>,
    lines: usize,
    summary: Summary,
    is_running: bool,
}

impl Journals {
    /// Follows the rollout with this whole id. Nothing of it was read yet.
    pub fn follow(&self, id: &str) -> Result<Follower, JournalError> {
        let path = self.path(id);
        let file = self.file(&format!("{id}.jsonl"), OFlags::RDONLY)?;
        Ok(Follower { path, file, begun: Vec::new(), lines: 0, summary: Summary::default(), is_running: true })
    }
}

impl Follower {
    /// Shows what was recorded since the last look, each event with what the rollout has come to by it.
    pub fn look(&mut self, mut each: impl FnMut(&Event, &Summary)) -> Result<(), JournalError> {
        // First, so that what a process has left behind is all read when it is known to be gone.
        self.is_running = self.is_held().map_err(|error| JournalError::Io(self.path.clone(), error))?;
        self.file.read_to_end(&mut self.begun).map_err(|error| JournalError::Io(self.path.clone(), error))?;
        let text = String::from_utf8_lossy(&self.begun);
        let (events, whole) = read_events(&text, self.lines + 1).map_err(|(line, reason)| {
            let path = self.path.clone();
            JournalError::Corrupt { path, line, reason }
        })?;
        let whole = usize::try_from(whole).unwrap_or(usize::MAX).min(self.begun.len());
        self.begun.drain(..whole);
        self.lines += events.len();
        for event in &events {
            self.summary.apply(event);
            each(event, &self.summary);
        }
        Ok(())
    }

    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether a process was running it at the last look, and had not recorded its end.
    pub const fn is_running(&self) -> bool {
        self.is_running && self.summary.outcome.is_none()
    }

    /// Whether a process has the lock, which is left to it.
    fn is_held(&self) -> io::Result<bool> {
        match self.file.try_lock_shared() {
            Ok(()) => self.file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::journal::tests::give_back;
    use crate::operator::testing::rollout;
    use crate::rollout::Outcome;

    fn look(follower: &mut Follower) -> Vec<Event> {
        let mut events = Vec::new();
        follower.look(|event, _| events.push(event.clone())).unwrap();
        events
    }

    #[test]
    fn what_is_added_is_read_once_and_a_line_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
        let id = rollout.id.to_string();
        let event = |kind| Event { at: Timestamp::UNIX_EPOCH, kind };
        let mut journal = journals.create(rollout.id).unwrap();
        let mut follower = journals.follow(&id).unwrap();
        assert_eq!(look(&mut follower), []);
        journal.record(&event(EventKind::Begun(rollout))).and_then(|()| journal.write()).unwrap();
        assert_eq!(look(&mut follower).len(), 1);
        assert_eq!(look(&mut follower), []);
        assert!(follower.is_running());

        let ended = event(EventKind::Ended { outcome: Outcome::Failed });
        let line = serde_json::to_vec(&ended).unwrap();
        let mut torn = File::options().append(true).open(journals.path(&id)).unwrap();
        torn.write_all(&line[..10]).unwrap();
        assert_eq!(look(&mut follower), []);
        torn.write_all(&[&line[10..], b"\n"].concat()).unwrap();
        assert_eq!(look(&mut follower), [ended]);
        assert_eq!(follower.summary().outcome, Some(Outcome::Failed));
    }

    #[test]
    fn a_rollout_whose_process_is_gone_is_not_running_and_can_be_resumed_while_it_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
        let id = rollout.id;
        let mut journal = journals.create(id).unwrap();
        let begun = Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Begun(rollout) };
        journal.record(&begun).and_then(|()| journal.write()).unwrap();
        let mut follower = journals.follow(&id.to_string()).unwrap();
        look(&mut follower);
        give_back(&journal);
        look(&mut follower);
        assert!(!follower.is_running());
        let _taken_up = journals.take_up(&id.to_string()).unwrap();
        look(&mut follower);
        assert!(follower.is_running());
    }
}
