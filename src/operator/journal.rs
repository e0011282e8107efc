//! The journal of a rollout: one JSON event a line, written and synced before the messages it describes are sent.
//!
//! A rollout's state is the fold of its journal, so that another process can show it, or resume it after a crash. The
//! process that runs a rollout holds a lock on its journal.

mod follow;

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use miette::Diagnostic;
use rustix::fs::OFlags;
use thiserror::Error;

pub use self::follow::Follower;
use self::follow::{began_at, beginning};
use crate::clock;
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::protocol::RolloutId;
use crate::rollout::{Event, EventWriter, Rollout, Summary};
use crate::text::did_you_mean;

const FOLDER: &str = "rollouts";

/// The extensions of a rollout's files: its journal, its output in the background, and the request to stop it.
const JOURNAL: &str = "jsonl";
const OUTPUT: &str = "log";
const STOP: &str = "stop";

/// How many journals are kept whatever their age.
const KEPT: usize = 200;

const KEPT_FOR: Duration = Duration::from_hours(90 * 24);

/// How many bytes are buffered before they are written. Also the capacity that the buffer keeps.
const FULL: usize = 64 * 1024;

/// How many bytes may be written before they are synced, so that the end of a large rollout does not wait for all of them.
const MAX_UNSYNCED: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub struct Journals {
    pub state_dir: PathBuf,
    pub(super) folder: PathBuf,
}

#[derive(Debug)]
pub struct Recorded {
    /// The state after the last recorded event.
    pub summary: Summary,
    pub running: bool,
}

#[derive(Debug, Error, Diagnostic)]
pub enum JournalError {
    #[error("the journal {0} cannot be used: {1}")]
    #[diagnostic(help("rollouts are recorded so that they can be resumed; --state-dir names another folder for that"))]
    Io(PathBuf, #[source] io::Error),
    /// The folder or file cannot be opened, or other users can write to it. A journal names a command that is run.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] PrivateDirError),
    #[error("line {line} of the journal {path} cannot be read: {reason}")]
    #[diagnostic(help(
        "only the last line can be torn by a crash; this file was changed, or written by a later version"
    ))]
    Corrupt { path: PathBuf, line: usize, reason: String },
    #[error("there is no rollout {prefix:?} here")]
    #[diagnostic(help("{near}`homelab-deploy rollouts` lists them; its id may be shortened as long as it is unique"))]
    Unknown { prefix: String, near: String },
    #[error("several rollouts begin with {prefix:?}: {}", ids.join(", "))]
    #[diagnostic(help("give more of its id"))]
    Ambiguous { prefix: String, ids: Vec<String> },
    #[error("rollout {0} is running")]
    #[diagnostic(help("`homelab-deploy status {0}` shows how far it is"))]
    Running(String),
}

