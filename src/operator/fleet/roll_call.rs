//! Asking who is there, and trying what the rollout will need before anything is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::answers::Answers;
use super::{Discovery, FleetError};
use crate::bus::{Bus, BusEvent, Operation, Violation};
use crate::protocol::subject::{discover_tier, operators, probe};
use crate::protocol::{
    DiscoveryRequest, HostAnswer, Replies, ReplySubject, RolloutId, RolloutReport, Sender, Subject, Tier,
};

/// How long other operators may take to answer once all hosts have. Their programs wait for such a question; a host that is
/// at work may be slow.
const OPERATORS_WITHIN: Duration = Duration::from_millis(250);

/// How long a single named host may be silent before it is sent its request all the same.
const ONE_HOST_WITHIN: Duration = Duration::from_millis(250);

/// The least time that a second machine of the same name gets to answer as well.
const TWIN_WITHIN: Duration = Duration::from_millis(1);

/// A roll call.
#[derive(Debug)]
pub struct RollCall<'a> {
    /// Where it is called, and for how long.
    pub discovery: &'a Discovery,
    /// What for.
    pub purpose: Purpose,
    /// Who is awaited.
    pub awaited: Awaited,
}

/// What a roll call is for, which decides what the credential must be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Hosts are to be sent requests.
    Deploy {
        /// The tiers of hosts that have to be reached and heard.
        needed: BTreeSet<Tier>,
        /// The tiers that are asked, those that are needed among them.
        asked: BTreeSet<Tier>,
    },
    /// Hosts are to be listed: those of this tier, or of every tier that may be heard.
    List(Option<Tier>),
}

/// When a roll call is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// After its whole window: how many will answer is not known.
    Anybody,
    /// Soon after all of these have answered, and after the window at the latest.
    Only(BTreeSet<Sender>),
    /// As soon as this host has answered, or has been silent for a moment.
    One(Sender),
}

/// Who answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollCalled {
    /// The hosts. One under whose name two machines answered is in it twice.
    pub hosts: Vec<HostAnswer>,
    /// The rollouts that other operators are running, each for one tier.
    pub rollouts: Vec<RolloutReport>,
    /// The tiers whose hosts this credential may not hear.
    pub unheard: Vec<Tier>,
}

impl RollCalled {
    /// The hosts by tier and name.
    pub fn sorted(self) -> Vec<HostAnswer> {
        let mut hosts = self.hosts;
        hosts.sort_by(|a, b| (a.report.tier, &a.report.hostname).cmp(&(b.report.tier, &b.report.hostname)));
        hosts
    }
}

impl RollCall<'_> {
    /// Asks, and listens for as long as somebody may still answer.
    pub async fn call(&self, bus: &mut Bus) -> Result<RollCalled, FleetError> {
        let mut call = Call::new(self.discovery, &self.purpose);
        let asked_at = Instant::now();
        let mut messages = call.subscribe(bus).await?;
        call.ask(bus).await?;

        let mut answers = Answers::new(call.id);
        let mut ends = asked_at + self.window();
        let mut is_complete = false;
        loop {
            let next = async {
                tokio::select! {
                    message = messages.next() => message.map(Ok),
                    Some(event) = bus.events.recv() => Some(Err(event)),
                }
            };
            match timeout_at(ends, next).await {
                // The window has passed.
                Err(_) => break,
                Ok(None) => return Err(FleetError::Disconnected),
                Ok(Some(Err(event))) => call.notice(event)?,
                Ok(Some(Ok(message))) if call.is_nobody_there(&message) => break,
                Ok(Some(Ok(message))) => answers.take(&message),
            }
            if !is_complete && self.awaited.have_answered(&answers) {
                is_complete = true;
                ends = ends.min(Instant::now() + self.awaited.then_wait(asked_at.elapsed()));
            }
        }
        // The client hands a refusal to another task than the message that the server sent after it.
        for _ in 0..2 {
            yield_now().await;
        }
        while let Some(event) = bus.events.try_recv() {
            call.notice(event)?;
        }
        let (hosts, rollouts) = answers.into_parts();
        Ok(RollCalled { hosts, rollouts, unheard: call.unheard.into_iter().collect() })
    }

    fn window(&self) -> Duration {
        match self.awaited {
            Awaited::One(_) => self.discovery.window.min(ONE_HOST_WITHIN),
            Awaited::Anybody | Awaited::Only(_) => self.discovery.window,
        }
    }
}

impl Awaited {
    fn have_answered(&self, answers: &Answers) -> bool {
        match self {
            Self::Anybody => false,
            Self::Only(hosts) => hosts.iter().all(|host| answers.has(host)),
            Self::One(host) => answers.has(host),
        }
    }

    /// How long answers are awaited after that, which took so long.
    fn then_wait(&self, took: Duration) -> Duration {
        match self {
            // A second machine of the same name is as far away as the first, or nearly so.
            Self::One(_) => took.clamp(TWIN_WITHIN, ONE_HOST_WITHIN),
            Self::Anybody | Self::Only(_) => OPERATORS_WITHIN,
        }
    }
}

impl Purpose {
    /// The tiers whose hosts will be sent requests for certain.
    fn needed(&self) -> impl Iterator<Item = &Tier> {
        let needed = if let Self::Deploy { needed, .. } = self { Some(needed) } else { None };
        needed.into_iter().flatten()
    }

    fn must_hear(&self, tier: Tier) -> bool {
        match self {
            Self::Deploy { needed, .. } => needed.contains(&tier),
            Self::List(only) => only.is_some(),
        }
    }

