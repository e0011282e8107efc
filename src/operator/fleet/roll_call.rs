//! Calls the roll, and checks the permissions that the rollout needs before it sends a request.

use std::collections::BTreeSet;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tokio::task::yield_now;
use tokio::time::timeout_at;
use uuid::Uuid;

use super::answers::Answers;
use super::expected::Expected;
use super::known_hosts::{Known, KnownHosts, Tiers};
use super::{Discovery, FleetError};
use crate::bus::{Bus, BusEvent, Operation, Violation};
use crate::protocol::subject::{discover_tier, probe, rollouts_answer, rollouts_question};
use crate::protocol::{
    DiscoveryRequest, HostAnswer, HostName, Replies, ReplySubject, Role, RolloutId, RolloutReport, Sender, Subject,
    Tier,
};

#[derive(Debug)]
pub struct RollCall<'a> {
    pub discovery: &'a Discovery,
    pub purpose: Purpose,
    pub awaited: Awaited,
}

/// The purpose of a roll call, which decides the permissions that the credential needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Send requests to hosts.
    Deploy {
        /// The tiers for which the credential must allow both requests and responses.
        needed: BTreeSet<Tier>,
        /// The tiers to ask, including the needed ones.
        asked: BTreeSet<Tier>,
    },
    /// List the hosts of this tier, or of every tier whose answers the credential may receive.
    List(Option<Tier>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// All known hosts of these tiers, and the named hosts. The call ends soon after they have answered, or with the
    /// window if the hosts of a tier are not known.
    Everybody { tiers: BTreeSet<Tier>, named: BTreeSet<Sender> },
    /// These hosts. The call ends soon after they have answered, with the window at the latest.
    Only(BTreeSet<Sender>),
    /// This host. The call ends once it has answered, or has been silent for a moment.
    One(Sender),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// A host is listed twice if two machines answered under its name.
    pub hosts: Vec<HostAnswer>,
    /// The rollouts of other operators, one entry for each tier.
    pub rollouts: Vec<RolloutReport>,
    /// The tiers whose answers this credential may not receive.
    pub unheard: Vec<Tier>,
    /// The hosts of the awaited tiers that answered an earlier roll call but not this one.
    pub silent: Vec<SilentHost>,
}

/// A host that answered only an earlier roll call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentHost {
    pub tier: Tier,
    pub hostname: HostName,
    pub role: Option<Role>,
}

impl Discovered {
    pub fn sorted(self) -> Vec<HostAnswer> {
        let mut hosts = self.hosts;
        hosts.sort_by(|a, b| (a.report.tier, &a.report.hostname).cmp(&(b.report.tier, &b.report.hostname)));
        hosts
    }
}

impl RollCall<'_> {
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
        let tried = bus.try_out(&[hearing.clone(), asking.clone()]).await;
        tried.is_ok_and(|tried| tried.refused.contains(&asking) && !tried.refused.contains(&hearing))
    }

    async fn ask(&self, bus: &mut Bus) -> Result<Discovered, FleetError> {
        let known = self.recall();
        let mut call = Call::new(self);
        let mut expected = Expected::new(&self.awaited, self.discovery, &known);
        let mut messages = call.subscribe(bus).await?;
        call.ask(bus).await?;

        let mut answers = Answers::new(call.id);
        loop {
            let next = async {
                tokio::select! {
                    message = messages.next() => message.map(Ok),
                    Some(event) = bus.events.recv() => Some(Err(event)),
                }
            };
            match timeout_at(expected.ends(), next).await {
                Err(_) => break,
                Ok(None) => return Err(FleetError::Disconnected),
                Ok(Some(Err(event))) => call.notice(event, &mut expected)?,
                Ok(Some(Ok(message))) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                    if call.nobody(&message, &mut expected) == Nobody::AtAll {
                        break;
                    }
                }
                Ok(Some(Ok(message))) => expected.heard(answers.take(&message)),
            }
        }
        // The client passes errors of the server to another task than the messages that came after them.
        for _ in 0..2 {
            yield_now().await;
        }
        while let Some(event) = bus.events.try_recv() {
            call.notice(event, &mut expected)?;
        }
        let (mut hosts, rollouts) = answers.into_parts();
        hosts.retain(|answer| is_believed(answer, &known));
        self.record(&hosts, &call, &expected, &known);
        bus.late_answers = Some((call.id, messages));
        let silent = silent(known, &hosts);
        Ok(Discovered { hosts, rollouts, unheard: call.unheard.into_iter().collect(), silent })
    }

    /// Returns the known hosts of the awaited tiers.
    fn recall(&self) -> Tiers {
        let Awaited::Everybody { tiers, .. } = &self.awaited else { return Tiers::new() };
        let mut known = self.discovery.known.recall();
        known.retain(|tier, _| tiers.contains(tier));
        known
    }

    fn record(&self, hosts: &[HostAnswer], call: &Call<'_>, expected: &Expected, known: &Tiers) {
        let heard = call.tiers.iter().copied().filter(|tier| !call.unheard.contains(tier));
        let whole = heard.filter(|_| expected.was_whole());
        let is_for_all = matches!(self.awaited, Awaited::Everybody { .. });
        if is_for_all && !KnownHosts::is_known(known, hosts, whole.clone()) {
            self.discovery.known.record(hosts, whole);
        }
    }
}

