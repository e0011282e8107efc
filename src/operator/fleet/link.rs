//! The task between the channels and the bus.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::{Discovery, FleetEnd, FleetError, News, Order};
use crate::bus::{Bus, BusEvent, Operation, Violation};
use crate::protocol::{
    DiscoveryAnswer, DiscoveryRequest, ReplySubject, RequestId, Response, RolloutId, RolloutReport, SharedReplies,
};
use crate::rollout::{Connection, Input};

/// How long the last requests may take to leave when the command ends.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// How many answers are passed on before anything else is looked at.
const CROWD: usize = 256;

/// The longest answer that is kept whole. The log that a listener of ours sends has at most half of that.
const MAX_ANSWER_BYTES: usize = 32 * 1024;

/// Connects the channels of one rollout with the bus.
#[derive(Debug)]
pub struct Link {
    bus: Bus,
    discovery: Discovery,
    reply_subjects: SharedReplies,
    replies: Subscriber,
    /// The id under which the answers to the roll call come.
    roll_call: RequestId,
    roll_call_ends: Option<Instant>,
    presence: Option<Presence>,
}

/// What other operators are told when they ask who is there.
#[derive(Debug)]
struct Presence {
    questions: Subscriber,
    report: RolloutReport,
}

impl Link {
    /// Subscribes to the answers of a rollout, before anything is published.
    pub async fn subscribe(bus: Bus, rollout: RolloutId, discovery: Discovery) -> Result<Self, FleetError> {
        let reply_subjects = SharedReplies::of(rollout);
        let replies = bus.client.subscribe(reply_subjects.pattern()).await.map_err(|_| FleetError::Disconnected)?;
        let roll_call = RequestId::from(Uuid::new_v4());
        Ok(Self { bus, discovery, reply_subjects, replies, roll_call, roll_call_ends: None, presence: None })
    }

    /// Passes on what is said and heard until the executor has dropped its ends.
    pub async fn serve(mut self, mut end: FleetEnd) {
        loop {
            let news = tokio::select! {
                order = end.orders.recv() => match order {
                    Some(order) => {
                        self.carry_out(order).await;
                        continue;
                    }
                    None => break,
                },
                Some(message) = self.replies.next() => {
                    if self.pass_on(message, &end.news).await.is_err() {
                        break;
                    }
                    continue;
                }
                Some(question) = asked(&mut self.presence) => {
                    self.answer(&question).await;
                    continue;
                }
                Some(event) = self.bus.events.recv() => self.became(event),
                () = sleep_until(self.roll_call_ends.unwrap_or_else(Instant::now)), if self.roll_call_ends.is_some() => {
                    self.roll_call_ends = None;
                    Some(News::Input(Input::RollCallOver))
                }
            };
            if let Some(news) = news
                && end.news.send(news).await.is_err()
            {
                break;
            }
        }
        // What was published last may still be on its way out; a server that is gone must not hold up the end.
        timeout(LEAVE_WITHIN, self.bus.client.flush()).await.ok();
    }

    /// Passes on what an answer says, and those that are here already: a crowd of them comes at once.
    async fn pass_on(&mut self, first: Message, to: &mpsc::Sender<News>) -> Result<(), SendError<News>> {
        let mut next = Some(first);
        let mut passed_on = 0;
        while let Some(message) = next {
            if let Some(news) = self.heard(&message) {
                to.send(news).await?;
            }
            passed_on += 1;
            next = if passed_on < CROWD { self.replies.next().now_or_never().flatten() } else { None };
        }
        Ok(())
    }

    async fn carry_out(&mut self, order: Order) {
        // While it is disconnected, the client would keep a message and send it whenever the server is back, which may be
        // long after the rollout has moved on. The executor asks every host in flight for its state then.
        if self.bus.client.connection_state() != State::Connected {
            return;
        }
        let (subject, reply_to, payload) = match order {
            Order::Publish(dispatch) => {
                let payload = dispatch.request.to_bytes();
                (dispatch.subject.to_string(), dispatch.request.reply_to, payload)
            }
            Order::Announce(report) => return self.announce(*report).await,
            Order::CallRoll => {
                self.roll_call_ends = Some(Instant::now() + self.discovery.window);
                let reply_to = self.reply_subjects.to(&self.roll_call);
                let question =
                    DiscoveryRequest { reply_to: reply_to.clone(), tier: self.discovery.tier, per_host: false };
                (self.discovery.subject.to_string(), reply_to, question.to_bytes())
            }
        };
        // The reply header makes the server say at once when nobody is subscribed. An error can only mean that the client
        // is being closed, which the executor learns as a lost connection.
        self.bus.client.publish_with_reply(subject, reply_to.to_string(), payload.into()).await.ok();
    }

