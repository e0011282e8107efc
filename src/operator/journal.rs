//! The record of a rollout: one JSON object a line, written and synced before anything that it tells of leaves.
//!
//! What a rollout has come to is the fold of its journal, so that another process can show it, or take it up where a
//! crash left it. While a rollout runs, its process holds a lock on the file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use jiff::Timestamp;
use miette::Diagnostic;
use thiserror::Error;

use crate::protocol::RolloutId;
use crate::rollout::{Event, EventKind, EventWriter, Rollout, Summary};

/// How much is recorded before it is written without being asked to, in bytes. More room than that is not kept.
const FULL: usize = 64 * 1024;

/// How much may be written before it is synced, in bytes.
const MAX_UNSYNCED: usize = 256 * 1024;

/// The folder of all journals, below the operator's state folder.
const FOLDER: &str = "rollouts";

/// Where the journals of an operator are kept.
#[derive(Debug, Clone)]
pub struct Journals {
    folder: PathBuf,
}

/// The journal of a rollout that this process runs.
#[derive(Debug)]
pub struct Journal {
    file: File,
    writer: EventWriter,
    /// Whole lines that are not written yet.
    lines: Vec<u8>,
    /// How much was written that may not be on disk yet, in bytes.
    unsynced: usize,
}

/// What a journal tells.
#[derive(Debug)]
pub struct Recorded {
    /// The rollout, after all that was recorded.
    pub summary: Summary,
    /// All events, in order.
    pub events: Vec<Event>,
    /// Where the last whole line ends, in bytes; what follows is a line that a crash has torn.
    pub whole: u64,
    /// Whether a process is running it.
    pub running: bool,
    path: PathBuf,
}

/// What is wrong with a journal.
#[derive(Debug, Error, Diagnostic)]
pub enum JournalError {
    /// It cannot be created, read or written.
    #[error("the journal {0} cannot be used: {1}")]
    #[diagnostic(help("rollouts are recorded so that they can be resumed; --state-dir names another folder for that"))]
    Io(PathBuf, #[source] io::Error),
    /// A line is no event.
    #[error("line {line} of the journal {path} cannot be read: {reason}")]
    #[diagnostic(help(
        "only the last line can be torn by a crash; this file was changed, or written by a later version"
    ))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such rollout.
    #[error("there is no rollout {0:?} here")]
    #[diagnostic(help("`homelab-deploy rollouts` lists them; its id may be shortened as long as it is unique"))]
    Unknown(String),
    /// More than one begins with what was given.
    #[error("several rollouts begin with {prefix:?}: {}", ids.join(", "))]
    #[diagnostic(help("give more of its id"))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// What it could mean.
        ids: Vec<String>,
    },
    /// Another process runs it.
    #[error("rollout {0} is running")]
    #[diagnostic(help("`homelab-deploy status {}` shows how far it is", .0.short()))]
    Running(RolloutId),
}

impl Journals {
    /// The journals below a state folder.
    pub fn below(state_dir: &Path) -> Self {
        Self { folder: state_dir.join(FOLDER) }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the journal of a new rollout.
    pub fn create(&self, id: RolloutId) -> Result<Journal, JournalError> {
        let path = self.path(&id.to_string());
        let failed = |error| JournalError::Io(path.clone(), error);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        // The name of a file is on disk only when its folder is.
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Journal::on(file))
    }

