//! Prepares a rollout: settles its hosts, its commit and its warnings. Deploys nothing.

mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use miette::Diagnostic;
use thiserror::Error;
use tokio::try_join;
use uuid::Uuid;

pub use self::selection::{SelectionError, WaveSelection};
use self::selection::{add_silent_hosts, exclude_hosts};
use super::commits::{History, UnresolvedError, commits_at_hand, resolve_revision};
use super::discovery::{Awaited, Discovered, Discovery, FleetError, HostsByTier, KnownHosts, RollCall};
use super::flake::{FlakeError, FlakeRules};
use super::journal::Journals;
use super::nix::{NixError, SystemsFrom, changes_of};
use super::preflight::{PreflightError, ahead_of, host_warnings, shares_a_tier};
use crate::bus::Bus;
use crate::clock;
use crate::plan::{Changes, Hooks, Plan, PlanErrors, ResolvedPlan, Roster, Systems};
use crate::protocol::{
    Action, Commit, FlakeUrl, HostName, RequestIds, Revision, RolloutId, RolloutReport, Sender, Tier,
};
use crate::rollout::{PlanSource, Rollout, Summary};

/// How long a host that stopped answering is reported as missing. After that it counts as removed.
const MISSED_FOR: Duration = Duration::from_hours(30 * 24);

/// Who deploys, and what this machine keeps and may ask.
#[derive(Debug, Clone)]
pub struct OperatorContext {
    pub name: String,
    pub discovery: Discovery,
    pub journals: Journals,
    /// Where a revision is looked up, where the plan does not say it.
    pub flakes: FlakeRules,
    /// The cache folder for commits from git servers. `None` if servers must not be asked.
    pub cache: Option<PathBuf>,
}

/// The plan to roll out and the options that narrow it down.
#[derive(Debug, Clone)]
pub struct PrepareOptions {
    pub plan: Plan,
    pub source: Option<PlanSource>,
    pub revision: Revision,
    pub exclude: Vec<HostName>,
    pub waves: WaveSelection,
    pub by: OperatorContext,
    pub kind: RolloutKind,
    /// Whether hosts that already run the commit get a request too.
    pub even_if_current: bool,
    /// The hooks for events to which the plan has no hook.
    pub hooks: Hooks,
    /// The systems of the hosts, if they do not evaluate their own.
    pub systems: Option<SystemsFrom>,
    /// The cache to ask what the systems change. By default, the one that the systems were copied to.
    pub binary_cache: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutKind {
    /// From a plan: all hosts get one commit, and a tier belongs to one operator at a time.
    Plan,
    /// From a command line: each host resolves a branch that this machine cannot resolve. A single host gets its
    /// request as soon as it has answered, even during other rollouts: a listener does one thing at a time.
    Deployment,
}

/// The result of a roll call, and of the lookup of the revision at the same time.
#[derive(Debug)]
pub struct RollCallResult {
    pub roll: Discovered,
    /// The lookup in the flake that the plan or the operator names. `None` if the hosts have to name the flake.
    revision: Option<Result<ResolvedRevision, UnresolvedError>>,
}

#[derive(Debug)]
struct ResolvedRevision {
    flake: Option<FlakeUrl>,
    commit: Commit,
    subject: Option<String>,
    history: History,
}

#[derive(Debug)]
pub struct Prepared {
    pub rollout: Rollout,
    /// Shown to the operator before the rollout begins, in whole sentences.
    pub warnings: Vec<String>,
    pub roster: Roster,
    /// The rollout of another operator on one of the tiers.
    pub other: Option<RolloutReport>,
    /// Hosts that run a later commit than that of the rollout.
    pub ahead: Vec<HostName>,
    /// The changes on the hosts. Known only for hosts that get built systems.
    pub changes: Option<Changes>,
}

#[derive(Debug, Error, Diagnostic)]
pub enum PrepareError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] PlanErrors),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Flake(#[from] FlakeError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lookup(#[from] UnresolvedError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Nix(#[from] NixError),
    #[error("it is not known which flake the systems are to be built from")]
    #[diagnostic(help("set `flake` in the plan, or give --flake"))]
    NoFlake,
    #[error("two machines answer to the name {0}")]
    #[diagnostic(help("stop one listener, or rename it; `homelab-deploy hosts` shows both"))]
    TwoMachines(HostName),
}

