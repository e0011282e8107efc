//! Plans the rollback of hosts: a rollout to the one commit that all of them ran before.
//!
//! Each host reported its earlier commit itself, so all hosts must agree on it: a host never chooses the commit of
//! others. A host's last run must be the one that is undone: later runs stay.

use std::collections::BTreeMap;

use miette::Diagnostic;
use thiserror::Error;

use super::journal::Recorded;
use crate::plan::{Plan, Roster, Selector, Settings, Spanned, Wave};
use crate::protocol::{Commit, HostName, RequestId, RolloutId, Target, Tier};
use crate::rollout::Rollout;
use crate::rollout::summary::HostProgress;
use crate::text::did_you_mean;

/// A plan that returns hosts to their earlier commit.
#[derive(Debug, Clone)]
pub struct RollbackPlan {
    pub plan: Plan,
    /// The commit that all hosts ran before.
    pub commit: Commit,
    /// The runs that are undone. The last run of a host must be one of these.
    undone: BTreeMap<(Tier, HostName), Vec<RequestId>>,
}

/// A host that a rollout changed.
struct Changed<'a> {
    rollout: &'a Rollout,
    view: &'a HostProgress,
    tier: Tier,
    wave: &'a str,
}

#[derive(Debug, Error, Diagnostic)]
pub enum RollbackError {
    #[error("rollout {} is running", .0.short())]
    #[diagnostic(help("stop it with `homelab-deploy abort`, and wait until it is over"))]
    StillRunning(RolloutId),
    #[error("the rollout changed no host whose earlier commit is known")]
    #[diagnostic(help("`homelab-deploy deploy HOST --to COMMIT` goes to any commit"))]
    NothingToUndo,
    #[error("no rollout on record here changed {host}")]
    #[diagnostic(help("{near}`homelab-deploy deploy HOST --to COMMIT` goes to any commit"))]
    Unchanged { host: HostName, near: String },
    #[error("{0} is a host of test and of prod")]
    #[diagnostic(help("write the tier as well, such as prod.{0}"))]
    TwoTiers(HostName),
    #[error("the hosts ran different commits before: {0}")]
    #[diagnostic(help(
        "return them one commit after the other: `homelab-deploy rollback HOST…` takes the hosts of one"
    ))]
    SeveralCommits(String),
    #[error("no answer from {0}")]
    #[diagnostic(help("what it ran last is not known; name the other hosts to return those"))]
    Silent(String),
    #[error("the listener of {0} does not tell which run was its last")]
    #[diagnostic(help("update it, or choose the commit: `homelab-deploy deploy HOST --to COMMIT`"))]
    TooOld(String),
    #[error("{0} ran something else since")]
    #[diagnostic(help(
        "its last run is not the one that would be undone; choose the commit: `homelab-deploy deploy HOST --to COMMIT`"
    ))]
    RanSince(String),
}

impl RollbackPlan {
    /// Returns all hosts that the rollout with this full id changed, last wave first. `rollouts` has the newest last.
    pub fn of_rollout(rollouts: &[Recorded], id: &str) -> Result<Self, RollbackError> {
        let found = newest_first(rollouts).find(|(rollout, _)| rollout.id.to_string() == id);
        let (rollout, recorded) = found.ok_or(RollbackError::NothingToUndo)?;
        check_is_over(recorded, rollout)?;
        let newest_first = recorded.summary.hosts.iter().rev().filter(|view| view.is_changed(rollout));
        let changed: Vec<Changed> = newest_first.filter_map(|view| Changed::new(rollout, view)).collect();
        Self::of(format!("rollback-{}", rollout.id.short()), &changed, rollouts)
    }

    /// Returns each of these hosts from the newest recorded rollout that changed it.
    pub fn of_hosts(rollouts: &[Recorded], hosts: &[(Option<Tier>, HostName)]) -> Result<Self, RollbackError> {
        let mut changed: Vec<Changed> = Vec::with_capacity(hosts.len());
        for (tier, name) in hosts {
            let found = |tier: Option<Tier>| {
                newest_first(rollouts).find_map(|(rollout, recorded)| {
                    let view = recorded.summary.host(name).filter(|view| view.is_changed(rollout))?;
                    let host = Changed::new(rollout, view)?;
                    tier.is_none_or(|tier| tier == host.tier).then_some((recorded, host))
                })
            };
            if tier.is_none() && Tier::ALL.iter().all(|tier| found(Some(*tier)).is_some()) {
                return Err(RollbackError::TwoTiers(name.clone()));
            }
            let (recorded, host) = found(*tier).ok_or_else(|| unchanged(name, rollouts))?;
            check_is_over(recorded, host.rollout)?;
            if !changed.iter().any(|other| (other.tier, &other.view.name) == (host.tier, name)) {
                changed.push(Changed { wave: "rollback", ..host });
            }
        }
        changed.sort_by_key(|host| std::cmp::Reverse(host.view.ended_at));
        match changed.as_slice() {
            [one] => Self::of(format!("{}.{}", one.tier, one.view.name), &changed, rollouts),
            _ => Self::of("rollback".to_owned(), &changed, rollouts),
        }
    }

