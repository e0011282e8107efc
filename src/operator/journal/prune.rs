//! How long journals are kept.

use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::OFlags;

use super::{JournalError, Journals, journal_name};

/// So many are kept, however old they are.
const KEPT: usize = 200;

/// So old the others become.
const KEPT_FOR: Duration = Duration::from_hours(90 * 24);

impl Journals {
    /// Removes the records that are older than 90 days and not among the last 200, and returns how many. One that is in use
    /// stays.
    pub fn prune(&self, now: Timestamp) -> Result<usize, JournalError> {
        // Each new rollout comes by here, and nearly always finds nothing to remove: their ages need not be read for that.
        if self.ids()?.len() <= KEPT {
            return Ok(0);
        }
        let mut rollouts = self.by_age()?;
        rollouts.truncate(rollouts.len().saturating_sub(KEPT));
        let is_old = |began_at: Timestamp| began_at.saturating_add(KEPT_FOR).is_ok_and(|until| until < now);
        let old = rollouts.iter().filter(|(began_at, _)| is_old(*began_at));
        Ok(old.filter(|(_, id)| self.remove(id)).count())
    }

    /// Removes all files of a rollout that no process runs; returns whether it did.
    fn remove(&self, id: &str) -> bool {
        let journal = self.file(&journal_name(id), OFlags::RDWR);
        let is_free = journal.is_ok_and(|journal| journal.try_lock().is_ok() && fs::remove_file(self.path(id)).is_ok());
        if is_free {
            for beside in ["log", "stop"] {
                fs::remove_file(self.folder.join(format!("{id}.{beside}"))).ok();
            }
        }
        is_free
    }
}