impl PrepareOptions {
    pub fn new(plan: Plan, revision: Revision, by: OperatorContext) -> Self {
        Self {
            plan,
            source: None,
            revision,
            exclude: Vec::new(),
            waves: WaveSelection::default(),
            by,
            kind: RolloutKind::Plan,
            even_if_current: false,
            hooks: Hooks::default(),
            systems: None,
            binary_cache: None,
        }
    }

    pub async fn prepare(self, bus: &mut Bus) -> Result<Prepared, PrepareError> {
        let called = self.call_roll(bus).await?;
        self.settle(called).await
    }

    /// Calls the roll of the plan's tiers, and meanwhile looks up the revision if the flake is known.
    pub async fn call_roll(&self, bus: &mut Bus) -> Result<RollCallResult, FleetError> {
        let (needed, asked) = (self.plan.needed_tiers(), self.asked_tiers());
        let roll_call = RollCall { discovery: &self.by.discovery, asked, needed, awaited: self.awaited() };
        let resolve = async {
            Ok(match self.plan.flake.as_ref().or(self.by.flakes.given.as_ref()) {
                Some(flake) => Some(self.resolve_revision(Some(flake)).await),
                None => None,
            })
        };
        let (roll, revision) = try_join!(roll_call.call(bus), resolve)?;
        Ok(RollCallResult { roll, revision })
    }

    /// Asks every tier for a plan without groups, to warn of a named host that answers in another tier. Also for every
    /// deployment, to tell an operator who reaches no host which hosts answer.
    fn asked_tiers(&self) -> BTreeSet<Tier> {
        let is_of_all = self.source.is_none() || self.plan.group_tiers().is_empty();
        if is_of_all { Tier::ALL.into() } else { self.plan.tiers() }
    }

    fn awaited(&self) -> Awaited {
        let (tiers, named) = (self.plan.group_tiers(), self.plan.named_hosts());
        match named.first() {
            Some(host) if named.len() == 1 && tiers.is_empty() && self.kind == RolloutKind::Deployment => {
                Awaited::One(host.clone())
            }
            _ => Awaited::Everybody { tiers, named },
        }
    }

    async fn resolve_revision(&self, flake: Option<&FlakeUrl>) -> Result<ResolvedRevision, UnresolvedError> {
        let mut history = History::of(flake, self.by.cache.as_deref());
        let commit = resolve_revision(&self.revision, flake, &history, &self.by.journals).await?;
        let subject = history.subject(&commit).await;
        Ok(ResolvedRevision { flake: flake.cloned(), commit, subject, history })
    }

    pub async fn settle(mut self, called: RollCallResult) -> Result<Prepared, PrepareError> {
        let RollCallResult { roll, revision } = called;
        let is_single = matches!(self.awaited(), Awaited::One(_));
        let roster = Roster::new(roll.hosts);
        let (mut plan, mut warnings) = self.resolve_hosts(&roster, &roll.silent)?;
        if let Some(silent) = plan.hosts().find(|host| is_single && !host.present) {
            warnings.push(format!("guards not checked: {} did not answer", silent.hostname));
        }
        warnings.extend(host_warnings(&roster, &plan));
        let resolved = match revision {
            Some(resolved) => resolved.map_err(PrepareError::from),
            None => self.resolve_in_flake_of_hosts(&plan, &roster).await,
        };
        let (mut ahead, mut changes) = (Vec::new(), None);
        let (revision, subject) = match resolved {
            Ok(ResolvedRevision { flake, commit, subject, mut history }) => {
                warnings.extend(history.problem());
                let assigned = self.assign_systems(&mut plan, &roster, flake.as_ref(), &commit, &mut warnings);
                // Boxed: few plans have systems, and this future is large.
                changes = Box::pin(assigned).await?;
                ahead = ahead_of(&commit, &plan, &mut history).await;
                if self.kind == RolloutKind::Plan && !self.even_if_current {
                    mark_current(&commit, &mut plan, &roster);
                }
                if self.plan.stage {
                    plan.fetch_first();
                }
                (commit.into(), subject)
            }
            Err(error) => {
                warnings.push(self.leave_to_hosts(error)?);
                (self.revision.clone(), None)
            }
        };
        warnings.extend(PreflightError::downgrade(&ahead, &revision).map(|error| error.to_string()));
        // Deployments to single hosts may run at the same time: each listener does one thing at a time.
        let other = roll.rollouts.into_iter().find(|other| !is_single && shares_a_tier(other, &plan));
        let rollout = Rollout {
            id: RolloutId::from(Uuid::new_v4()),
            ids: RequestIds::new(Uuid::new_v4()),
            operator: self.by.name,
            asked: self.revision,
            revision,
            subject,
            source: self.source,
            plan,
        };
        Ok(Prepared { rollout, warnings, roster, other, ahead, changes })
    }

