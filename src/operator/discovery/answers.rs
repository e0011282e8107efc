//! Collects the answers to a roll call, by the host that each is from, and decides when the roll call ends.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::time::Duration;

use async_nats::Message;
use tokio::time::Instant;
use uuid::Uuid;

use super::known_hosts::HostsByTier;
use super::{Awaited, Discovery};
use crate::protocol::subject::tier_of_rollouts_answer;
use crate::protocol::{DiscoveryAnswer, HostAnswer, HostReport, ReplySubject, RolloutReport, Sender, Tier};

/// The largest answer that is read, in bytes. The longest answer of a listener is a tenth of that.
const MAX_ANSWER_BYTES: usize = 32 * 1024;

/// The most hosts that are collected: three times the largest fleets. Answers in the old form may invent names.
const MAX_HOSTS: usize = 100_000;

const MAX_ROLLOUTS: usize = 16;

#[derive(Debug)]
pub(super) struct Answers {
    roll_call: Uuid,
    token: String,
    single: String,
    proved: BTreeMap<Sender, Reports>,
    old_form: BTreeMap<Sender, Reports>,
    rollouts: Vec<RolloutReport>,
}

/// The report of a host, and that of a second machine with the same name.
type Reports = (Box<HostReport>, Option<Box<HostReport>>);

impl Answers {
    pub(super) fn new(roll_call: Uuid) -> Self {
        Self {
            roll_call,
            token: roll_call.to_string(),
            single: ReplySubject::single(roll_call).to_string(),
            proved: BTreeMap::new(),
            old_form: BTreeMap::new(),
            rollouts: Vec::new(),
        }
    }

    /// Collects an answer if it can be read and its subject matches its content.
    pub(super) fn take(&mut self, message: &Message, expected: &mut Expected) {
        let (subject, payload) = (message.subject.as_str(), &message.payload);
        // Status messages of the server have no payload.
        if payload.is_empty() || payload.len() > MAX_ANSWER_BYTES {
            return;
        }
        match DiscoveryAnswer::parse(payload) {
            Ok(DiscoveryAnswer::Host(report)) => self.take_host(subject, report, expected),
            Ok(DiscoveryAnswer::Operator { rollout }) => self.take_rollout(subject, rollout, expected),
            // A stream that records these subjects sends acknowledgements, which are no answers.
            Err(error) => tracing::debug!(subject, "an answer to the roll call cannot be read: {error}"),
        }
    }

