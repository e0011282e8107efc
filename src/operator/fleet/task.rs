//! The task that connects the driver's channels with the bus, and answers the roll calls of other operators.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Message, StatusCode, Subscriber};
use futures_util::stream::SelectAll;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use super::logs::{LogFollower, LogView};
use super::{FleetEnd, FleetEvent, Outbound};
use crate::bus::{Bus, BusEvent, Operation, Violation};
use crate::operator::discovery::{Discovery, FleetError};
use crate::protocol::request::is_acknowledgement;
use crate::protocol::subject::{discover_tier, probe, rollouts_answer, rollouts_question};
use crate::protocol::{
    DiscoveryAnswer, DiscoveryRequest, HostAnswer, Replies, ReplySubject, Response, RolloutReport, Sender, Tier,
};
use crate::rollout::{Connection, Dispatch, Input, Rollout};

/// How long the client may take to send the last requests when the command ends.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// How often to check which logs are due for a request.
const ASK_FOR_LOGS_EVERY: Duration = Duration::from_millis(100);

/// How many answers are passed on before the loop handles other events.
const CROWD: usize = 256;

const MAX_LATE: usize = 1_000;

/// The longest response that is kept whole, in bytes. The log that a listener sends with it has at most half of that.
const MAX_ANSWER_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub struct FleetTask {
    bus: Bus,
    discovery: Discovery,
    tiers: BTreeSet<Tier>,
    replies: Replies,
    /// The subject of responses in the old form.
    shared_reply_subject: ReplySubject,
    /// The responses from all tiers of the rollout.
    answers: SelectAll<Subscriber>,
    /// The id of the roll call before the rollout.
    called_before: Uuid,
    /// The id of the roll call during the rollout.
    roll_call: Option<Uuid>,
    /// The answers to both roll calls.
    roll_call_answers: SelectAll<Subscriber>,
    late_hosts: Vec<HostAnswer>,
    proof: Option<ReplySubject>,
    /// The roll calls of other operators. None is heard before the rollout is announced.
    questions: SelectAll<Subscriber>,
    /// The answer to them for each tier, which says nothing of other tiers.
    reports: Vec<RolloutReport>,
    logs: Option<LogFollower>,
    finishes_logs: bool,
}

impl FleetTask {
    /// Subscribes to the responses of a rollout, before any request is published. Also follows the logs of the runs that
    /// the operator watches.
    pub async fn subscribe(
        mut bus: Bus,
        rollout: &Rollout,
        discovery: Discovery,
        view: Option<LogView>,
    ) -> Result<Self, FleetError> {
        let (replies, tiers) = (Replies::of(rollout.id), rollout.plan.tiers());
        let shared_reply_subject = replies.of_all();
        // Hosts respond in the old form only to a request that several of them receive.
        let is_shared = rollout.plan.hosts().any(|host| host.shared_subject.is_some());
        let patterns = tiers.iter().map(|tier| replies.pattern(*tier));
        let mut answers = SelectAll::new();
        for pattern in patterns.chain(is_shared.then(|| shared_reply_subject.to_string())) {
            answers.push(bus.client.subscribe(pattern).await.map_err(|_| FleetError::Disconnected)?);
        }
        let (called_before, roll_call_answers) = bus.late_answers.take().unwrap_or_default();
        Ok(Self {
            bus,
            discovery,
            tiers,
            replies,
            shared_reply_subject,
            answers,
            called_before,
            roll_call: None,
            roll_call_answers,
            late_hosts: Vec::new(),
            proof: None,
            questions: SelectAll::new(),
            reports: Vec::new(),
            logs: view.map(|view| LogFollower::of(rollout, view)),
            finishes_logs: false,
        })
    }

