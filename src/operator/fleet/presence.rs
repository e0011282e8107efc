//! Answers the roll calls of other operators, so that they see this rollout.

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use uuid::Uuid;

use crate::bus::Bus;
use crate::protocol::subject::{discover_tier, rollouts_answer, rollouts_question};
use crate::protocol::{DiscoveryAnswer, DiscoveryRequest, RolloutReport, Subject};

/// The answers to other operators' roll calls. There are none before the rollout is announced.
#[derive(Debug)]
pub(super) struct Presence {
    discover: Subject,
    questions: SelectAll<Subscriber>,
    /// The report for each tier, which says nothing of other tiers.
    reports: Vec<RolloutReport>,
}

impl Presence {
    pub(super) fn new(discover: Subject) -> Self {
        Self { discover, questions: SelectAll::new(), reports: Vec::new() }
    }

    /// Answers with these reports from now on. A credential that may not receive roll calls gets none to answer.
    pub(super) async fn announce(&mut self, bus: &Bus, reports: Vec<RolloutReport>) {
        if self.questions.is_empty() {
            let tiers = reports.iter().flat_map(|report| &report.tiers);
            let of_tiers = tiers.flat_map(|tier| [discover_tier(&self.discover, *tier), rollouts_question(*tier)]);
            let subjects: Vec<Subject> = of_tiers.chain([self.discover.clone()]).collect();
            for subject in subjects {
                self.questions.extend(bus.client.subscribe(subject.to_string()).await);
            }
        }
        self.reports = reports;
    }

    /// Waits for the next roll call. Never returns if the rollout was not announced.
    pub(super) async fn asked(&mut self) -> Option<Message> {
        match self.questions.next().await {
            Some(question) => Some(question),
            None => std::future::pending().await,
        }
    }

    /// Answers on one subject for each tier, so that a key for one tier learns nothing of another.
    pub(super) async fn answer(&self, bus: &Bus, question: &Message) {
        let Ok(question) = DiscoveryRequest::parse(&question.payload) else { return };
        let roll_call = question.reply_to.single_token().and_then(|token| token.parse::<Uuid>().ok());
        let Some(roll_call) = roll_call else { return };
        for report in &self.reports {
            for tier in report.tiers.iter().filter(|tier| question.tier.is_none_or(|asked| asked == **tier)) {
                let answer = DiscoveryAnswer::Operator { rollout: report.clone() };
                let subject = rollouts_answer(*tier, roll_call).to_string();
                bus.client.publish(subject, answer.to_bytes().into()).await.ok();
            }
        }
    }
}