    fn take_host(&mut self, subject: &str, report: Box<HostReport>, expected: &mut Expected) {
        let said = report.sender();
        let is_proved = Sender::of_roll_call(subject, &self.token).as_ref() == Some(&said);
        if !is_proved && subject != self.single {
            tracing::debug!(subject, host = %said.host, "an answer names another host than its subject");
            return;
        }
        let reports = if is_proved { &mut self.proved } else { &mut self.old_form };
        let has_room = reports.len() < MAX_HOSTS;
        match reports.entry(said) {
            Entry::Occupied(mut known) => {
                let (first, second) = known.get_mut();
                if report.is_of_another_machine(first) {
                    second.get_or_insert(report);
                }
            }
            Entry::Vacant(new) if has_room => {
                if is_proved {
                    expected.host_answered(new.key());
                } else {
                    expected.old_listener_answered(new.key());
                }
                new.insert((report, None));
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Records a rollout for the tier in the subject only: the permissions of the sender are by subject.
    fn take_rollout(&mut self, subject: &str, rollout: RolloutReport, expected: &mut Expected) {
        let Some(tier) = tier_of_rollouts_answer(subject, self.roll_call) else { return };
        let rollout = RolloutReport { tiers: vec![tier], ..rollout };
        let is_known = self.rollouts.iter().any(|known| (known.id, &known.tiers) == (rollout.id, &rollout.tiers));
        if !is_known && self.rollouts.len() < MAX_ROLLOUTS {
            self.rollouts.push(rollout);
        }
        expected.no_operator(tier);
    }

    /// Returns the hosts by tier and name, and the rollouts. The old form counts only for hosts without another answer.
    pub(super) fn into_parts(self) -> (Vec<HostAnswer>, Vec<RolloutReport>) {
        let Self { proved, mut old_form, rollouts, .. } = self;
        old_form.retain(|sender, _| !proved.contains_key(sender));
        let answers = |reports: BTreeMap<Sender, Reports>, proved: bool| {
            let reports = reports.into_values().flat_map(|(first, second)| [Some(first), second]);
            reports.flatten().map(move |report| HostAnswer { report, proved })
        };
        let mut hosts: Vec<HostAnswer> = answers(proved, true).chain(answers(old_form, false)).collect();
        hosts.sort_by(|a, b| (a.report.tier, &a.report.hostname).cmp(&(b.report.tier, &b.report.hostname)));
        (hosts, rollouts)
    }
}

/// How long the roll call waits for further answers once all expected hosts have answered.
const QUIET: Duration = Duration::from_millis(250);

/// How long a single named host may take to answer. Its request is sent even if it does not.
const ONE_HOST_WITHIN: Duration = Duration::from_millis(250);

/// The least time for a second machine of the same name to answer too.
const TWIN_WITHIN: Duration = Duration::from_millis(1);

/// How long another operator who runs a rollout may take to answer: their network may be slow or down.
const OPERATORS_WITHIN: Duration = Duration::from_secs(4);

/// The answers that a roll call still waits for.
#[derive(Debug)]
pub(super) struct Expected {
    asked_at: Instant,
    window: Duration,
    awaited: Awaited,
    missing: BTreeSet<Sender>,
    /// Tiers whose hosts are not known from an earlier roll call.
    unknown: BTreeSet<Tier>,
    /// When a host last answered for the first time.
    news_at: Option<Instant>,
    /// Tiers on which another operator runs a rollout and has not answered yet.
    operators: BTreeSet<Tier>,
    /// Tiers on which no other operator is awaited: none runs a rollout, one has answered, or it cannot be known.
    without_operator: BTreeSet<Tier>,
}

impl Expected {
    pub(super) fn new(awaited: &Awaited, discovery: &Discovery, known: &HostsByTier) -> Self {
        let mut expected = Self {
            asked_at: Instant::now(),
            window: discovery.longest(),
            awaited: awaited.clone(),
            missing: BTreeSet::new(),
            unknown: BTreeSet::new(),
            news_at: None,
            operators: BTreeSet::new(),
            without_operator: BTreeSet::new(),
        };
        match awaited {
            Awaited::One(host) => {
                expected.window = expected.window.min(ONE_HOST_WITHIN);
                expected.missing.insert(host.clone());
                // A deployment to a single host does not conflict with a rollout.
                expected.without_operator = Tier::ALL.into();
            }
            Awaited::Everybody { tiers, named } => {
                expected.missing.clone_from(named);
                for tier in tiers {
                    // A window that the operator set is waited for in full.
                    match known.get(tier).filter(|_| discovery.window.is_none()) {
                        Some(hosts) => {
                            let hosts = hosts.keys().map(|host| Sender { tier: *tier, host: host.clone() });
                            expected.missing.extend(hosts);
                        }
                        None => _ = expected.unknown.insert(*tier),
                    }
                }
            }
        }
        expected
    }

    pub(super) fn host_answered(&mut self, sender: &Sender) {
        // Once the one awaited host has answered, further answers do not matter.
        if !matches!(self.awaited, Awaited::One(_)) || !self.missing.is_empty() {
            self.news_at = Some(Instant::now());
            self.missing.remove(sender);
        }
    }

    /// Waits for the whole window if that host is awaited: any host may have sent the answer, and the one that it names may
    /// yet answer. Old listeners are not recorded as known, and there may be more of them in a group.
    pub(super) fn old_listener_answered(&mut self, sender: &Sender) {
        if self.missing.contains(sender) || self.awaited.tiers().contains(&sender.tier) {
            self.unknown.insert(sender.tier);
        }
    }

    /// Stops waiting for this tier: the credential may not receive its answers.
    pub(super) fn ignore_tier(&mut self, tier: Tier) {
        self.unknown.remove(&tier);
        self.missing.retain(|sender| sender.tier != tier);
    }

    pub(super) fn await_operator(&mut self, tier: Tier) {
        if !self.without_operator.contains(&tier) {
            self.operators.insert(tier);
        }
    }

    pub(super) fn no_operator(&mut self, tier: Tier) {
        self.without_operator.insert(tier);
        self.operators.remove(&tier);
    }

    /// Returns when the roll call ends, unless further answers come.
    pub(super) fn ends(&self) -> Instant {
        let whole = self.asked_at + self.window;
        let hosts = match self.news_at {
            Some(at) if self.missing.is_empty() && self.unknown.is_empty() => whole.min(at + self.quiet(at)),
            _ => whole,
        };
        if self.operators.is_empty() { hosts } else { hosts.max(self.asked_at + OPERATORS_WITHIN) }
    }

    /// Whether the whole window has passed, so that every host had time to answer.
    pub(super) fn was_whole(&self) -> bool {
        self.asked_at.elapsed() >= self.window
    }

    fn quiet(&self, at: Instant) -> Duration {
        match self.awaited {
            // The answer of a second machine of the same name takes about as long as that of the first.
            Awaited::One(_) => (at - self.asked_at).clamp(TWIN_WITHIN, ONE_HOST_WITHIN),
            Awaited::Everybody { .. } => QUIET,
        }
    }
}

#[cfg(test)]
mod tests;
