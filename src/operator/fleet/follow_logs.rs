//! What the runs of a rollout write, while somebody watches: asked for on the hosts' own subjects, page by page.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::{LogAnswer, LogPlace, LogRequest, Replies, RequestId, Response, Sender, Status, Subject};
use crate::rollout::{HostOutcome, Rollout};
use crate::text::safe;

/// The last token of the subjects on which pages come. No id of a request is like it.
const TOKEN: &str = "log";

/// How long to wait for more after nothing new was written, and for an answer.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// So many runs are followed at once for their last lines: more than anybody can watch.
const MOST_RUNS: usize = 24;

/// Where there is more to read than this, in bytes, the last line is further on.
const FAR_BEHIND: usize = 16 * 1024;

/// A line that is longer than this is broken, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// How much of the logs of a rollout's runs is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogWatch {
    /// The line that each run has written last.
    LastLine,
    /// All that they write.
    All,
}

/// Follows the logs of the runs of one rollout.
#[derive(Debug)]
pub(super) struct LogFollower {
    replies: Replies,
    token: RequestId,
    /// The hosts that give out logs.
    able: BTreeSet<Sender>,
    watch: LogWatch,
    runs: BTreeMap<Sender, Run>,
}

/// A run that is followed.
#[derive(Debug)]
struct Run {
    id: RequestId,
    offset: u64,
    /// What was read behind the last whole line.
    rest: String,
    ask_at: Instant,
    /// Whether what lies between there and the end is passed over.
    skips: bool,
}

/// A question for a page, and where it goes.
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

    /// A host answered a request: from the first sign of its run on, that is followed.
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

    /// Whether a subject is one of those on which pages come, and of which host.
    pub(super) fn sender(&self, subject: &str) -> Option<Sender> {
        let (from, token) = self.replies.read(subject, None)?;
        (token == self.token).then_some(from)
    }

    /// The whole lines of a page.
    pub(super) fn page(&mut self, from: &Sender, payload: &[u8]) -> Vec<String> {
        let Some(run) = self.runs.get_mut(from) else { return Vec::new() };
        let Some(page) = LogAnswer::parse(payload).ok().map(|answer| answer.log) else { return Vec::new() };
        // A page that came twice, or late, was read already.
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

    /// The pages to ask for now.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        let now = Instant::now();
        let due = self.runs.iter_mut().filter(|(_, run)| run.ask_at <= now);
        let ask = |(host, run): (&Sender, &mut Run)| {
            run.ask_at = now + ASK_EVERY;
            let log = LogPlace { id: run.id.clone(), offset: if run.skips { u64::MAX } else { run.offset } };
            let reply_to = self.replies.to(host.tier, &host.host, &self.token);
            Question { subject: host.subject(), payload: LogRequest { log, reply_to }.to_bytes() }
        };
        due.map(ask).collect()
    }

    /// Whether no run is followed any more.
    pub(super) fn is_done(&self) -> bool {
        self.runs.is_empty()
    }
}
