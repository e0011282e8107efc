//! Reads the logs of runs on hosts page by page: that of one run, or those of a rollout while it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::connection::State;
use futures_util::StreamExt;
use miette::Diagnostic;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::bus::{Bus, BusEvent, Violation};
use crate::protocol::{
    LogAnswer, LogPage, LogPosition, LogRequest, NoLog, Replies, ReplySubject, RequestId, Response, RolloutId, Sender,
    Status, Subject,
};
use crate::rollout::{HostOutcome, Rollout};
use crate::text::safe;

/// How long to wait for a page before requesting it again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the host may be silent, or the server unreachable.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct LogReader<'a> {
    bus: &'a mut Bus,
    host: Sender,
    id: RequestId,
    replies: Replies,
    answers: Subscriber,
}

#[derive(Debug, Error, Diagnostic)]
pub enum LogError {
    #[error("{0}")]
    #[diagnostic(help("a key that may deploy to a host may read its logs: use that of a deployer to its tier"))]
    Refused(Violation),
    #[error("{tier}.{host} sent no page of its log for {} s", PATIENCE.as_secs(), tier = .0.tier, host = .0.host)]
    #[diagnostic(help("check that the server and the host are up; `homelab-deploy hosts` shows who answers"))]
    Silent(Sender),
    #[error("{tier}.{host} does not know the run {id}", tier = .0.tier, host = .0.host, id = .1)]
    #[diagnostic(help("a host remembers its last 200 runs; without --id you see the log of its latest one"))]
    Unknown(Sender, RequestId),
    #[error("{tier}.{host} has no log of the run {id}", tier = .0.tier, host = .0.host, id = .1)]
    #[diagnostic(help("a host keeps the logs of its last 20 runs, and has none of a run that it could not begin"))]
    NotKept(Sender, RequestId),
}

impl<'a> LogReader<'a> {
    pub async fn open(bus: &'a mut Bus, host: Sender, id: RequestId) -> Result<Self, LogError> {
        let replies = Replies::of(RolloutId::from(Uuid::new_v4()));
        let answers = bus.client.subscribe(replies.pattern(host.tier)).await;
        let answers = answers.map_err(|_| LogError::Silent(host.clone()))?;
        Ok(Self { bus, host, id, replies, answers })
    }

    /// Returns the page at this offset. Repeats the request, as the server or the listener may be restarting.
    pub async fn page(&mut self, offset: u64) -> Result<LogPage, LogError> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let reply_to = self.ask(offset).await;
            let Ok(answer) = timeout(ASK_AGAIN, self.answer(&reply_to)).await else { continue };
            let Some(page) = answer? else { continue };
            return match page.error {
                None => Ok(page),
                Some(NoLog::UnknownRun) => Err(LogError::Unknown(self.host.clone(), page.id)),
                Some(NoLog::NotKept) => Err(LogError::NotKept(self.host.clone(), page.id)),
            };
        }
        Err(LogError::Silent(self.host.clone()))
    }

    /// Requests a page, if connected, and returns the reply subject.
    async fn ask(&mut self, offset: u64) -> ReplySubject {
        // An answer to an earlier request has another token.
        let token = RequestId::from(Uuid::new_v4());
        let reply_to = self.replies.to(self.host.tier, &self.host.host, &token);
        let log = LogPosition { id: self.id.clone(), offset };
        let question = LogRequest { log, reply_to: reply_to.clone() }.to_bytes();
        if self.bus.client.connection_state() == State::Connected {
            // A lost request is repeated.
            self.bus.client.publish(self.host.subject().to_string(), question.into()).await.ok();
        }
        reply_to
    }

    /// Waits for the page on this reply subject. Returns `None` if it has to be requested again.
    async fn answer(&mut self, reply_to: &ReplySubject) -> Result<Option<LogPage>, LogError> {
        loop {
            tokio::select! {
                message = self.answers.next() => {
                    let Some(message) = message else { return Err(LogError::Silent(self.host.clone())) };
                    let page = LogAnswer::parse(&message.payload).ok().map(|answer| answer.log);
                    let is_expected = |page: &LogPage| page.id == self.id && page.offset <= page.next;
                    if message.subject.as_str() == reply_to.as_str() && let Some(page) = page.filter(is_expected) {
                        return Ok(Some(page));
                    }
                }
                event = self.bus.events.recv() => match event {
                    Some(BusEvent::Refused(violation)) => return Err(LogError::Refused(violation)),
                    Some(BusEvent::Up) => return Ok(None),
                    Some(BusEvent::Down | BusEvent::LockedOut | BusEvent::SlowConsumer | BusEvent::Error(_)) => {}
                    None => return Err(LogError::Silent(self.host.clone())),
                },
            }
        }
    }
}

