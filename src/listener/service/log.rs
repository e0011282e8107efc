//! The logs of runs, which are given out a page at a time.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::course::Step;
use super::{Service, shown};
use crate::listener::run::{OutputPage, RunDir};
use crate::protocol::log::MAX_PAGE_BYTES;
use crate::protocol::{LogAnswer, LogPage, LogPlace, LogRequest, NoLog, Place, RequestId, Status, Subject, Target};

/// How many pages are read at once. Those who find no place ask again.
pub(super) const READERS: usize = 4;

/// How long a page takes at least, so that no reader gets more than 3 MB/s.
const PAGE_TAKES: Duration = Duration::from_millis(10);

/// JSON writes a byte in so many at most.
const LONGEST_SPELLING: usize = 8;

impl Service {
    /// A question for a log, on one of the deploy subjects.
    pub(super) fn give_log(&mut self, subject: &Subject, question: LogRequest) {
        let LogRequest { log: LogPlace { id, offset }, reply_to } = question;
        let own = Target::Host(self.config.tier, self.config.hostname.clone()).subject();
        if *subject != own || self.publisher.place(&reply_to) != Place::Own || !self.publisher.may_answer(&reply_to) {
            let reply_to = shown(reply_to.as_str());
            return self.complain(|| {
                format!("a question for a log on {subject} is dropped: it wants its answer on {reply_to}")
            });
        }
        let Ok(reader) = self.log_readers.clone().try_acquire_owned() else { return };
        // Before the output is read: what a run has written when it has ended is all that it writes.
        let status = self.history.status(id.as_str());
        let dir = self.state_dir.run_dir(id.as_str());
        let most = MAX_PAGE_BYTES.min(self.publisher.client.max_payload() / LONGEST_SPELLING);
        let publisher = self.publisher.clone();
        self.steps.spawn(async move {
            sleep(PAGE_TAKES).await;
            let page = spawn_blocking(move || match status {
                Some(status) => page(id, &dir, offset, most, status),
                None => no_log(id, NoLog::UnknownRun),
            });
            if let Ok(page) = page.await {
                publisher.publish(&reply_to, LogAnswer { log: page }.to_bytes()).await;
            }
            drop(reader);
            Step::Done
        });
    }
}

/// A page of the log of a run that goes on or has ended.
fn page(id: RequestId, dir: &RunDir, offset: u64, most: usize, status: Status) -> LogPage {
    let goes_on = !status.is_final();
    match OutputPage::read(dir, offset, most) {
        Ok(Some(mut page)) => {
            let end = page.is_last && !goes_on;
            if !end {
                page.leave_half_character();
            }
            let next = page.offset + page.bytes.len() as u64;
            let data = String::from_utf8_lossy(&page.bytes).into_owned();
            LogPage { id, offset: page.offset, data, next, end, error: None }
        }
        // It has not begun to write.
        Ok(None) if goes_on => LogPage { id, offset: 0, data: String::new(), next: 0, end: false, error: None },
        Ok(None) => no_log(id, NoLog::NotKept),
        Err(error) => {
            tracing::warn!("the output of the run in {} cannot be read: {error}", dir.path().display());
            no_log(id, NoLog::NotKept)
        }
    }
}

const fn no_log(id: RequestId, error: NoLog) -> LogPage {
    LogPage { id, offset: 0, data: String::new(), next: 0, end: true, error: Some(error) }
}
