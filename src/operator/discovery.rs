//! Calls the roll: asks which hosts answer, and checks the permissions that a rollout needs before it sends a request.

mod answers;
mod known_hosts;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use miette::Diagnostic;
use thiserror::Error;
use tokio::time::timeout_at;
use uuid::Uuid;

use self::answers::{Answers, Expected};
use self::known_hosts::update;
pub use self::known_hosts::{HostsByTier, KnownHosts, fleet_name};
use crate::bus::{Bus, BusEvent, Operation, Violation};
use crate::protocol::subject::{discover_tier, probe, rollouts_answer, rollouts_question};
use crate::protocol::{
    DiscoveryRequest, HostAnswer, Replies, ReplySubject, RolloutId, RolloutReport, Sender, Subject, Tier,
};

const WINDOW: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The subject of the question. Hosts of one tier are also asked on a subject below it.
    pub subject: Subject,
    /// How long to wait for answers. If not set, two seconds, or less once all expected hosts have answered.
    pub window: Option<Duration>,
    pub known: KnownHosts,
}

impl Discovery {
    pub fn longest(&self) -> Duration {
        self.window.unwrap_or(WINDOW)
    }
}

#[derive(Debug)]
pub struct RollCall<'a> {
    pub discovery: &'a Discovery,
    /// The tiers to ask. It is an error if the credential may receive the answers of none.
    pub asked: BTreeSet<Tier>,
    /// The tiers of these for which the credential must allow both requests and responses.
    pub needed: BTreeSet<Tier>,
    pub awaited: Awaited,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// All known hosts of these tiers, and the named hosts. The call ends soon after they have answered, or with the
    /// window if the hosts of a tier are not known.
    Everybody { tiers: BTreeSet<Tier>, named: BTreeSet<Sender> },
    /// This host. The call ends once it has answered, or has been silent for a moment.
    One(Sender),
}

impl Awaited {
    pub fn only(named: impl IntoIterator<Item = Sender>) -> Self {
        Self::Everybody { tiers: BTreeSet::new(), named: named.into_iter().collect() }
    }

    fn tiers(&self) -> &BTreeSet<Tier> {
        static NONE: BTreeSet<Tier> = BTreeSet::new();
        match self {
            Self::Everybody { tiers, .. } => tiers,
            Self::One(_) => &NONE,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// By tier and name. A host is listed twice if two machines answered under its name.
    pub hosts: Vec<HostAnswer>,
    /// The rollouts of other operators, one entry for each tier.
    pub rollouts: Vec<RolloutReport>,
    pub unheard: BTreeSet<Tier>,
    /// The hosts of the awaited tiers that answered an earlier roll call but not this one.
    pub silent: HostsByTier,
}

#[derive(Debug, Error, Diagnostic)]
pub enum FleetError {
    #[error("{0}")]
    #[diagnostic(help(
        "nothing was sent. A deployer publishes to the subjects of its tier and to deploy.discover, and hears the answers of that \
         tier; `homelab-deploy nats-config` prints such permissions for the server's configuration"
    ))]
    Refused(Violation),
    #[error("this credential may not deploy to {tier}: {violation}")]
    #[diagnostic(help(
        "nothing was sent. A deployer of a tier publishes to deploy.{tier}.>, and subscribes to deploy.responses.{tier}.>; \
         `homelab-deploy nats-config` prints such permissions for the server's configuration"
    ))]
    NotForTier { tier: Tier, violation: Violation },
    #[error("this is the key of a listener, and hosts cannot deploy")]
    #[diagnostic(help(
        "nothing was sent. Use the key of an operator, such as the keys/operator.seed that `homelab-deploy init` writes"
    ))]
    OfListener,
    #[error("the connection to NATS was lost during the roll call")]
    #[diagnostic(help("nothing was deployed; try again when the server is back"))]
    Disconnected,
}

impl<'a> RollCall<'a> {
    /// Lists the hosts of this tier, or of every tier whose answers the credential may receive.
    pub fn of_all(discovery: &'a Discovery, tier: Option<Tier>) -> Self {
        let asked: BTreeSet<Tier> = tier.map_or_else(|| Tier::ALL.into(), |tier| [tier].into());
        let awaited = Awaited::Everybody { tiers: asked.clone(), named: BTreeSet::new() };
        Self { discovery, asked, needed: BTreeSet::new(), awaited }
    }

    /// Calls the roll and collects answers until no more are expected.
    pub async fn call(&self, bus: &mut Bus) -> Result<Discovered, FleetError> {
        match self.ask(bus).await {
            Err(FleetError::NotForTier { .. }) if self.is_of_listener(bus).await => Err(FleetError::OfListener),
            called => called,
        }
    }

