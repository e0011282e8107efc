//! Follows the logs of a rollout's runs while the operator watches, by requesting pages on the hosts' own subjects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::{LogAnswer, LogPosition, LogRequest, Replies, RequestId, Response, Sender, Status, Subject};
use crate::rollout::{HostOutcome, Rollout};
use crate::text::safe;

/// The last token of the reply subjects for pages. It cannot be the id of a request.
const TOKEN: &str = "log";

/// How long to wait before the next request after an empty page, or without an answer.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How many runs are followed at once for their last lines: more than a person can watch.
const MOST_RUNS: usize = 24;

/// A page longer than this, in bytes, means that the log's last line is further on.
const FAR_BEHIND: usize = 16 * 1024;

/// Longer lines are broken, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// How much of the runs' logs the operator watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogWatch {
    /// The last line of each log.
    LastLine,
    /// All lines.
    All,
}

#[derive(Debug)]
pub(super) struct LogFollower {
    replies: Replies,
    token: RequestId,
    /// The hosts whose listeners serve logs.
    able: BTreeSet<Sender>,
    watch: LogWatch,
    runs: BTreeMap<Sender, Run>,
}

#[derive(Debug)]
struct Run {
    id: RequestId,
    offset: u64,
    /// The beginning of a line that is not complete yet.
    rest: String,
    ask_at: Instant,
    /// Whether to skip to the end of the log.
    skips: bool,
}

/// A request for a page, and its subject.
pub(super) struct Question {
    pub(super) subject: Subject,
    pub(super) payload: Vec<u8>,
}

impl LogFollower {
    pub(super) fn of(rollout: &Rollout, watch: LogWatch) -> Self {
        let able = rollout.plan.hosts().filter(|host| host.supports_log);
        Self {
            replies: Replies::of(rollout.id),
            token: TOKEN.parse().expect("it is a word of letters"),
            able: able.map(|host| Sender { tier: host.tier, host: host.hostname.clone() }).collect(),
            watch,
            runs: BTreeMap::new(),
        }
    }

    /// Handles a response: follows the run once it has started.
    pub(super) fn heard(&mut self, from: &Sender, request: &RequestId, response: &Response) {
        let is_followed = self.runs.get(from).is_some_and(|run| run.id == *request);
        let has_room = self.watch == LogWatch::All || self.runs.len() < MOST_RUNS;
        if response.status == Status::Started && !is_followed && has_room && self.able.contains(from) {
            let run = Run { id: request.clone(), offset: 0, rest: String::new(), ask_at: Instant::now(), skips: false };
            self.runs.insert(from.clone(), run);
        }
        if HostOutcome::of(response.status).is_some()
            && let Some(run) = self.runs.get_mut(from)
        {
            run.ask_at = Instant::now();
        }
    }

    /// Returns the host of a reply subject for pages; `None` for other subjects.
    pub(super) fn sender(&self, subject: &str) -> Option<Sender> {
        let (from, token) = self.replies.read(subject, None)?;
        (token == self.token).then_some(from)
    }

    /// Handles a page and returns its whole lines.
    pub(super) fn page(&mut self, from: &Sender, payload: &[u8]) -> Vec<String> {
        let Some(run) = self.runs.get_mut(from) else { return Vec::new() };
        let Some(page) = LogAnswer::parse(payload).ok().map(|answer| answer.log) else { return Vec::new() };
        // Skips pages that were read already.
        if page.id != run.id || page.offset < run.offset || page.next < page.offset {
            return Vec::new();
        }
        let is_over = page.end || page.error.is_some();
        run.ask_at = if page.data.is_empty() { Instant::now() + ASK_EVERY } else { Instant::now() };
        run.offset = page.next;
        run.skips = self.watch == LogWatch::LastLine && page.data.len() > FAR_BEHIND;
        run.rest.push_str(&page.data);
        let whole = match run.rest.rfind('\n') {
            _ if is_over || run.rest.len() > MAX_LINE_BYTES => run.rest.len(),
            Some(end) => end + 1,
            None => 0,
        };
        let lines = run.rest.drain(..whole).as_str().lines().map(safe).collect();
        if is_over {
            self.runs.remove(from);
        }
        lines
    }

    /// Returns the requests that are due.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        let now = Instant::now();
        let due = self.runs.iter_mut().filter(|(_, run)| run.ask_at <= now);
        let ask = |(host, run): (&Sender, &mut Run)| {
            run.ask_at = now + ASK_EVERY;
            let log = LogPosition { id: run.id.clone(), offset: if run.skips { u64::MAX } else { run.offset } };
            let reply_to = self.replies.to(host.tier, &host.host, &self.token);
            Question { subject: host.subject(), payload: LogRequest { log, reply_to }.to_bytes() }
        };
        due.map(ask).collect()
    }

    pub(super) fn is_done(&self) -> bool {
        self.runs.is_empty()
    }
}