    /// The ids of all rollouts, in no particular order.
    pub fn ids(&self) -> Result<Vec<String>, JournalError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(JournalError::Io(self.folder.clone(), error)),
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let journals = paths.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        Ok(journals.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect())
    }

    /// The rollout that was recorded last.
    pub fn latest(&self) -> Result<Option<String>, JournalError> {
        let ids = self.ids()?.into_iter();
        Ok(ids.max_by_key(|id| self.path(id).metadata().and_then(|journal| journal.modified()).ok()))
    }

    /// The one rollout whose id begins with this.
    pub fn find(&self, prefix: &str) -> Result<String, JournalError> {
        let mut ids = self.ids()?;
        ids.retain(|id| id.starts_with(prefix));
        ids.sort();
        match ids.as_slice() {
            [] => Err(JournalError::Unknown(prefix.to_owned())),
            [id] => Ok(id.clone()),
            _ => Err(JournalError::Ambiguous { prefix: prefix.to_owned(), ids }),
        }
    }

    /// Reads the journal of the rollout with this whole id.
    pub fn read(&self, id: &str) -> Result<Recorded, JournalError> {
        let path = self.path(id);
        let failed = |error| JournalError::Io(path.clone(), error);
        let file = File::open(&path).map_err(failed)?;
        let running = match file.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        let text = io::read_to_string(&file).map_err(failed)?;
        let (events, whole) = read_events(&text).map_err(|(line, reason)| {
            let path = path.clone();
            JournalError::Corrupt { path, line, reason }
        })?;
        Ok(Recorded { summary: Summary::of(&events), events, whole, running, path })
    }

    /// Every rollout with what became of it, the latest last. One that cannot be read is left out; its error is returned
    /// beside the others.
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

    /// What the rollouts were about that were still recorded after this time, each with when it began. A journal that
    /// cannot be read is passed over.
    pub fn since(&self, time: Timestamp) -> Vec<(Timestamp, Arc<Rollout>)> {
        let paths = self.ids().unwrap_or_default().into_iter().map(|id| self.path(&id));
        let modified = |path: &PathBuf| Timestamp::try_from(path.metadata().ok()?.modified().ok()?).ok();
        paths.filter(|path| modified(path) >= Some(time)).filter_map(|path| beginning(&path)).collect()
    }

    /// The file by which another process says that a rollout is to stop.
    pub fn stop_file(&self, id: RolloutId) -> PathBuf {
        self.folder.join(format!("{id}.stop"))
    }

    /// Says to the process that runs a rollout that it is to stop: nothing new is sent, hosts in flight are awaited.
    pub fn stop(&self, id: RolloutId) -> Result<(), JournalError> {
        let file = self.stop_file(id);
        File::create(&file).map(drop).map_err(|error| JournalError::Io(file, error))
    }

    /// The file that takes what a rollout in the background prints.
    pub fn output_file(&self, id: RolloutId) -> PathBuf {
        self.folder.join(format!("{id}.log"))
    }

    pub(super) fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.jsonl"))
    }
}

impl Recorded {
    /// Goes on writing where the journal ends. A line that a crash has torn is cut off.
    pub fn resume(&self, id: RolloutId) -> Result<Journal, JournalError> {
        let failed = |error| JournalError::Io(self.path.clone(), error);
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Running(id)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(self.whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Journal::on(file))
    }
}

impl Journal {
    /// A journal that goes on at the end of a file.
    pub(super) fn on(file: File) -> Self {
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
        if event.kind.is_fact() {
            self.writer.write(event, &mut self.lines)?;
            self.lines.push(b'\n');
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

/// What the first line of a journal says, which is as much as a plan is long. What follows may be a lot more.
fn beginning(path: &Path) -> Option<(Timestamp, Arc<Rollout>)> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?).read_line(&mut line).ok()?;
    match serde_json::from_str(&line).ok()? {
        Event { at, kind: EventKind::Begun(rollout) } => Some((at, rollout)),
        _ => None,
    }
}

/// The events of all whole lines, and where they end. An error names the line that cannot be read, and why.
pub(super) fn read_events(text: &str) -> Result<(Vec<Event>, u64), (usize, String)> {
    let mut events = Vec::new();
    let mut whole = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // Only what is in front of a line's end is known to be all of it.
        let Some(object) = line.strip_suffix('\n') else {
            break;
        };
        events.push(serde_json::from_str(object).map_err(|error| (index + 1, error.to_string()))?);
        whole += line.len() as u64;
    }
    Ok((events, whole))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::rollout::{Effect, EventKind, Machine, Outcome, Rollout};