/// Whether an answer counts. Anyone can send the old form, so it does not count for a host with proved answers.
fn is_believed(answer: &HostAnswer, known: &Tiers) -> bool {
    let HostAnswer { report, proved } = answer;
    let is_believed = *proved || !known.get(&report.tier).is_some_and(|hosts| hosts.contains_key(&report.hostname));
    if !is_believed {
        tracing::warn!(host = %report.hostname, "an answer in the old form does not count: this host gave a better one before");
    }
    is_believed
}

fn silent(mut known: Tiers, hosts: &[HostAnswer]) -> Vec<SilentHost> {
    for HostAnswer { report, .. } in hosts {
        known.get_mut(&report.tier).map(|hosts| hosts.remove(&report.hostname));
    }
    let silent_host = |tier, (hostname, known): (_, Known)| SilentHost { tier, hostname, role: known.role };
    known.into_iter().flat_map(|(tier, hosts)| hosts.into_iter().map(move |host| silent_host(tier, host))).collect()
}

impl Awaited {
    /// Awaits all hosts of this tier, or of every tier.
    pub fn everybody(tier: Option<Tier>) -> Self {
        Self::Everybody { tiers: tier.map_or_else(|| Tier::ALL.into(), |tier| [tier].into()), named: BTreeSet::new() }
    }
}

impl Purpose {
    /// Returns the tiers whose hosts are certain to receive requests.
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

/// The subscribers that the server reports as absent: those of one subject, or all listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nobody {
    There,
    AtAll,
}

struct Call<'a> {
    discovery: &'a Discovery,
    purpose: &'a Purpose,
    tiers: Vec<Tier>,
    id: Uuid,
    replies: Replies,
    unheard: BTreeSet<Tier>,
    /// The tiers on which no other operator runs a rollout, or on which that does not matter or cannot be known.
    alone: BTreeSet<Tier>,
    /// The subjects of the roll call that the server has not refused.
    questions: BTreeSet<String>,
}

impl<'a> Call<'a> {
    fn new(RollCall { discovery, purpose, awaited }: &'a RollCall<'_>) -> Self {
        let (id, tiers) = (Uuid::new_v4(), purpose.tiers());
        let of_tiers = tiers.iter().map(|tier| discover_tier(&discovery.subject, *tier));
        let questions = of_tiers.chain([discovery.subject.clone()]).map(|subject| subject.to_string()).collect();
        let replies = Replies::of(RolloutId::from(id));
        // A deployment to a single host does not conflict with a rollout.
        let alone = tiers.iter().copied().filter(|_| matches!(awaited, Awaited::One(_))).collect();
        Self { discovery, purpose, tiers, id, replies, unheard: BTreeSet::new(), alone, questions }
    }