    /// Resolves the plan without the excluded hosts to the hosts of each selected wave. Returns warnings too.
    fn resolve_hosts(
        &mut self,
        roster: &Roster,
        silent: &HostsByTier,
    ) -> Result<(ResolvedPlan, Vec<String>), PrepareError> {
        let waves: Vec<String> = self.plan.waves.iter().map(|wave| wave.name.value.clone()).collect();
        exclude_hosts(&mut self.plan, &self.exclude, roster, silent)?;
        let remembered = match self.kind {
            RolloutKind::Deployment => add_silent_hosts(&mut self.plan, roster, silent),
            RolloutKind::Plan => BTreeSet::new(),
        };
        let (mut resolved, mut warnings) = self.plan.resolve(roster)?;
        resolved.remembered = remembered;
        resolved.hooks.clone_from(&self.hooks);
        resolved.hooks.extend(self.plan.hooks.clone());
        if self.source.is_some() {
            warnings.extend(self.plan.advice(&resolved));
        }
        self.waves.select(&mut resolved, waves)?;
        Ok((resolved, warnings.iter().map(ToString::to_string).collect()))
    }

    /// Lets each host look up the branch for itself, so that no host decides what another one runs.
    fn leave_to_hosts(&self, error: PrepareError) -> Result<String, PrepareError> {
        let is_answer = matches!(&error, PrepareError::Lookup(error) if error.is_answer());
        if self.kind == RolloutKind::Plan || is_answer {
            return Err(error);
        }
        Ok(format!("each host looks up \"{}\" for itself, so hosts may differ: {error}", self.revision))
    }

    /// Looks up the revision in the flake that hosts name, if that is needed and the flake may be contacted.
    async fn resolve_in_flake_of_hosts(
        &self,
        plan: &ResolvedPlan,
        roster: &Roster,
    ) -> Result<ResolvedRevision, PrepareError> {
        let at_hand = commits_at_hand(&self.revision, &History::of(None, None), &self.by.journals).await;
        let named = plan.flake_of_hosts(roster);
        let flake = if at_hand.is_empty() {
            self.by.flakes.accept(named?, &self.revision).await?
        } else {
            self.by.flakes.if_accepted(named.unwrap_or_default())
        };
        Ok(self.resolve_revision(flake.as_ref()).await?)
    }

    /// Assigns built systems to the hosts of a plan, building them first if needed. Returns what the systems change.
    async fn assign_systems(
        &self,
        plan: &mut ResolvedPlan,
        roster: &Roster,
        flake: Option<&FlakeUrl>,
        commit: &Commit,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Changes>, PrepareError> {
        let systems = match &self.systems {
            None if self.plan.stage => return Err(Systems::missing_to_stage().into()),
            None => return Ok(None),
            Some(SystemsFrom::Built(systems)) => systems.clone(),
            Some(SystemsFrom::Building(options)) => {
                let flake = flake.ok_or(PrepareError::NoFlake)?;
                options.build(flake, commit, plan.hosts().map(|host| &host.hostname)).await?
            }
        };
        systems.check_commit(commit)?;
        plan.take_systems(&systems)?;
        let cache = self.binary_cache.as_ref().or(systems.cache.as_ref());
        let changes = changes_of(plan, roster, cache.map(String::as_str)).await;
        Ok(changes.map_err(|error| warnings.push(format!("what changes is not known: {error}"))).ok())
    }
}

impl Prepared {
    /// Returns hosts that took part in a recent rollout of this plan and do not answer now, with its time.
    pub fn missed(&self, journals: &Journals, known: &KnownHosts) -> BTreeMap<HostName, Timestamp> {
        let plan = &self.rollout.plan;
        let since = clock::now().saturating_sub(MISSED_FOR).unwrap_or(Timestamp::MIN);
        let earlier = journals.since(since);
        let earlier = earlier.iter().filter(|(_, rollout)| rollout.plan.name == plan.name);
        let mut missed = plan.missed(&self.roster, earlier.map(|(at, rollout)| (*at, &rollout.plan)));
        if !missed.is_empty() {
            // Without contexts, fleets share their journals.
            let of_others = known.of_others();
            missed.retain(|host, _| !of_others.contains(host));
        }
        missed
    }