    fn begin(rollout: &Arc<Rollout>) -> Vec<Event> {
        let mut machine = Machine::new(Arc::clone(rollout), Timestamp::UNIX_EPOCH);
        let effects = std::iter::from_fn(|| machine.poll_effect());
        effects.filter_map(|effect| if let Effect::Report(event) = effect { Some(event) } else { None }).collect()
    }

    fn write(journal: &mut Journal, events: &[Event]) {
        for event in events {
            journal.record(event).unwrap();
        }
        journal.write().unwrap();
    }

    fn ended() -> Event {
        Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Ended { outcome: Outcome::Failed } }
    }

    #[test]
    fn what_was_recorded_is_read_again_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
        let id = rollout.id.to_string();
        let mut journal = journals.create(rollout.id).unwrap();
        let events = begin(&rollout);
        write(&mut journal, &events);
        assert!(journals.read(&id).unwrap().running, "its process holds the lock");
        drop(journal);

        let path = journals.path(&id);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"at\":\"2026-"].concat()).unwrap();
        let recorded = journals.read(&id).unwrap();
        assert!(!recorded.running);
        assert_eq!(recorded.summary, Summary::of(&events));
        assert_eq!(recorded.whole, whole.len() as u64);

        write(&mut recorded.resume(rollout.id).unwrap(), &[ended()]);
        let recorded = journals.read(&id).unwrap();
        assert_eq!(recorded.summary.outcome, Some(Outcome::Failed), "the torn line is gone");
    }

    #[test]
    fn a_journal_of_a_version_in_which_a_host_found_the_commit_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut rollout = rollout(&[&["a", "b"]]);
        Arc::make_mut(&mut rollout).revision = "main".parse().unwrap();
        let (journals, id) = (Journals::below(folder.path()), rollout.id.to_string());
        write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
        let revision = |journals: &Journals| journals.read(&id).unwrap().summary.rollout.unwrap().revision.clone();
        assert_eq!(revision(&journals), rollout.revision, "nobody has found it");

        let found = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
        let lines = [
            format!(r#"{{"at":"2026-11-23T10:00:00Z","event":"resolved","host":"a","revision":"{found}"}}"#),
            r#"{"at":"2026-11-23T10:00:00Z","event":"draining","wave":1,"cause":"unresolved"}"#.to_owned(),
            r#"{"at":"2026-11-23T10:00:00Z","event":"final","host":"b","outcome":"skipped","cause":"unresolved"}"#
                .to_owned(),
            r#"{"at":"2026-11-23T10:00:00Z","event":"wave_ended","wave":1,"verdict":"failed","cause":"unresolved"}"#
                .to_owned(),
        ];
        let mut journal = OpenOptions::new().append(true).open(journals.path(&id)).unwrap();
        writeln!(journal, "{}", lines.join("\n")).unwrap();
        assert_eq!(revision(&journals).as_str(), found);
    }

    #[test]
    fn every_cut_of_a_journal_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a", "b"]]));
        write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
        let path = journals.path(&rollout.id.to_string());
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            journals.read(&rollout.id.to_string()).unwrap();
        }
    }

    #[test]
    fn a_line_in_the_middle_that_is_no_event_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a"]]));
        write(&mut journals.create(rollout.id).unwrap(), &begin(&rollout));
        let path = journals.path(&rollout.id.to_string());
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replacen('{', "x", 1)).unwrap();
        let error = journals.read(&rollout.id.to_string()).unwrap_err();
        assert!(matches!(error, JournalError::Corrupt { line: 1, .. }), "{error}");
    }

    #[test]
    fn a_rollout_is_found_by_the_beginning_of_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let journals = Journals::below(folder.path());
        assert!(matches!(journals.find("0"), Err(JournalError::Unknown(_))));
        for id in [1, 2 << 100] {
            journals.create(RolloutId::from(uuid::Uuid::from_u128(id))).unwrap();
        }
        assert_eq!(journals.find("00000000").unwrap(), "00000000-0000-0000-0000-000000000001");
        assert!(matches!(journals.find("0"), Err(JournalError::Ambiguous { .. })));
    }
}
