//! Collects the answers to a roll call, and by which host each was sent.

use std::collections::BTreeMap;

use async_nats::Message;
use uuid::Uuid;

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

/// The news in an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Host(Sender),
    /// A host by an answer in the old form, which any sender could have written.
    OldForm(Sender),
    /// Another operator runs a rollout on this tier.
    Operator(Tier),
    Nothing,
}

/// The report of a host, and that of a second machine with the same name.
#[derive(Debug)]
struct Reports {
    first: Box<HostReport>,
    second: Option<Box<HostReport>>,
}

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
    pub(super) fn take(&mut self, message: &Message) -> Heard {
        let (subject, payload) = (message.subject.as_str(), &message.payload);
        // Status messages of the server have no payload.
        if payload.is_empty() || payload.len() > MAX_ANSWER_BYTES {
            return Heard::Nothing;
        }
        let answer = match DiscoveryAnswer::parse(payload) {
            Ok(answer) => answer,
            // A stream that records these subjects sends acknowledgements, which are no answers.
            Err(error) => {
                tracing::debug!(subject, "an answer to the roll call cannot be read: {error}");
                return Heard::Nothing;
            }
        };
        match answer {
            DiscoveryAnswer::Host(report) => self.take_host(subject, report),
            DiscoveryAnswer::Operator { rollout } => self.take_rollout(subject, rollout),
        }
    }

    fn take_host(&mut self, subject: &str, report: Box<HostReport>) -> Heard {
        let said = report.sender();
        let (reports, heard) = if said.answers_roll_call_on(subject, &self.token) {
            (&mut self.proved, Heard::Host(said.clone()))
        } else if subject == self.single {
            (&mut self.old_form, Heard::OldForm(said.clone()))
        } else {
            tracing::debug!(subject, host = %said.host, "an answer names another host than its subject");
            return Heard::Nothing;
        };
        let is_full = reports.len() >= MAX_HOSTS;
        match reports.get_mut(&said) {
            Some(reports) => reports.add(report),
            None if is_full => {}
            None => {
                reports.insert(said, Reports { first: report, second: None });
                return heard;
            }
        }
        Heard::Nothing
    }

    /// Records a rollout for the tier in the subject only: the permissions of the sender are by subject.
    fn take_rollout(&mut self, subject: &str, rollout: RolloutReport) -> Heard {
        let Some(tier) = tier_of_rollouts_answer(subject, self.roll_call) else { return Heard::Nothing };
        let rollout = RolloutReport { tiers: vec![tier], ..rollout };
        let is_known = self.rollouts.iter().any(|known| (known.id, &known.tiers) == (rollout.id, &rollout.tiers));
        if !is_known && self.rollouts.len() < MAX_ROLLOUTS {
            self.rollouts.push(rollout);
        }
        Heard::Operator(tier)
    }

    /// Returns the hosts by tier and name, and the rollouts. The old form counts only for hosts without another answer.
    pub(super) fn into_parts(self) -> (Vec<HostAnswer>, Vec<RolloutReport>) {
        let Self { proved, mut old_form, rollouts, .. } = self;
        old_form.retain(|sender, _| !proved.contains_key(sender));
        let answers = |reports: BTreeMap<Sender, Reports>, proved: bool| {
            let reports = reports.into_values().flat_map(|reports| [Some(reports.first), reports.second]);
            reports.flatten().map(move |report| HostAnswer { report, proved })
        };
        (answers(proved, true).chain(answers(old_form, false)).collect(), rollouts)
    }
}

impl Reports {
    /// Ignores repetitions. Keeps the report of a second machine beside the first.
    fn add(&mut self, report: Box<HostReport>) {
        if report.is_of_another_machine(&self.first) {
            self.second.get_or_insert(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Uuid = Uuid::from_u128(7);

    fn message(subject: &str, payload: &str) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    fn on(tier: &str, host: &str) -> String {
        format!("deploy.responses.{tier}.{host}.{CALL}")
    }

    fn report(tier: &str, host: &str, instance: u128) -> String {
        format!(r#"{{"hostname":"{host}","tier":"{tier}","instance":"{}"}}"#, Uuid::from_u128(instance))
    }

    /// Lists the hosts that count after these answers.
    fn counted(answers: &[(String, String)]) -> String {
        let mut taken = Answers::new(CALL);
        for (subject, payload) in answers {
            taken.take(&message(subject, payload));
        }
        let (hosts, _) = taken.into_parts();
        let line = |host: &HostAnswer| format!("{}.{} {}", host.report.tier, host.report.hostname, host.proved);
        hosts.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn an_answer_counts_for_the_host_that_its_subject_names() {
        let old_form = || ReplySubject::single(CALL).to_string();
        let honest = (on("prod", "ns1"), report("prod", "ns1", 1));
        let another_name = (on("prod", "ns2"), report("prod", "ns1", 2));
        let another_tier = (on("test", "ns1"), report("prod", "ns1", 2));
        let another_call = ("deploy.responses.prod.ns3.x".to_owned(), report("prod", "ns3", 3));
        insta::assert_snapshot!(counted(&[another_name, another_tier, another_call, honest.clone()]), @"prod.ns1 true");
        let forged = (old_form(), report("prod", "ns1", 2));
        insta::assert_snapshot!(counted(&[forged.clone(), honest, forged.clone()]), @"prod.ns1 true");
        insta::assert_snapshot!(counted(&[forged.clone(), forged]), @"prod.ns1 false");
    }

    #[test]
    fn a_second_machine_is_kept_and_a_repetition_is_not() {
        let says = |instance| (on("prod", "ns1"), report("prod", "ns1", instance));
        insta::assert_snapshot!(counted(&[says(1), says(1), says(1)]), @"prod.ns1 true");
        insta::assert_snapshot!(counted(&[says(1), says(2), says(3)]), @"prod.ns1 true, prod.ns1 true");
    }

    #[test]
    fn a_rollout_is_believed_for_the_tier_of_its_subject() {
        let rollout = r#"{"rollout":{"id":"00000000-0000-0000-0000-000000000000","name":"sunday","operator":"ops@desk",
            "tiers":["test","prod"],"wave":1,"waves":2,"since":"2026-11-23T10:00:00Z"}}"#;
        let mut taken = Answers::new(CALL);
        for subject in
            [format!("deploy.operators.test.{CALL}"), on("prod", "ns1"), "deploy.operators.prod.x".to_owned()]
        {
            taken.take(&message(&subject, rollout));
        }
        let (_, rollouts) = taken.into_parts();
        assert_eq!(rollouts.iter().map(|rollout| rollout.tiers.clone()).collect::<Vec<_>>(), [[Tier::Test]]);
    }
}
