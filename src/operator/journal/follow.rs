//! Reads the journal of a rollout, also while its process appends to it.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::JournalError;
use crate::rollout::{Event, EventKind, Rollout, Summary};

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

/// The journal of one rollout, read up to the end of its last whole line.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    pub(super) file: File,
    lines: usize,
    /// The length of the whole lines, in bytes.
    pub(super) whole: u64,
    pub(crate) summary: Summary,
    /// Whether a process held the lock at the last look.
    pub(super) is_held: bool,
}

impl Follower {
    pub(super) fn of(path: PathBuf, file: File) -> Self {
        Self { path, file, lines: 0, whole: 0, summary: Summary::default(), is_held: true }
    }

    /// Passes each event since the last call to `each`, with the state after it.
    pub fn look(&mut self, each: impl FnMut(&Event, &Summary)) -> Result<(), JournalError> {
        // Checked first: if the process is gone now, the read below gets all that it wrote.
        self.is_held = is_held(&self.file).map_err(|error| JournalError::Io(self.path.clone(), error))?;
        self.read_on(each)
    }

    /// Does the same without looking at the lock.
    pub(super) fn read_on(&mut self, mut each: impl FnMut(&Event, &Summary)) -> Result<(), JournalError> {
        let mut text = Vec::new();
        // A line that was not whole is read again: a process that resumes the rollout cuts it off.
        let read = self.file.seek(SeekFrom::Start(self.whole)).and_then(|_| self.file.read_to_end(&mut text));
        read.map_err(|error| JournalError::Io(self.path.clone(), error))?;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // Only a line with its line feed is complete.
            let Some(object) = line.strip_suffix(b"\n") else { break };
            let event = self.parse(object)?;
            self.lines += 1;
            self.whole += line.len() as u64;
            self.summary.apply(&event);
            each(&event, &self.summary);
        }
        Ok(())
    }

    fn parse(&self, object: &[u8]) -> Result<Event, JournalError> {
        let corrupt = |reason| JournalError::Corrupt { path: self.path.clone(), line: self.lines + 1, reason };
        let event: Event = serde_json::from_slice(object).map_err(|error| corrupt(error.to_string()))?;
        match event.kind {
            EventKind::Begun(_) if self.lines > 0 => Err(corrupt("another rollout begins here".to_owned())),
            _ => Ok(event),
        }
    }

    /// Whether a process was running the rollout at the last look and had not recorded its end.
    pub const fn is_running(&self) -> bool {
        self.is_held && self.summary.outcome.is_none()
    }
}

fn is_held(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        // Unlocks explicitly: a child process that is being spawned has a copy of this file until it calls `exec`.
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::operator::journal::Journals;
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
        let mut torn = File::options().append(true).open(journals.path(&id, "jsonl")).unwrap();
        torn.write_all(&line[..10]).unwrap();
        assert_eq!(look(&mut follower), []);
        torn.write_all(&[&line[10..], b"\n"].concat()).unwrap();
        assert_eq!(look(&mut follower), [ended]);
        assert_eq!(follower.summary.outcome, Some(Outcome::Failed));
    }

    #[test]
    fn a_torn_line_that_was_seen_may_be_cut_off_and_another_written() {
        let folder = tempfile::tempdir().unwrap();
        let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
        let id = rollout.id.to_string();
        let mut journal = journals.create(rollout.id).unwrap();
        let begun = Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Begun(rollout) };
        journal.record(&begun).and_then(|()| journal.write()).unwrap();
        give_back(&journal);
        let mut follower = journals.follow(&id).unwrap();
        let mut torn = File::options().append(true).open(journals.path(&id, "jsonl")).unwrap();
        torn.write_all(b"{\"at\":\"1970-01-01T00:00:00Z\",\"event\":\"a text that is longer than the next event\"")
            .unwrap();
        assert_eq!(look(&mut follower), [begun]);

        let (_, mut another) = journals.take_over(&id).unwrap();
        let resumes = Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Resumed };
        another.record(&resumes).and_then(|()| another.write()).unwrap();
        assert_eq!(look(&mut follower), [resumes]);
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
        let _taken_up = journals.take_over(&id.to_string()).unwrap();
        look(&mut follower);
        assert!(follower.is_running());
    }
}