    async fn announce(&mut self, report: RolloutReport) {
        if let Some(presence) = &mut self.presence {
            presence.report = report;
            return;
        }
        let questions = self.bus.client.subscribe(self.discovery.subject.to_string()).await;
        self.presence = questions.ok().map(|questions| Presence { questions, report });
    }

    async fn answer(&self, question: &Message) {
        // Listeners answer on the same subject to what is no question; that is not for this end.
        let Ok(question) = serde_json::from_slice::<DiscoveryRequest>(&question.payload) else { return };
        if let Some(Presence { report, .. }) = &self.presence
            && question.tier.is_none_or(|tier| report.tiers.contains(&tier))
        {
            let answer = DiscoveryAnswer::Operator { rollout: report.clone() };
            self.bus.client.publish(question.reply_to.to_string(), answer.to_bytes().into()).await.ok();
        }
    }

    fn became(&self, event: BusEvent) -> Option<News> {
        Some(match event {
            BusEvent::Up => News::Input(Input::Connection(Connection::Up)),
            BusEvent::Down => News::Input(Input::Connection(Connection::Down)),
            BusEvent::SlowConsumer => News::Input(Input::AnswersLost),
            BusEvent::Refused(violation) if self.is_dispensable(&violation) => {
                tracing::debug!("other operators are not told of this rollout: {violation}");
                return None;
            }
            BusEvent::Refused(violation) => News::Refused(violation),
            BusEvent::Error(error) => {
                tracing::debug!("{error}");
                return None;
            }
        })
    }

    /// The credential of a deployer to the test tier may not publish answers. Being seen by other operators is a courtesy;
    /// that two of them do not collide is up to the listeners.
    fn is_dispensable(&self, violation: &Violation) -> bool {
        match violation.operation {
            Operation::Publish => violation.subject.parse::<ReplySubject>().is_ok(),
            Operation::Subscribe => violation.subject == self.discovery.subject.as_str(),
        }
    }

    fn heard(&self, message: &Message) -> Option<News> {
        let request = self.reply_subjects.request_of(&message.subject)?;
        let nobody = message.status == Some(StatusCode::NO_RESPONDERS);
        let input = if request == self.roll_call {
            if nobody {
                return None;
            }
            match DiscoveryAnswer::parse(&message.payload) {
                Ok(DiscoveryAnswer::Host(report)) => Input::Present(report),
                Ok(DiscoveryAnswer::Operator { .. }) => return None,
                Err(error) => return unreadable(message, &error),
            }
        } else if nobody {
            Input::NoResponders { request }
        } else {
            match read(&message.payload) {
                Ok(response) => Input::Response { request, response: Arc::new(response) },
                Err(error) => return unreadable(message, &error),
            }
        };
        Some(News::Input(input))
    }
}

/// Reads an answer, and keeps of its words what is worth recording: a host that talks without end is not to fill the disk
/// of the operator.
fn read(payload: &[u8]) -> Result<Response, serde_json::Error> {
    let response = Response::parse(payload)?;
    if payload.len() <= MAX_ANSWER_BYTES {
        return Ok(response);
    }
    Response::parse(&response.to_bytes(MAX_ANSWER_BYTES))
}

/// An answer that cannot be read is none: the host is judged by its timeout.
fn unreadable(message: &Message, error: &serde_json::Error) -> Option<News> {
    tracing::warn!(subject = %message.subject, "an answer cannot be read: {error}");
    None
}

/// The next question of another operator; never, where this rollout was not announced.
async fn asked(presence: &mut Option<Presence>) -> Option<Message> {
    match presence {
        Some(presence) => presence.questions.next().await,
        None => std::future::pending().await,
    }
}