    /// Fails if another operator runs a rollout on the same tier.
    pub fn check_no_other_rollout(&self) -> Result<(), PreflightError> {
        self.other.clone().map_or(Ok(()), |other| Err(PreflightError::AnotherRollout(Box::new(other))))
    }

    /// Fails if a host of these tiers would go back to an older commit.
    pub fn check_not_downgrade(&self, tiers: &[Tier]) -> Result<(), PreflightError> {
        let hosts = self.rollout.plan.hosts().filter(|host| tiers.contains(&host.tier)).map(|host| &host.hostname);
        let ahead: Vec<HostName> = hosts.filter(|host| self.ahead.contains(host)).cloned().collect();
        PreflightError::downgrade(&ahead, &self.rollout.revision).map_or(Ok(()), Err)
    }
}

/// Marks the hosts that already run and boot what they would switch to, so that they get no request. Only the host itself
/// can tell. A host without a subject of its own gets the request of those it shares one with.
fn mark_current(commit: &Commit, plan: &mut ResolvedPlan, roster: &Roster) {
    let waves = plan.waves.iter_mut().filter(|wave| wave.action == Action::Switch);
    for host in waves.flat_map(|wave| &mut wave.hosts).filter(|host| host.shared_subject.is_none()) {
        let answer = roster.answer(host.tier, &host.hostname).filter(|answer| answer.proved);
        host.is_current = answer.is_some_and(|answer| match &host.system {
            Some(system) => answer.report.is_current_system(system),
            None => answer.report.is_current(commit),
        });
    }
}

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
    let roll_call =
        RollCall { discovery: &by.discovery, asked: tiers.clone(), needed: tiers, awaited: Awaited::only(hosts) };
    let roll = roll_call.call(bus).await?;
    let roster = Roster::new(roll.hosts);
    if let Some(twin) = plan.hosts().find(|host| roster.is_ambiguous(host.tier, &host.hostname)) {
        return Err(PrepareError::TwoMachines(twin.hostname.clone()));
    }
    let other = roll.rollouts.into_iter().find(|other| shares_a_tier(other, plan));
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
        let accepted = by.flakes.if_accepted(plan.flake_of_hosts(&roster).unwrap_or_default());
        let mut history = History::of(by.flakes.given.as_ref().or(accepted.as_ref()), by.cache.as_deref());
        ahead = ahead_of(&commit, &rest.plan, &mut history).await;
    }
    Ok(Prepared { rollout: rest, warnings: Vec::new(), roster, other, ahead, changes: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::protocol::HostAnswer;

    #[test]
    fn a_current_host_that_shares_its_subject_is_asked_like_the_others() {
        let rollout = rollout(&[&["alone", "sharing"]]);
        let (commit, mut plan) = (rollout.revision.commit().unwrap(), rollout.plan.clone());
        let answers = ["alone", "sharing"].map(|host| {
            let last = json!({
                "id": "r-0", "status": "completed", "at": "2026-11-23T10:00:00Z", "revision": commit, "current": true,
            });
            let report = json!({ "hostname": host, "tier": "test", "last": last });
            HostAnswer { report: serde_json::from_value(report).unwrap(), proved: true }
        });
        plan.waves[0].hosts[1].shared_subject = Some("fleet.all".parse().unwrap());
        mark_current(&commit, &mut plan, &Roster::new(answers.into()));
        assert_eq!(plan.hosts().map(|host| host.is_current).collect::<Vec<_>>(), [true, false]);
    }
}