    /// Passes messages on in both directions until the driver has dropped its ends.
    pub async fn serve(mut self, mut end: FleetEnd) {
        let mut ticks = interval(ASK_FOR_LOGS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                message = end.outbound.recv() => match message {
                    Some(message) => {
                        self.carry_out(message).await;
                        None
                    }
                    None => break,
                },
                Some(message) = self.answers.next() => {
                    if self.pass_on(message, &end.events).await.is_err() {
                        break;
                    }
                    None
                }
                Some(message) = self.roll_call_answers.next() => self.roll_call_answer(&message),
                Some(question) = self.questions.next() => {
                    self.answer(&question).await;
                    None
                }
                Some(event) = self.bus.events.recv() => self.connection_event(event),
                _ = ticks.tick(), if self.logs.is_some() => {
                    self.ask_for_logs().await;
                    let is_done = self.finishes_logs && self.logs.as_ref().is_some_and(LogFollower::is_done);
                    is_done.then_some(FleetEvent::LogsRead)
                }
            };
            if let Some(event) = event
                && end.events.send(event).await.is_err()
            {
                break;
            }
        }
        if !self.late_hosts.is_empty() {
            self.discovery.known.record(&self.late_hosts, []);
        }
        // Sends what is still buffered. A server that is gone must not delay the end.
        timeout(LEAVE_WITHIN, self.bus.client.flush()).await.ok();
    }

    /// Passes on an answer and those that have already arrived: many come at once.
    async fn pass_on(&mut self, first: Message, to: &mpsc::Sender<FleetEvent>) -> Result<(), SendError<FleetEvent>> {
        let mut next = Some(first);
        let mut passed_on = 0;
        let mut is_proved = false;
        while let Some(message) = next {
            match self.response_event(&message) {
                // Each subscription has its own queue, so earlier messages may be in another one.
                Some(FleetEvent::Proved) => is_proved = true,
                Some(event) => to.send(event).await?,
                None => {}
            }
            passed_on += 1;
            let goes_on = is_proved || passed_on < CROWD;
            next = if goes_on { self.answers.next().now_or_never().flatten() } else { None };
        }
        if is_proved { to.send(FleetEvent::Proved).await } else { Ok(()) }
    }

    async fn carry_out(&mut self, message: Outbound) {
        match message {
            Outbound::Announce(reports) => self.announce(reports).await,
            Outbound::FinishLogs => self.finishes_logs = true,
            // While disconnected, the client would buffer a message and send it once the server is back, perhaps long
            // after the rollout has moved on. After a reconnect, the driver asks every host in flight for its state.
            _ if self.bus.client.connection_state() != State::Connected => {}
            Outbound::Publish(Dispatch { subject, request }) => {
                let (reply_to, payload) = (request.reply_to.as_str().to_owned(), request.to_bytes());
                // With a reply subject, the server reports at once if there is no subscriber. An error can only mean
                // that the client is being closed, which the driver sees as a lost connection.
                self.bus.client.publish_with_reply(subject.as_str().to_owned(), reply_to, payload.into()).await.ok();
            }
            Outbound::CallRoll => self.call_roll().await,
            Outbound::Prove => self.ask_for_proof().await,
        }
    }

    async fn ask_for_logs(&mut self) {
        if self.bus.client.connection_state() != State::Connected {
            return;
        }
        for (subject, request) in self.logs.iter_mut().flat_map(LogFollower::requests) {
            // A lost request is repeated.
            self.bus.client.publish(subject.to_string(), request.to_bytes().into()).await.ok();
        }
    }

    /// Sends an empty message to a host that does not exist: the server reports that it has no subscriber.
    async fn ask_for_proof(&mut self) {
        let Some(&tier) = self.tiers.first() else { return };
        let name = Uuid::new_v4();
        let reply_to = self.replies.of_probe(tier, name);
        self.proof = Some(reply_to.clone());
        let subject = probe(tier, name).to_string();
        self.bus.client.publish_with_reply(subject, reply_to.to_string(), Vec::new().into()).await.ok();
    }

    /// Calls the roll again, to name hosts that came late. Answers in the old form are not awaited: this is optional.
    async fn call_roll(&mut self) {
        let is_first = self.roll_call.is_none();
        let roll_call = *self.roll_call.get_or_insert_with(Uuid::new_v4);
        let question = DiscoveryRequest { reply_to: ReplySubject::single(roll_call), tier: None, per_host: true };
        for tier in &self.tiers {
            if is_first {
                let pattern = ReplySubject::roll_call_pattern(*tier, roll_call);
                self.roll_call_answers.extend(self.bus.client.subscribe(pattern).await);
            }
            let subject = discover_tier(&self.discovery.subject, *tier).to_string();
            self.bus.client.publish(subject, question.to_bytes().into()).await.ok();
        }
        self.bus.client.publish(self.discovery.subject.to_string(), question.to_bytes().into()).await.ok();
    }

    /// Answers the roll calls of other operators with these reports from now on. A credential that may not receive roll
    /// calls gets none to answer.
    async fn announce(&mut self, reports: Vec<RolloutReport>) {
        if self.questions.is_empty() {
            let discover = &self.discovery.subject;
            let of_tiers =
                self.tiers.iter().flat_map(|tier| [discover_tier(discover, *tier), rollouts_question(*tier)]);
            for subject in of_tiers.chain([discover.clone()]) {
                self.questions.extend(self.bus.client.subscribe(subject.to_string()).await);
            }
        }
        self.reports = reports;
    }

    /// Answers on one subject for each tier, so that a key for one tier learns nothing of another.
    async fn answer(&self, question: &Message) {
        let Ok(question) = DiscoveryRequest::parse(&question.payload) else { return };
        let roll_call = question.reply_to.single_token().and_then(|token| token.parse::<Uuid>().ok());
        let Some(roll_call) = roll_call else { return };
        for report in &self.reports {
            for tier in report.tiers.iter().filter(|tier| question.tier.is_none_or(|asked| asked == **tier)) {
                let answer = DiscoveryAnswer::Operator { rollout: report.clone() };
                let subject = rollouts_answer(*tier, roll_call).to_string();
                self.bus.client.publish(subject, answer.to_bytes().into()).await.ok();
            }
        }
    }

    fn roll_call_answer(&mut self, message: &Message) -> Option<FleetEvent> {
        let late = Sender::of_roll_call(&message.subject, &self.called_before.to_string());
        let meanwhile = || Sender::of_roll_call(&message.subject, &self.roll_call?.to_string());
        let sender = late.clone().or_else(meanwhile)?;
        match DiscoveryAnswer::parse(&message.payload) {
            Ok(DiscoveryAnswer::Host(report)) if (report.tier, &report.hostname) == (sender.tier, &sender.host) => {
                if late.is_some() && self.late_hosts.len() < MAX_LATE {
                    self.late_hosts.push(HostAnswer { report: report.clone(), proved: true });
                }
                Some(FleetEvent::Input(Input::Discovered(report)))
            }
            Ok(_) => None,
            Err(error) => unreadable(message, &error),
        }
    }

    fn connection_event(&self, event: BusEvent) -> Option<FleetEvent> {
        Some(match event {
            BusEvent::Up => FleetEvent::Input(Input::Connection(Connection::Up)),
            BusEvent::Down => FleetEvent::Input(Input::Connection(Connection::Down)),
            BusEvent::SlowConsumer => FleetEvent::Input(Input::ResponsesLost),
            BusEvent::Refused(violation) if self.is_dispensable(&violation) => {
                tracing::debug!("not needed for a rollout: {violation}");
                return None;
            }
            BusEvent::Refused(violation) => FleetEvent::Refused(violation),
            // The client keeps trying.
            BusEvent::LockedOut => return None,
            BusEvent::Error(error) => {
                tracing::debug!("{error}");
                return None;
            }
        })
    }

    /// Whether a rollout works without the refused permission. It must send requests and receive responses. To be seen
    /// by other operators and to see late hosts is optional; listeners keep two operators from colliding.
    fn is_dispensable(&self, violation: &Violation) -> bool {
        match violation.operation {
            Operation::Publish => is_courtesy(&violation.subject, self.discovery.subject.as_str()),
            Operation::Subscribe => !self.tiers.iter().any(|tier| self.replies.pattern(*tier) == violation.subject),
        }
    }

    fn response_event(&mut self, message: &Message) -> Option<FleetEvent> {
        if let Some(logs) = &mut self.logs
            && let Some(from) = logs.sender(&message.subject)
        {
            let lines = logs.page(&from, &message.payload);
            return (!lines.is_empty()).then_some(FleetEvent::Log { host: from.host, lines });
        }
        if self.proof.as_ref().is_some_and(|proof| proof.as_str() == message.subject.as_str()) {
            return Some(FleetEvent::Proved);
        }
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            let (_, request) = self.replies.read(&message.subject, None)?;
            return Some(FleetEvent::Input(Input::NoResponders { request }));
        }
        match read(&message.payload) {
            Ok(response) if message.subject.as_str() == self.shared_reply_subject.as_str() => {
                Some(FleetEvent::Input(Input::OldResponse(Arc::new(response))))
            }
            Ok(response) => {
                let (from, request) = self.replies.read(&message.subject, Some(&response))?;
                if let Some(logs) = &mut self.logs {
                    logs.on_response(&from, &request, &response);
                }
                Some(FleetEvent::Input(Input::Response { from, request, response: Arc::new(response) }))
            }
            Err(error) => unreadable(message, &error),
        }
    }
}

fn is_courtesy(subject: &str, discovery: &str) -> bool {
    let is_question = subject.strip_prefix(discovery).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    is_question || subject.starts_with("deploy.operators.")
}

/// Parses a response and shortens its texts, so that a host cannot fill the operator's disk.
fn read(payload: &[u8]) -> Result<Response, serde_json::Error> {
    let response = Response::parse(payload)?;
    if payload.len() <= MAX_ANSWER_BYTES {
        return Ok(response);
    }
    Response::parse(&response.to_bytes(MAX_ANSWER_BYTES))
}

/// Ignores an answer that cannot be parsed; the host's timeout decides. A stream that records these subjects sends
/// acknowledgements to the reply subjects, which need no warning.
fn unreadable(message: &Message, error: &serde_json::Error) -> Option<FleetEvent> {
    if message.payload.is_empty() || is_acknowledgement(&message.payload) {
        tracing::debug!(subject = %message.subject, "acknowledged by a stream");
    } else {
        tracing::warn!(subject = %message.subject, "an answer cannot be read: {error}");
    }
    None
}