    fn of(name: String, hosts: &[Changed<'_>], rollouts: &[Recorded]) -> Result<Self, RollbackError> {
        let mut by_commit: BTreeMap<&Commit, Vec<&str>> = BTreeMap::new();
        let (mut waves, mut undone) = (Vec::<Wave>::new(), BTreeMap::new());
        for host in hosts {
            let Some(commit) = host.view.ran_before(host.rollout) else { continue };
            by_commit.entry(commit).or_default().push(host.view.name.as_str());
            undone.insert((host.tier, host.view.name.clone()), host.runs_undone(rollouts));
            let target = Target::Host(host.tier, host.view.name.clone());
            let target = Spanned::nowhere(Selector { text: target.subject().to_string(), target });
            match waves.last_mut().filter(|last| last.name.value == host.wave) {
                Some(last) => last.targets.push(target),
                None => waves.push(Wave::unwritten(host.wave.to_owned(), vec![target], Settings::default())),
            }
        }
        if by_commit.len() > 1 {
            let groups = by_commit.iter().map(|(commit, hosts)| format!("{}: {}", commit.short(), hosts.join(" ")));
            return Err(RollbackError::SeveralCommits(groups.collect::<Vec<_>>().join("; ")));
        }
        let (commit, _) = by_commit.pop_first().ok_or(RollbackError::NothingToUndo)?;
        Ok(Self { plan: Plan::unwritten(name, waves), commit: commit.clone(), undone })
    }

    /// Fails if a host's last run is not the one to undo. A host that already runs the earlier commit is fine.
    pub fn check(&self, roster: &Roster) -> Result<(), RollbackError> {
        let (mut silent, mut too_old, mut ran_since) = (Vec::new(), Vec::new(), Vec::new());
        for ((tier, name), runs) in &self.undone {
            let refused = match roster.host(*tier, name).map(|report| (report, report.last.as_ref())) {
                None => &mut silent,
                Some((report, _)) if report.revision.as_ref() == Some(&self.commit) => continue,
                Some((_, None)) => &mut too_old,
                Some((_, Some(last))) if runs.iter().any(|run| run.as_str() == last.id) => continue,
                Some((_, Some(_))) => &mut ran_since,
            };
            refused.push(name.as_str());
        }
        let refused = |hosts: &[&str], error: fn(String) -> RollbackError| match hosts {
            [] => Ok(()),
            hosts => Err(error(hosts.join(" "))),
        };
        refused(&silent, RollbackError::Silent)?;
        refused(&too_old, RollbackError::TooOld)?;
        refused(&ran_since, RollbackError::RanSince)
    }
}

impl<'a> Changed<'a> {
    fn new(rollout: &'a Rollout, view: &'a HostProgress) -> Option<Self> {
        let wave = rollout.plan.waves.get(view.wave.0)?;
        Some(Self { rollout, view, tier: wave.hosts.get(view.index_in_wave)?.tier, wave: &wave.name })
    }

    /// Returns the runs that left the host in this rollout's state: its own, and later recorded ones without a change.
    fn runs_undone(&self, rollouts: &[Recorded]) -> Vec<RequestId> {
        let mut runs = Vec::new();
        for (rollout, recorded) in newest_first(rollouts) {
            let is_this = rollout.id == self.rollout.id;
            let view = recorded.summary.host(&self.view.name).filter(|view| is_this || !view.is_changed(rollout));
            if let Some(host) = view.and_then(|view| Changed::new(rollout, view)).filter(|host| host.tier == self.tier)
            {
                runs.extend(host.view.request.clone());
                runs.extend(host.view.rollback.as_ref().map(|rollback| rollback.request.clone()));
            }
            if is_this {
                break;
            }
        }
        runs
    }
}

fn newest_first(rollouts: &[Recorded]) -> impl Iterator<Item = (&Rollout, &Recorded)> {
    rollouts.iter().rev().filter_map(|recorded| Some((recorded.summary.rollout.as_deref()?, recorded)))
}

fn unchanged(host: &HostName, rollouts: &[Recorded]) -> RollbackError {
    let known = rollouts.iter().flat_map(|recorded| &recorded.summary.hosts).map(|view| view.name.as_str());
    let near = did_you_mean(host.as_str(), known.filter(|known| *known != host.as_str()));
    RollbackError::Unchanged { host: host.clone(), near }
}

fn check_is_over(recorded: &Recorded, rollout: &Rollout) -> Result<(), RollbackError> {
    let is_over = !recorded.running || recorded.summary.outcome.is_some();
    if is_over { Ok(()) } else { Err(RollbackError::StillRunning(rollout.id)) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::protocol::{Response, Status};
    use crate::rollout::summary::HostState;
    use crate::rollout::{Event, EventKind, HostOutcome, Summary};

    #[test]
    fn a_host_that_is_named_twice_is_returned_once() {
        let rollout = rollout(&[&["a", "b"]]);
        let mut summary = Summary::of([&Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Begun(rollout.clone()) }]);
        // Both have ended in the same moment.
        for view in &mut summary.hosts {
            let mut response = Response::new(view.name.clone(), Status::Completed, "");
            response.revision = rollout.revision.commit();
            response.previous_revision = Some("0123456789012345678901234567890123456789".parse().unwrap());
            view.state = HostState::Final(HostOutcome::Completed);
            view.response = Some(Arc::new(response));
        }
        let recorded = [Recorded { summary, running: false }];
        let named = ["a", "b", "a"].map(|host| (None, host.parse().unwrap()));
        let plan = RollbackPlan::of_hosts(&recorded, &named).unwrap().plan;
        let targets: Vec<&str> = plan.waves[0].targets.iter().map(|target| target.value.text.as_str()).collect();
        assert_eq!(targets, ["deploy.test.a", "deploy.test.b"]);
    }
}