    /// Whether the credential may receive roll calls but not send them, as that of a listener.
    async fn is_of_listener(&self, bus: &mut Bus) -> bool {
        let question = self.discovery.subject.to_string();
        let [hearing, asking] =
            [Operation::Subscribe, Operation::Publish].map(|operation| (operation, question.clone()));
        let tried = bus.try_out(&[hearing.clone(), asking.clone()], &question).await;
        tried.is_ok_and(|tried| tried.refused.contains(&asking) && !tried.refused.contains(&hearing))
    }

    async fn ask(&self, bus: &mut Bus) -> Result<Discovered, FleetError> {
        // Without a group, no known host is awaited, and they matter only to answers in the old form.
        let is_for_all = !self.awaited.tiers().is_empty();
        let mut known = if is_for_all { self.discovery.known.recall() } else { HostsByTier::new() };
        let mut call = CallState::new(self, &known);
        let mut messages = call.subscribe(bus).await?;
        call.ask(bus).await?;
        loop {
            let next = async {
                tokio::select! {
                    message = messages.next() => message.map(Ok),
                    Some(event) = bus.events.recv() => Some(Err(event)),
                }
            };
            match timeout_at(call.expected.ends(), next).await {
                Err(_) => break,
                Ok(None) => return Err(FleetError::Disconnected),
                Ok(Some(Err(event))) => call.notice(event)?,
                Ok(Some(Ok(message))) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                    if call.nobody_subscribed(&message).is_break() {
                        break;
                    }
                }
                Ok(Some(Ok(message))) => call.answers.take(&message, &mut call.expected),
            }
        }
        for event in bus.events.before_last_message().await {
            call.notice(event)?;
        }
        let CallState { id, answers, expected, unheard, .. } = call;
        let (mut hosts, rollouts) = answers.into_parts();
        if !is_for_all && hosts.iter().any(|answer| !answer.proved) {
            known = self.discovery.known.recall();
        }
        hosts.retain(|answer| is_believed(answer, &known));
        let whole = self.asked.difference(&unheard).copied().filter(|_| expected.was_whole());
        // The file may be large, and is read again only for news.
        if is_for_all && update(&mut known, &hosts, whole.clone()) {
            self.discovery.known.record(&hosts, whole);
        }
        bus.late_answers = Some((id, messages));
        let silent = self.silent(known, &hosts);
        Ok(Discovered { hosts, rollouts, unheard, silent })
    }

    fn silent(&self, mut known: HostsByTier, hosts: &[HostAnswer]) -> HostsByTier {
        known.retain(|tier, _| self.awaited.tiers().contains(tier));
        for HostAnswer { report, .. } in hosts {
            known.get_mut(&report.tier).map(|hosts| hosts.remove(&report.hostname));
        }
        known
    }
}

/// Whether an answer counts. Anyone can send the old form, so it does not count for a host with proved answers.
fn is_believed(answer: &HostAnswer, known: &HostsByTier) -> bool {
    let HostAnswer { report, proved } = answer;
    let is_believed = *proved || !known.get(&report.tier).is_some_and(|hosts| hosts.contains_key(&report.hostname));
    if !is_believed {
        tracing::warn!(host = %report.hostname, "an answer in the old form does not count: this host gave a better one before");
    }
    is_believed
}

struct CallState<'a> {
    roll_call: &'a RollCall<'a>,
    id: Uuid,
    replies: Replies,
    unheard: BTreeSet<Tier>,
    /// The subjects of the roll call that the server has not refused.
    questions: BTreeSet<String>,
    answers: Answers,
    expected: Expected,
}

impl<'a> CallState<'a> {
    fn new(roll_call: &'a RollCall<'a>, known: &HostsByTier) -> Self {
        let (id, discover) = (Uuid::new_v4(), &roll_call.discovery.subject);
        let of_tiers = roll_call.asked.iter().map(|tier| discover_tier(discover, *tier));
        Self {
            roll_call,
            id,
            replies: Replies::of(RolloutId::from(id)),
            unheard: BTreeSet::new(),
            questions: of_tiers.chain([discover.clone()]).map(|subject| subject.to_string()).collect(),
            answers: Answers::new(id),
            expected: Expected::new(&roll_call.awaited, roll_call.discovery, known),
        }
    }

    /// Subscribes to all answers. Refusals of the server are [handled](Self::notice) later.
    async fn subscribe(&self, bus: &Bus) -> Result<SelectAll<Subscriber>, FleetError> {
        let mut subjects = vec![ReplySubject::single(self.id).to_string()];
        subjects.extend(self.roll_call.asked.iter().map(|tier| ReplySubject::roll_call_pattern(*tier, self.id)));
        for tier in &self.roll_call.needed {
            subjects.extend([self.replies.pattern(*tier), rollouts_answer(*tier, self.id).to_string()]);
        }
        let mut messages = Vec::with_capacity(subjects.len());
        for subject in subjects {
            messages.push(bus.client.subscribe(subject).await.map_err(|_| FleetError::Disconnected)?);
        }
        Ok(select_all(messages))
    }