    /// Subscribes to all answers. Refusals of the server are [handled](Self::notice) later.
    async fn subscribe(&self, bus: &Bus) -> Result<SelectAll<Subscriber>, FleetError> {
        let mut subjects = vec![ReplySubject::single(self.id).to_string()];
        for tier in &self.tiers {
            subjects.push(ReplySubject::roll_call_pattern(*tier, self.id));
        }
        for tier in self.purpose.needed() {
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
        let only = self.tiers.first().copied().filter(|_| self.tiers.len() == 1);
        let question = DiscoveryRequest { reply_to: ReplySubject::single(self.id), tier: only, per_host: true };
        for tier in self.purpose.needed() {
            if !self.alone.contains(tier) {
                let nobody = rollouts_answer(*tier, self.id).to_string();
                publish(bus, &rollouts_question(*tier), Some(nobody), question.to_bytes()).await?;
            }
            let reply_to = self.replies.of_probe(*tier, self.id).to_string();
            publish(bus, &probe(*tier, self.id), Some(reply_to), Vec::new()).await?;
        }
        for tier in &self.tiers {
            let subject = discover_tier(&self.discovery.subject, *tier);
            publish(bus, &subject, None, question.to_bytes()).await?;
        }
        // All listeners subscribe to this subject: if it has no subscriber, no host will answer.
        let nobody = self.tiers.first().map(|tier| ReplySubject::roll_call_unheard(*tier, self.id).to_string());
        publish(bus, &self.discovery.subject, nobody, question.to_bytes()).await
    }

    /// Handles the server's report that a subject has no subscribers. If the probe has none and the operators' subject
    /// has some, another operator runs a rollout. The two reports may come in either order.
    fn nobody(&mut self, message: &Message, expected: &mut Expected) -> Nobody {
        let subject = message.subject.as_str();
        for tier in self.tiers.clone() {
            if subject == rollouts_answer(tier, self.id).as_str() {
                self.is_alone(tier, expected);
            } else if subject == self.replies.of_probe(tier, self.id).as_str() {
                if !self.alone.contains(&tier) {
                    expected.operator(tier);
                }
            } else if subject == ReplySubject::roll_call_unheard(tier, self.id).as_str() {
                return Nobody::AtAll;
            }
        }
        Nobody::There
    }

    fn is_alone(&mut self, tier: Tier, expected: &mut Expected) {
        self.alone.insert(tier);
        expected.no_operator(tier);
    }

    /// Handles an event of the connection. Fails if the roll call cannot succeed any more.
    fn notice(&mut self, event: BusEvent, expected: &mut Expected) -> Result<(), FleetError> {
        match event {
            BusEvent::Down => Err(FleetError::Disconnected),
            BusEvent::Refused(violation) => self.refused(violation, expected),
            BusEvent::Up | BusEvent::SlowConsumer | BusEvent::LockedOut | BusEvent::Error(_) => Ok(()),
        }
    }

    /// Fails if the refused permission is needed. Optional are one of the two subjects of the roll call, the answers of
    /// old listeners, and the question to other operators.
    fn refused(&mut self, violation: Violation, expected: &mut Expected) -> Result<(), FleetError> {
        let subject = violation.subject.as_str();
        match violation.operation {
            Operation::Publish => {
                let is_probe = |tier: &&Tier| probe(**tier, self.id).as_str() == subject;
                if let Some(&tier) = self.tiers.iter().find(is_probe) {
                    return Err(FleetError::NotForTier { tier, violation });
                }
                if let Some(&tier) = self.tiers.iter().find(|tier| rollouts_question(**tier).as_str() == subject) {
                    self.is_alone(tier, expected);
                }
                if self.questions.remove(subject) && self.questions.is_empty() {
                    return Err(FleetError::Refused(violation));
                }
            }
            Operation::Subscribe => {
                let is_of = |tier: &Tier| {
                    subject == ReplySubject::roll_call_pattern(*tier, self.id) || subject == self.replies.pattern(*tier)
                };
                if let Some(tier) = self.tiers.iter().copied().find(is_of) {
                    self.unheard.insert(tier);
                    expected.unheard(tier);
                    if self.purpose.must_hear(tier) || self.unheard.len() == self.tiers.len() {
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
