//! Asking who is there.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Discovery, FleetError};
use crate::bus::{Bus, BusEvent};
use crate::protocol::{DiscoveryAnswer, DiscoveryRequest, HostName, HostReport, ReplySubject, RolloutReport, Tier};

/// How long other operators may take to answer once all hosts have. Their programs wait for such a question; a host that is
/// at work may be slow.
const OPERATORS_WITHIN: Duration = Duration::from_millis(250);

/// A roll call, and who is certainly expected to answer it.
#[derive(Debug)]
pub struct RollCall<'a> {
    /// Where, whom and for how long.
    pub discovery: &'a Discovery,
    /// When these hosts are all that is asked for, the call ends soon after all have answered. With none, or with groups
    /// beside them, it lasts for its whole window: how many will answer is not known.
    pub only: Option<BTreeSet<HostName>>,
}

/// Who answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollCalled {
    /// The hosts, in the order in which they answered.
    pub hosts: Vec<HostReport>,
    /// The rollouts that other operators are running.
    pub rollouts: Vec<RolloutReport>,
}

impl RollCalled {
    /// The hosts of a tier, or of all, by tier and name. A listener that knows nothing of tiers answers every roll call.
    pub fn hosts_of(self, tier: Option<Tier>) -> Vec<HostReport> {
        let mut hosts = self.hosts;
        hosts.retain(|host| tier.is_none_or(|tier| host.tier == tier));
        hosts.sort_by(|a, b| (a.tier, &a.hostname).cmp(&(b.tier, &b.hostname)));
        hosts
    }
}

impl RollCall<'_> {
    /// Asks, and listens for as long as somebody may still answer.
    pub async fn call(&self, bus: &mut Bus) -> Result<RollCalled, FleetError> {
        let mut ends = Instant::now() + self.discovery.window;
        let reply_to = ReplySubject::single(Uuid::new_v4());
        let question = DiscoveryRequest { reply_to: reply_to.clone(), tier: self.discovery.tier, per_host: false };
        let mut answers = bus.client.subscribe(reply_to.to_string()).await.map_err(|_| FleetError::Disconnected)?;
        let subject = self.discovery.subject.to_string();
        let payload = question.to_bytes().into();
        bus.client
            .publish_with_reply(subject, reply_to.to_string(), payload)
            .await
            .map_err(|_| FleetError::Disconnected)?;

        let mut called = RollCalled::default();
        let mut awaited = self.only.clone();
        loop {
            let next = async {
                tokio::select! {
                    message = answers.next() => message.map(Ok),
                    Some(event) = bus.events.recv() => Some(Err(event)),
                }
            };
            match timeout_at(ends, next).await {
                // The window has passed.
                Err(_) => break,
                Ok(None | Some(Err(BusEvent::Down))) => return Err(FleetError::Disconnected),
                Ok(Some(Err(BusEvent::Refused(violation)))) => return Err(FleetError::Refused(violation)),
                Ok(Some(Err(BusEvent::Up | BusEvent::SlowConsumer | BusEvent::Error(_)))) => {}
                // Nobody at all is subscribed, and so nobody will answer.
                Ok(Some(Ok(message))) if message.status == Some(StatusCode::NO_RESPONDERS) => break,
                Ok(Some(Ok(message))) => match DiscoveryAnswer::parse(&message.payload) {
                    Ok(DiscoveryAnswer::Host(report)) => {
                        if let Some(awaited) = &mut awaited
                            && awaited.remove(&report.hostname)
                            && awaited.is_empty()
                        {
                            ends = ends.min(Instant::now() + OPERATORS_WITHIN);
                        }
                        called.hosts.push(*report);
                    }
                    Ok(DiscoveryAnswer::Operator { rollout }) => called.rollouts.push(rollout),
                    Err(error) => tracing::warn!("an answer to the roll call cannot be read: {error}"),
                },
            }
        }
        answers.unsubscribe().await.ok();
        Ok(called)
    }
}
