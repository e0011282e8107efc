//! Following a rollout that another process runs, by what is added to its journal.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::journal::{JournalError, Journals, read_events};
use crate::rollout::{Event, Summary};

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

    /// The rollout, after all that was read.
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
    use jiff::Timestamp;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::rollout::{EventKind, Outcome};

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
        io::Write::write_all(&mut torn, &line[..10]).unwrap();
        assert_eq!(look(&mut follower), []);
        io::Write::write_all(&mut torn, &[&line[10..], b"\n"].concat()).unwrap();
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
        drop(journal);
        look(&mut follower);
        assert!(!follower.is_running());
        let _taken_up = journals.take_up(&id.to_string()).unwrap();
        look(&mut follower);
        assert!(follower.is_running());
    }
}
