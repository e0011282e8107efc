//! The journal of one rollout: writes it, reads it, and follows what another process appends.

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

/// How many bytes are buffered before they are written. Also the capacity that the buffer keeps.
const FULL: usize = 64 * 1024;

/// How many bytes may be written before they are synced.
const MAX_UNSYNCED: usize = 256 * 1024;

#[derive(Debug)]
pub struct Journal {
    pub(super) file: File,
    writer: EventWriter,
    /// Whole lines that are not written yet.
    lines: Vec<u8>,
    /// Bytes that are written and may not be on disk yet.
    unsynced: usize,
}

impl Journal {
    /// Appends to this file.
    pub(in crate::operator) fn on(file: File) -> Self {
        Self { file, writer: EventWriter::default(), lines: Vec::new(), unsynced: 0 }
    }

    /// Takes over the journal that this process got as its standard input. The lock came with it, so that the rollout
    /// never seems to be without a process.
    pub fn inherited() -> io::Result<Self> {
        io::stdin().as_fd().try_clone_to_owned().map(|file| Self { unsynced: 1, ..Self::on(file.into()) })
    }

    /// Records an event if it is a fact. The event survives a crash of this process once it is [written](Self::write),
    /// and a crash of the computer once it is [synced](Self::sync).
    pub fn record(&mut self, event: &Event) -> io::Result<()> {
        self.record_and_show(event, |_| {})
    }

    /// Records an event if it is a fact, and shows the JSON object that was recorded, or an empty one.
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

    /// Writes the recorded events, so that other processes can read them. Syncs when much is unsynced.
    pub fn write(&mut self) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.unsynced += self.lines.len();
            self.file.write_all(&self.lines)?;
            self.lines.clear();
            // The plan of a large fleet is longer than any later batch of events.
            self.lines.shrink_to(FULL);
        }
        if self.unsynced > MAX_UNSYNCED { self.put_on_disk() } else { Ok(()) }
    }

    /// Writes all recorded events and waits until they are on disk.
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

/// The text before the time of the first event.
const TIME_BEGINS: &str = "{\"at\":\"";

/// How many bytes of a journal contain that time.
const TIME_WITHIN: u64 = 64;

/// Returns when a rollout began. Reads only the first bytes of its journal: a plan may be long.
pub(super) fn began_at(journal: File) -> Option<Timestamp> {
    let mut bytes = Vec::new();
    journal.take(TIME_WITHIN).read_to_end(&mut bytes).ok()?;
    // The cut may be in the middle of a character.
    String::from_utf8_lossy(&bytes).strip_prefix(TIME_BEGINS)?.split('"').next()?.parse().ok()
}

/// Reads the rollout in the first line of a journal. The rest of the file may be much longer.
pub(super) fn beginning(journal: File) -> Option<(Timestamp, Arc<Rollout>)> {
    let mut line = String::new();
    BufReader::new(journal).read_line(&mut line).ok()?;
    match serde_json::from_str(&line).ok()? {
        Event { at, kind: EventKind::Begun(rollout) } => Some((at, rollout)),
        _ => None,
    }
}

/// Parses the whole lines from line number `first` on, and returns their length too. The error names the line.
pub(super) fn read_events(text: &str, first: usize) -> Result<(Vec<Event>, u64), (usize, String)> {
    let mut events = Vec::new();
    let mut whole = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // Only a line with its line feed is complete.
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

/// Reads the journal of a rollout while its process appends to it.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    /// The beginning of a line that is not complete yet.
    begun: Vec<u8>,
    lines: usize,
    summary: Summary,
    is_running: bool,
}

impl Journals {
    /// Follows the rollout with this full id from its beginning.
    pub fn follow(&self, id: &str) -> Result<Follower, JournalError> {
        let path = self.path(id);
        let file = self.file(&format!("{id}.jsonl"), OFlags::RDONLY)?;
        Ok(Follower { path, file, begun: Vec::new(), lines: 0, summary: Summary::default(), is_running: true })
    }
}

impl Follower {
    /// Passes each event since the last call to `each`, with the state after it.
    pub fn look(&mut self, mut each: impl FnMut(&Event, &Summary)) -> Result<(), JournalError> {
        // Checked first: if the process is gone now, the read below gets all that it wrote.
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

    /// Whether a process was running the rollout at the last look and had not recorded its end.
    pub const fn is_running(&self) -> bool {
        self.is_running && self.summary.outcome.is_none()
    }

    /// Whether a process holds the lock.
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