    fn tiers(&self) -> Vec<Tier> {
        match self {
            Self::Deploy { asked, .. } => asked.iter().copied().collect(),
            Self::List(Some(tier)) => vec![*tier],
            Self::List(None) => Tier::ALL.to_vec(),
        }
    }
}

/// A roll call under way.
struct Call<'a> {
    discovery: &'a Discovery,
    purpose: &'a Purpose,
    tiers: Vec<Tier>,
    id: Uuid,
    replies: Replies,
    unheard: BTreeSet<Tier>,
    /// The subjects to ask on that are not refused.
    questions: BTreeSet<String>,
}

impl<'a> Call<'a> {
    fn new(discovery: &'a Discovery, purpose: &'a Purpose) -> Self {
        let (id, tiers) = (Uuid::new_v4(), purpose.tiers());
        let of_tiers = tiers.iter().map(|tier| discover_tier(&discovery.subject, *tier));
        let questions = of_tiers.chain([discovery.subject.clone()]).map(|subject| subject.to_string()).collect();
        let replies = Replies::of(RolloutId::from(id));
        Self { discovery, purpose, tiers, id, replies, unheard: BTreeSet::new(), questions }
    }

    /// Subscribes to all answers. What is refused of that is [noticed](Self::notice) later.
    async fn subscribe(&self, bus: &Bus) -> Result<SelectAll<Subscriber>, FleetError> {
        let mut subjects = vec![ReplySubject::single(self.id).to_string()];
        for tier in &self.tiers {
            subjects.push(ReplySubject::of_any_host(*tier, self.id));
        }
        for tier in self.purpose.needed() {
            subjects.extend([self.replies.pattern(*tier), operators(*tier, self.id).to_string()]);
        }
        let mut messages = Vec::with_capacity(subjects.len());
        for subject in subjects {
            messages.push(bus.client.subscribe(subject).await.map_err(|_| FleetError::Disconnected)?);
        }
        Ok(select_all(messages))
    }

    /// Tries whether the hosts of each tier can be reached, by an empty message to a name that no host has, and asks who is
    /// there. The server reads all of it in order: once an answer is here, each refusal is as well.
    async fn ask(&self, bus: &Bus) -> Result<(), FleetError> {
        for tier in self.purpose.needed() {
            let reply_to = self.replies.of_probe(*tier, self.id);
            publish(bus, &probe(*tier, self.id), Some(reply_to), Vec::new()).await?;
        }
        let only = self.tiers.first().copied().filter(|_| self.tiers.len() == 1);
        let question = DiscoveryRequest { reply_to: ReplySubject::single(self.id), tier: only, per_host: true };
        for tier in &self.tiers {
            let subject = discover_tier(&self.discovery.subject, *tier);
            publish(bus, &subject, None, question.to_bytes()).await?;
        }
        // All listeners subscribe to this one: when nobody is subscribed, nobody will answer.
        let nobody = self.tiers.first().map(|tier| ReplySubject::of_nobody(*tier, self.id));
        publish(bus, &self.discovery.subject, nobody, question.to_bytes()).await
    }

    /// Whether the server says that no listener is subscribed.
    fn is_nobody_there(&self, message: &Message) -> bool {
        let is_about_it = |tier: &Tier| ReplySubject::of_nobody(*tier, self.id).as_str() == message.subject.as_str();
        message.status == Some(StatusCode::NO_RESPONDERS) && self.tiers.iter().any(is_about_it)
    }

    /// Takes notice of what happens to the connection. An error means that there is no point in asking.
    fn notice(&mut self, event: BusEvent) -> Result<(), FleetError> {
        match event {
            BusEvent::Down => Err(FleetError::Disconnected),
            BusEvent::Refused(violation) => self.refused(violation),
            BusEvent::Up | BusEvent::SlowConsumer | BusEvent::Error(_) => Ok(()),
        }
    }

    /// Some things are needed. Others are done without: asking on both subjects, hearing listeners of the old form, being seen
    /// by other operators.
    fn refused(&mut self, violation: Violation) -> Result<(), FleetError> {
        let subject = violation.subject.as_str();
        match violation.operation {
            Operation::Publish => {
                if self.tiers.iter().any(|tier| probe(*tier, self.id).as_str() == subject) {
                    return Err(FleetError::Refused(violation));
                }
                if self.questions.remove(subject) && self.questions.is_empty() {
                    return Err(FleetError::Refused(violation));
                }
            }
            Operation::Subscribe => {
                let is_of = |tier: &Tier| {
                    subject == ReplySubject::of_any_host(*tier, self.id) || subject == self.replies.pattern(*tier)
                };
                if let Some(tier) = self.tiers.iter().copied().find(is_of) {
                    self.unheard.insert(tier);
                    if self.purpose.must_hear(tier) || self.unheard.len() == self.tiers.len() {
                        return Err(FleetError::Refused(violation));
                    }
                }
            }
        }
        Ok(())
    }
}

async fn publish(
    bus: &Bus,
    subject: &Subject,
    reply_to: Option<ReplySubject>,
    payload: Vec<u8>,
) -> Result<(), FleetError> {
    let (client, subject) = (&bus.client, subject.to_string());
    match reply_to {
        Some(reply_to) => client.publish_with_reply(subject, reply_to.to_string(), payload.into()).await,
        None => client.publish(subject, payload.into()).await,
    }
    .map_err(|_| FleetError::Disconnected)
}