    /// Calls the roll, after probing the permission for each needed tier with an empty message to a host that does not
    /// exist. The server reads the messages in order, so each refusal has arrived once an answer has.
    async fn ask(&self, bus: &Bus) -> Result<(), FleetError> {
        let RollCall { discovery, asked, needed, awaited } = self.roll_call;
        let first = asked.first().copied();
        let only = first.filter(|_| asked.len() == 1);
        let question = DiscoveryRequest { reply_to: ReplySubject::single(self.id), tier: only, per_host: true };
        for tier in needed {
            // A deployment to a single host does not conflict with a rollout.
            if !matches!(awaited, Awaited::One(_)) {
                let nobody = rollouts_answer(*tier, self.id).to_string();
                publish(bus, &rollouts_question(*tier), Some(nobody), question.to_bytes()).await?;
            }
            let reply_to = self.replies.of_probe(*tier, self.id).to_string();
            publish(bus, &probe(*tier, self.id), Some(reply_to), Vec::new()).await?;
        }
        for tier in asked {
            let subject = discover_tier(&discovery.subject, *tier);
            publish(bus, &subject, None, question.to_bytes()).await?;
        }
        // All listeners subscribe to this subject: if it has no subscriber, no host will answer.
        let nobody = first.map(|tier| ReplySubject::roll_call_unheard(tier, self.id).to_string());
        publish(bus, &discovery.subject, nobody, question.to_bytes()).await
    }

    /// Handles the server's report that a subject has no subscribers; breaks if no listener has any. If the probe has
    /// none and the operators' subject has some, another operator runs a rollout. The two reports may come in either
    /// order.
    fn nobody_subscribed(&mut self, message: &Message) -> ControlFlow<()> {
        let subject = message.subject.as_str();
        for &tier in &self.roll_call.asked {
            if subject == rollouts_answer(tier, self.id).as_str() {
                self.expected.no_operator(tier);
            } else if subject == self.replies.of_probe(tier, self.id).as_str() {
                self.expected.await_operator(tier);
            } else if subject == ReplySubject::roll_call_unheard(tier, self.id).as_str() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Handles an event of the connection. Fails if the roll call cannot succeed any more.
    fn notice(&mut self, event: BusEvent) -> Result<(), FleetError> {
        match event {
            BusEvent::Down => Err(FleetError::Disconnected),
            BusEvent::Refused(violation) => self.refused(violation),
            BusEvent::Up | BusEvent::SlowConsumer | BusEvent::LockedOut | BusEvent::Error(_) => Ok(()),
        }
    }

    /// Fails if the refused permission is needed. Optional are one of the two subjects of the roll call, the answers of
    /// old listeners, and the question to other operators.
    fn refused(&mut self, violation: Violation) -> Result<(), FleetError> {
        let RollCall { asked, needed, .. } = self.roll_call;
        let (subject, mut tiers) = (violation.subject.as_str(), asked.iter().copied());
        match violation.operation {
            Operation::Publish => {
                if let Some(tier) = tiers.clone().find(|tier| probe(*tier, self.id).as_str() == subject) {
                    return Err(FleetError::NotForTier { tier, violation });
                }
                if let Some(tier) = tiers.find(|tier| rollouts_question(*tier).as_str() == subject) {
                    self.expected.no_operator(tier);
                }
                if self.questions.remove(subject) && self.questions.is_empty() {
                    return Err(FleetError::Refused(violation));
                }
            }
            Operation::Subscribe => {
                let is_of = |tier: &Tier| {
                    subject == ReplySubject::roll_call_pattern(*tier, self.id) || subject == self.replies.pattern(*tier)
                };
                if let Some(tier) = tiers.find(is_of) {
                    self.unheard.insert(tier);
                    self.expected.ignore_tier(tier);
                    if needed.contains(&tier) || self.unheard.len() == asked.len() {
                        return Err(FleetError::NotForTier { tier, violation });
                    }
                }
            }
        }
        Ok(())
    }
}

async fn publish(bus: &Bus, subject: &Subject, reply_to: Option<String>, payload: Vec<u8>) -> Result<(), FleetError> {
    let (client, subject) = (&bus.client, subject.to_string());
    match reply_to {
        Some(reply_to) => client.publish_with_reply(subject, reply_to, payload.into()).await,
        None => client.publish(subject, payload.into()).await,
    }
    .map_err(|_| FleetError::Disconnected)
}