impl Journals {
    pub fn below(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), folder: state_dir.join(FOLDER) }
    }

    /// Opens a file of the rollout with this full id.
    fn file(&self, id: &str, extension: &str, flags: OFlags) -> Result<File, JournalError> {
        Ok(self.open()?.file(&format!("{id}.{extension}"), flags)?)
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    fn open(&self) -> Result<PrivateDir, PrivateDirError> {
        PrivateDir::open(&self.state_dir)?.open_folder(FOLDER)
    }

    pub fn create(&self, id: RolloutId) -> Result<Journal, JournalError> {
        let folder = PrivateDir::create(&self.state_dir)?.create_folder(FOLDER)?;
        let new = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
        let file = folder.file(&format!("{id}.{JOURNAL}"), new)?;
        file.lock().map_err(|error| JournalError::Io(self.path(&id.to_string(), JOURNAL), error))?;
        // A new file's name is on disk only once its folder is synced.
        folder.sync()?;
        // A failure to remove an old journal does not matter to the new one.
        self.prune(clock::now()).ok();
        Ok(Journal::on(file))
    }

    /// Returns the ids of all rollouts, unsorted.
    pub fn ids(&self) -> Result<Vec<String>, JournalError> {
        match self.open() {
            Err(error) if error.is_missing() => return Ok(Vec::new()),
            opened => opened?,
        };
        let entries = std::fs::read_dir(&self.folder).map_err(|error| JournalError::Io(self.folder.clone(), error))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let journals = paths.filter(|path| path.extension().is_some_and(|extension| extension == JOURNAL));
        Ok(journals.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect())
    }

    pub fn latest(&self) -> Result<Option<String>, JournalError> {
        Ok(self.by_age()?.pop().map(|(_, id)| id))
    }

    pub fn newest_first(&self) -> Result<Vec<String>, JournalError> {
        Ok(self.by_age()?.into_iter().rev().map(|(_, id)| id).collect())
    }

    /// Returns when each rollout began and its id, newest last. Omits rollouts without a recorded event.
    fn by_age(&self) -> Result<Vec<(Timestamp, String)>, JournalError> {
        let began_at = |id: &str| began_at(self.file(id, JOURNAL, OFlags::RDONLY).ok()?);
        let mut rollouts: Vec<_> = self.ids()?.into_iter().filter_map(|id| Some((began_at(&id)?, id))).collect();
        rollouts.sort();
        Ok(rollouts)
    }

    /// Returns the id that begins like this. An empty text is no beginning of an id: it may be a variable that is not set.
    pub fn find(&self, prefix: &str) -> Result<String, JournalError> {
        let all = self.ids()?;
        let is_found = |id: &&String| !prefix.is_empty() && id.starts_with(prefix);
        let mut ids: Vec<String> = all.iter().filter(is_found).cloned().collect();
        ids.sort();
        match ids.as_slice() {
            [] => {
                let begun = all.iter().filter_map(|id| id.get(..prefix.len()));
                // Ids have only 16 different digits, so any two are somewhat alike.
                let near = did_you_mean(prefix, begun.filter(|begun| strsim::osa_distance(prefix, begun) <= 2));
                Err(JournalError::Unknown { prefix: prefix.to_owned(), near })
            }
            [id] => Ok(id.clone()),
            _ => Err(JournalError::Ambiguous { prefix: prefix.to_owned(), ids }),
        }
    }

    pub fn read(&self, id: &str) -> Result<Recorded, JournalError> {
        let mut follower = self.follow(id)?;
        follower.look(|_, _| {})?;
        Ok(Recorded { summary: follower.summary, running: follower.is_held })
    }

    pub fn follow(&self, id: &str) -> Result<Follower, JournalError> {
        Ok(Follower::of(self.path(id, JOURNAL), self.file(id, JOURNAL, OFlags::RDONLY)?))
    }

    /// Takes over the rollout with this full id: locks its journal, cuts off a torn line and returns the state.
    pub fn take_over(&self, id: &str) -> Result<(Summary, Journal), JournalError> {
        let failed = |error| JournalError::Io(self.path(id, JOURNAL), error);
        let file = self.file(id, JOURNAL, OFlags::RDWR)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Running(id.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut recorded = Follower::of(self.path(id, JOURNAL), file);
        recorded.read_on(|_, _| {})?;
        let Follower { mut file, whole, summary, .. } = recorded;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok((summary, Journal::on(file)))
    }

    /// Reads all journals, newest last. Returns the errors of unreadable ones beside the others.
    pub fn all(&self) -> Result<(Vec<Recorded>, Vec<JournalError>), JournalError> {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.read(&id) {
                Ok(recorded) => all.push(recorded),
                Err(error) => errors.push(error),
            }
        }
        all.sort_by_key(|recorded| recorded.summary.began_at);
        Ok((all, errors))
    }

    /// Returns the rollouts with an event after this time, and when each began. Skips journals that cannot be read.
    pub fn since(&self, time: Timestamp) -> Vec<(Timestamp, Arc<Rollout>)> {
        let ids = self.ids().unwrap_or_default().into_iter();
        let journals = ids.filter_map(|id| self.file(&id, JOURNAL, OFlags::RDONLY).ok());
        let modified = |journal: &File| Timestamp::try_from(journal.metadata().ok()?.modified().ok()?).ok();
        journals.filter(|journal| modified(journal) >= Some(time)).filter_map(beginning).collect()
    }

    /// Removes unused journals that are older than 90 days and not among the last 200. Returns their number.
    fn prune(&self, now: Timestamp) -> Result<usize, JournalError> {
        // Every new rollout calls this and rarely finds anything to remove. Counting first saves reading the ages.
        if self.ids()?.len() <= KEPT {
            return Ok(0);
        }
        let mut rollouts = self.by_age()?;
        rollouts.truncate(rollouts.len().saturating_sub(KEPT));
        let is_old = |began_at: Timestamp| began_at.saturating_add(KEPT_FOR).is_ok_and(|until| until < now);
        let old = rollouts.iter().filter(|(began_at, _)| is_old(*began_at));
        Ok(old.filter(|(_, id)| self.remove(id)).count())
    }

    /// Removes all files of a rollout, unless a process runs it. Returns whether it did.
    fn remove(&self, id: &str) -> bool {
        let remove = |extension| std::fs::remove_file(self.path(id, extension)).is_ok();
        let journal = self.file(id, JOURNAL, OFlags::RDWR);
        let is_removed = journal.is_ok_and(|journal| journal.try_lock().is_ok() && remove(JOURNAL));
        if is_removed {
            for extension in [OUTPUT, STOP] {
                remove(extension);
            }
        }
        is_removed
    }

    /// Returns the file whose existence tells the process of a rollout to stop.
    pub fn stop_file(&self, id: RolloutId) -> PathBuf {
        self.path(&id.to_string(), STOP)
    }

    /// Tells the process that runs a rollout to stop: it sends no further requests and waits for the hosts in flight.
    pub fn stop(&self, id: RolloutId) -> Result<(), JournalError> {
        self.file(&id.to_string(), STOP, OFlags::WRONLY | OFlags::CREATE).map(drop)
    }

    pub fn open_output(&self, id: RolloutId) -> Result<File, JournalError> {
        self.file(&id.to_string(), OUTPUT, OFlags::RDONLY)
    }

    pub fn create_output(&self, id: RolloutId) -> Result<File, JournalError> {
        self.file(&id.to_string(), OUTPUT, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
    }
}

/// The journal of a rollout, to append to.
#[derive(Debug)]
pub struct Journal {
    file: File,
    writer: EventWriter,
    /// Whole lines that are not written yet.
    lines: Vec<u8>,
    /// Bytes that are written and may not be on disk yet.
    unsynced: usize,
}

impl Journal {
    pub(super) fn on(file: File) -> Self {
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
        self.record_as_json(event).map(drop)
    }

    /// Does the same and returns the JSON object that was recorded, or an empty one.
    pub(super) fn record_as_json(&mut self, event: &Event) -> io::Result<&[u8]> {
        if !event.kind.is_fact() {
            return Ok(&[]);
        }
        if self.lines.len() >= FULL {
            self.write()?;
        }
        let begins = self.lines.len();
        self.writer.write(event, &mut self.lines)?;
        let ends = self.lines.len();
        self.lines.push(b'\n');
        Ok(self.lines.get(begins..ends).unwrap_or_default())
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

#[cfg(test)]
mod tests;
