//! Checks whether an interrupted rollout may be resumed: meanwhile the fleet may have changed.

use super::flake::Need;
use super::fleet::{Awaited, Purpose, RollCall};
use super::history::History;
use super::prepare::{OperatorContext, PrepareError, Prepared, ahead_of, shares_a_tier};
use crate::bus::Bus;
use crate::plan::Roster;
use crate::protocol::Sender;
use crate::rollout::{Rollout, Summary};

/// Calls the roll for an interrupted rollout and makes the checks of a new one. The result is about the hosts that
/// still have to be deployed.
pub async fn prepare_again(
    left: &Summary,
    rollout: &Rollout,
    bus: &mut Bus,
    by: &OperatorContext,
) -> Result<Prepared, PrepareError> {
    let (plan, tiers) = (&rollout.plan, rollout.plan.tiers());
    let hosts = plan.hosts().map(|host| Sender { tier: host.tier, host: host.hostname.clone() });
    let roll_call = RollCall {
        discovery: &by.discovery,
        purpose: Purpose::Deploy { needed: tiers.clone(), asked: tiers },
        awaited: Awaited::Only(hosts.collect()),
    };
    let roll = roll_call.call(bus).await?;
    let roster = Roster::new(roll.hosts);
    if let Some(twin) = plan.hosts().find(|host| roster.is_ambiguous(host.tier, &host.hostname)) {
        return Err(PrepareError::TwoMachines(twin.hostname.clone()));
    }
    let others = roll.rollouts.into_iter().filter(|other| shares_a_tier(other, plan)).collect();
    // The checks are about the revisions that the hosts run now.
    let mut rest = rollout.clone();
    rest.plan.waves.drain(..left.current_wave.0);
    for wave in &mut rest.plan.waves {
        wave.hosts.retain(|host| left.host(&host.hostname).is_some_and(|host| !host.runs_what_was_asked()));
        for host in &mut wave.hosts {
            host.revision = roster.host(host.tier, &host.hostname).and_then(|report| report.revision.clone());
        }
    }
    rest.plan.waves.retain(|wave| !wave.hosts.is_empty());
    let mut ahead = Vec::new();
    if let Some(commit) = rollout.revision.commit() {
        let named = plan.flake_of_hosts(&roster).unwrap_or_default();
        let usable = by.flakes.usable(named, &rollout.asked, Need::No).await?;
        let mut history = History::of(by.flakes.given.as_ref().or(usable.as_ref()), by.cache.as_deref());
        ahead = ahead_of(&commit, &rest.plan, &mut history).await;
    }
    Ok(Prepared { rollout: rest, warnings: Vec::new(), roster, others, ahead, changes: None })
}