/// The last token of the reply subjects for pages. It cannot be the id of a request.
const TOKEN: &str = "log";

/// How long to wait before the next request after an empty page, or without an answer.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How many runs are followed at once for their last lines: more than a person can watch.
const MOST_RUNS: usize = 24;

/// A page longer than this, in bytes, means that the log's last line is further on.
const FAR_BEHIND: usize = 16 * 1024;

const MAX_LINE_BYTES: usize = 8 * 1024;

/// How much of the hosts' logs the operator sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogView {
    /// The last line of each log, in the display that redraws in place.
    LastLine,
    Whole,
}

/// Assembles the pages of a log into whole lines without control characters.
#[derive(Debug)]
pub struct LogLines {
    /// The beginning of a line that is not complete yet.
    rest: String,
    longest: usize,
}

impl LogLines {
    /// Breaks lines that are longer than this, in bytes.
    pub const fn broken_at(longest: usize) -> Self {
        Self { rest: String::new(), longest }
    }

    /// Returns the lines that are complete with this page.
    pub fn push(&mut self, page: &str) -> Vec<String> {
        self.rest.push_str(page);
        let whole = match self.rest.rfind('\n') {
            Some(end) => end + 1,
            None if self.rest.len() > self.longest => self.rest.len(),
            None => 0,
        };
        self.rest.drain(..whole).as_str().lines().map(safe).collect()
    }

    pub fn finish(&mut self) -> Vec<String> {
        std::mem::take(&mut self.rest).lines().map(safe).collect()
    }
}

#[derive(Debug)]
pub(super) struct LogFollower {
    replies: Replies,
    token: RequestId,
    /// The hosts whose listeners serve logs.
    able: BTreeSet<Sender>,
    view: LogView,
    runs: BTreeMap<Sender, Run>,
}

#[derive(Debug)]
struct Run {
    id: RequestId,
    offset: u64,
    lines: LogLines,
    ask_at: Instant,
    skips: bool,
}

impl LogFollower {
    pub(super) fn of(rollout: &Rollout, view: LogView) -> Self {
        let able = rollout.plan.hosts().filter(|host| host.supports_log);
        Self {
            replies: Replies::of(rollout.id),
            token: TOKEN.parse().expect("it is a word of letters"),
            able: able.map(|host| Sender { tier: host.tier, host: host.hostname.clone() }).collect(),
            view,
            runs: BTreeMap::new(),
        }
    }

    /// Handles a response: follows the run once it has started.
    pub(super) fn on_response(&mut self, from: &Sender, request: &RequestId, response: &Response) {
        let is_followed = self.runs.get(from).is_some_and(|run| run.id == *request);
        let has_room = self.view == LogView::Whole || self.runs.len() < MOST_RUNS;
        if response.status == Status::Started && !is_followed && has_room && self.able.contains(from) {
            let lines = LogLines::broken_at(MAX_LINE_BYTES);
            let run = Run { id: request.clone(), offset: 0, lines, ask_at: Instant::now(), skips: false };
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
        run.skips = self.view == LogView::LastLine && page.data.len() > FAR_BEHIND;
        let mut lines = run.lines.push(&page.data);
        if is_over {
            lines.extend(run.lines.finish());
            self.runs.remove(from);
        }
        lines
    }

    pub(super) fn requests(&mut self) -> Vec<(Subject, LogRequest)> {
        let now = Instant::now();
        let due = self.runs.iter_mut().filter(|(_, run)| run.ask_at <= now);
        let ask = |(host, run): (&Sender, &mut Run)| {
            run.ask_at = now + ASK_EVERY;
            let log = LogPosition { id: run.id.clone(), offset: if run.skips { u64::MAX } else { run.offset } };
            let reply_to = self.replies.to(host.tier, &host.host, &self.token);
            (host.subject(), LogRequest { log, reply_to })
        };
        due.map(ask).collect()
    }

    pub(super) fn is_done(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_clean_wherever_a_page_ends() {
        let text = "one\n\x1b[31mtwo\x1b[0m\r\nthree \u{202e}x\n\nlast";
        for at in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            let (first, second) = text.split_at(at);
            let mut lines = LogLines::broken_at(64);
            let complete = [lines.push(first), lines.push(second), lines.finish()].concat();
            assert_eq!(complete, ["one", "two", "three x", "", "last"], "cut at {at}");
        }
        let mut lines = LogLines::broken_at(64);
        assert_eq!(lines.push(&"x".repeat(64)), [""; 0]);
        assert_eq!(lines.push("x"), ["x".repeat(65)]);
    }
}
