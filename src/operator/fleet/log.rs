//! Reads the log of a run on a host, page by page.

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
    LogAnswer, LogPage, LogPosition, LogRequest, NoLog, Replies, ReplySubject, RequestId, RolloutId, Sender,
};

/// How long to wait for a page before requesting it again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the host may be silent, or the server unreachable.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct LogReader {
    bus: Bus,
    host: Sender,
    id: RequestId,
    replies: Replies,
    answers: Subscriber,
    questions: u64,
}

#[derive(Debug, Error, Diagnostic)]
pub enum LogError {
    #[error("{0}")]
    #[diagnostic(help("a key that may deploy to a host may read its logs: use that of a deployer to its tier"))]
    Refused(Violation),
    #[error("{tier}.{host} gave no page of its log for {} s", PATIENCE.as_secs(), tier = .0.tier, host = .0.host)]
    #[diagnostic(help("check that the server and the host are up; `homelab-deploy hosts` shows who answers"))]
    Silent(Sender),
    #[error("{tier}.{host} does not know the run {id}", tier = .0.tier, host = .0.host, id = .1)]
    #[diagnostic(help("a host remembers its last 200 runs; without --id you see the log of its latest one"))]
    Unknown(Sender, RequestId),
    #[error("{tier}.{host} has no log of the run {id}", tier = .0.tier, host = .0.host, id = .1)]
    #[diagnostic(help("a host keeps the logs of its last 20 runs, and has none of a run that it could not begin"))]
    NotKept(Sender, RequestId),
}

impl LogReader {
    /// Opens the log of this run.
    pub async fn open(bus: Bus, host: Sender, id: RequestId) -> Result<Self, LogError> {
        let replies = Replies::of(RolloutId::from(Uuid::new_v4()));
        let answers = bus.client.subscribe(replies.pattern(host.tier)).await;
        let answers = answers.map_err(|_| LogError::Silent(host.clone()))?;
        Ok(Self { bus, host, id, replies, answers, questions: 0 })
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
        self.questions += 1;
        let token = RequestId::from(Uuid::from_u128(self.questions.into()));
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
