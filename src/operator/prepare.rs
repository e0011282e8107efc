//! Prepares a rollout: settles its hosts, its commit and its warnings. Deploys nothing.

mod error;
mod systems;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::try_join;
use uuid::Uuid;

pub use self::error::{PreflightError, PrepareError, SelectionError};
use self::systems::leave_current;
pub use self::systems::{SystemsFrom, changes_of};
use super::flake::{FlakeRules, Need};
use super::fleet::{Awaited, Discovered, Discovery, FleetError, KnownHosts, Purpose, RollCall, SilentHost};
use super::history::History;
use super::journal::Journals;
use super::revision::{UnresolvedError, commits_at_hand, resolve_revision};
use crate::bus::Bus;
use crate::clock;
use crate::plan::{Changes, Hooks, Plan, ResolvedPlan, Roster, Selector, Spanned};
use crate::protocol::{
    Action, Commit, FlakeUrl, HostName, RequestIds, Revision, RolloutId, RolloutReport, Target, Tier,
};
use crate::rollout::{PlanSource, Rollout};
use crate::text::{did_you_mean, safe};

/// How long a host that stopped answering is reported as missing. After that it counts as removed.
const MISSED_FOR: Duration = Duration::from_hours(30 * 24);

/// Who deploys, and what this machine keeps and may ask.
#[derive(Debug, Clone)]
pub struct OperatorContext {
    /// The operator's name, as hosts and other operators see it.
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
    /// The file that the plan was read from, if any.
    pub source: Option<PlanSource>,
    pub revision: Revision,
    pub exclude: Vec<HostName>,
    pub part: Part,
    pub by: OperatorContext,
    pub kind: Kind,
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
pub enum Kind {
    /// From a plan file: all hosts get one commit, and a tier belongs to one operator at a time.
    Rollout,
    /// From a command line: each host resolves a branch that this machine cannot resolve. A single host gets its
    /// request as soon as it has answered, even during other rollouts: a listener does one thing at a time.
    Deployment,
}

/// The waves of a plan to roll out. The selection does not change which hosts a wave has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Whole,
    Only(Vec<String>),
    /// This wave and all later ones.
    From(String),
}

/// The result of a roll call, and of the lookup of the revision at the same time.
#[derive(Debug)]
pub struct RollCallResult {
    pub roll: Discovered,
    /// The lookup in the flake that the plan or the operator names. `None` if the hosts have to name the flake.
    found: Option<Result<Found, UnresolvedError>>,
}

/// The revision, resolved in a flake.
#[derive(Debug)]
struct Found {
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
    pub others: Vec<RolloutReport>,
    /// Hosts that run a later commit than that of the rollout.
    pub ahead: Vec<HostName>,
    /// The changes on the hosts. Known only for hosts that get built systems.
    pub changes: Option<Changes>,
}

impl PrepareOptions {
    /// The whole of a plan, as it stands.
    pub fn new(plan: Plan, revision: Revision, by: OperatorContext) -> Self {
        Self {
            plan,
            source: None,
            revision,
            exclude: Vec::new(),
            part: Part::Whole,
            by,
            kind: Kind::Rollout,
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
        let purpose = Purpose::Deploy { needed: self.plan.needed_tiers(), asked: self.asked_tiers() };
        let roll_call = RollCall { discovery: &self.by.discovery, purpose, awaited: self.awaited() };
        let find = async {
            Ok(match self.plan.flake.as_ref().or(self.by.flakes.given.as_ref()) {
                Some(flake) => Some(self.find(Some(flake)).await),
                None => None,
            })
        };
        let (roll, found) = try_join!(roll_call.call(bus), find)?;
        Ok(RollCallResult { roll, found })
    }

    /// Asks every tier for a plan without groups, to warn of a named host that answers in another tier. Also for a
    /// single deployment, to tell an operator who reaches no host which hosts answer.
    fn asked_tiers(&self) -> BTreeSet<Tier> {
        let is_of_all = self.source.is_none() || self.plan.group_tiers().is_empty();
        if is_of_all { Tier::ALL.into() } else { self.plan.tiers() }
    }

    fn awaited(&self) -> Awaited {
        let (tiers, mut named) = (self.plan.group_tiers(), self.plan.named());
        if !tiers.is_empty() {
            return Awaited::Everybody { tiers, named };
        }
        match named.pop_first() {
            Some(host) if named.is_empty() && self.kind == Kind::Deployment => Awaited::One(host),
            first => Awaited::Only(named.into_iter().chain(first).collect()),
        }
    }

    async fn find(&self, flake: Option<&FlakeUrl>) -> Result<Found, UnresolvedError> {
        let mut history = History::of(flake, self.by.cache.as_deref());
        let commit = resolve_revision(&self.revision, flake, &history, &self.by.journals).await?;
        let subject = history.subject(&commit).await;
        Ok(Found { flake: flake.cloned(), commit, subject, history })
    }

    /// Settles the hosts of each wave, and the commit.
    pub async fn settle(mut self, called: RollCallResult) -> Result<Prepared, PrepareError> {
        let RollCallResult { roll, found } = called;
        let is_single = matches!(self.awaited(), Awaited::One(_));
        let roster = Roster::new(roll.hosts);
        let waves: Vec<String> = self.plan.waves.iter().map(|wave| wave.name.value.clone()).collect();
        self.exclude_hosts(&roster)?;
        let remembered = match self.kind {
            Kind::Deployment => remember(&mut self.plan, &roster, &roll.silent),
            Kind::Rollout => BTreeSet::new(),
        };
        let (mut resolved, mut warnings) = self.plan.resolve(&roster)?;
        resolved.remembered = remembered;
        resolved.hooks.clone_from(&self.hooks);
        resolved.hooks.extend(self.plan.hooks.clone());
        if self.source.is_some() {
            warnings.extend(self.plan.advice(&resolved));
        }
        self.part.select(&mut resolved, waves)?;
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        if let Some(silent) = resolved.hosts().find(|host| is_single && !host.present) {
            warnings.push(format!("guards not checked: {} did not answer", silent.hostname));
        }
        warnings.extend(doubts(&roster, &resolved));
        let found = match found {
            Some(found) => found.map_err(PrepareError::from),
            None => self.find_by_hosts(&resolved, &roster).await,
        };
        let (mut ahead, mut changes) = (Vec::new(), None);
        let (revision, subject) = match found {
            Ok(Found { flake, commit, subject, mut history }) => {
                warnings.extend(history.problem());
                let given = self.give_systems(&mut resolved, &roster, flake.as_ref(), &commit, &mut warnings);
                // Boxed: few plans have systems, and this future is large.
                changes = Box::pin(given).await?;
                ahead = ahead_of(&commit, &resolved, &mut history).await;
                if self.kind == Kind::Rollout && !self.even_if_current {
                    leave_current(&commit, &mut resolved, &roster);
                }
                if self.plan.stage {
                    resolved.fetch_first();
                }
                (commit.into(), subject)
            }
            Err(error) => {
                warnings.push(self.leave_to_hosts(error)?);
                (self.revision.clone(), None)
            }
        };
        warnings.extend(PreflightError::downgrade(&ahead, &revision).map(|obstacle| obstacle.to_string()));
        // Deployments to single hosts may run at the same time: each listener does one thing at a time.
        let others = roll.rollouts.into_iter().filter(|other| !is_single && shares_a_tier(other, &resolved)).collect();
        let rollout = Rollout {
            id: RolloutId::from(Uuid::new_v4()),
            ids: RequestIds::new(Uuid::new_v4()),
            operator: self.by.name,
            asked: self.revision,
            revision,
            subject,
            source: self.source,
            plan: resolved,
        };
        Ok(Prepared { rollout, warnings, roster, others, ahead, changes })
    }

    /// Lets each host look up the branch for itself, so that no host decides what another one runs.
    fn leave_to_hosts(&self, error: PrepareError) -> Result<String, PrepareError> {
        let is_answer = matches!(&error, PrepareError::Lookup(error) if error.is_answer());
        if self.kind == Kind::Rollout || is_answer {
            return Err(error);
        }
        Ok(format!("each host looks up \"{}\" for itself, so hosts may differ: {error}", self.revision))
    }

    /// Looks up the revision in the flake that hosts name, if that is needed and the flake may be contacted.
    async fn find_by_hosts(&self, plan: &ResolvedPlan, roster: &Roster) -> Result<Found, PrepareError> {
        let at_hand = commits_at_hand(&self.revision, &History::of(None, None), &self.by.journals).await;
        let need = if at_hand.is_empty() { Need::Yes } else { Need::No };
        let named = match plan.flake_of_hosts(roster) {
            Err(_) if need == Need::No => None,
            named => named?,
        };
        let flake = self.by.flakes.usable(named, &self.revision, need).await?;
        Ok(self.find(flake.as_ref()).await?)
    }

    fn exclude_hosts(&mut self, roster: &Roster) -> Result<(), SelectionError> {
        for host in &self.exclude {
            let is_known = roster.knows(host) || self.plan.names(host);
            if !is_known {
                let named = self.plan.named();
                let known = roster.hosts().map(|report| &report.hostname).chain(named.iter().map(|named| &named.host));
                let near = did_you_mean(host.as_str(), known.map(HostName::as_str));
                return Err(SelectionError::NoSuchHost { host: host.clone(), near });
            }
            self.plan.exclude(host);
        }
        if self.plan.waves.is_empty() { Err(SelectionError::Nothing) } else { Ok(()) }
    }
}

impl Part {
    /// Keeps the selected waves; `all` are the names of the plan's waves.
    fn select(&self, plan: &mut ResolvedPlan, all: Vec<String>) -> Result<(), SelectionError> {
        let asked = match self {
            Self::Whole => return Ok(()),
            Self::Only(waves) => waves.as_slice(),
            Self::From(wave) => std::slice::from_ref(wave),
        };
        for wanted in asked {
            if !all.contains(wanted) {
                return Err(SelectionError::NoSuchWave { wave: wanted.clone(), waves: all });
            }
            if !plan.waves.iter().any(|wave| wave.name == *wanted) {
                return Err(SelectionError::EmptyWave(wanted.clone()));
            }
        }
        match self {
            Self::Whole => {}
            Self::Only(waves) => plan.keep_waves(|wave| waves.contains(&wave.name)),
            Self::From(first) => {
                let mut is_reached = false;
                plan.keep_waves(|wave| {
                    is_reached |= wave.name == *first;
                    is_reached
                });
            }
        }
        Ok(())
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
        // Without contexts, fleets share their journals.
        let of_others = known.of_others();
        missed.retain(|host, _| !of_others.contains(host));
        missed
    }

    /// Fails if another operator runs a rollout on the same tier.
    pub fn check_no_other_rollout(&self) -> Result<(), PreflightError> {
        match self.others.first() {
            Some(other) => Err(PreflightError::AnotherRollout(Box::new(other.clone()))),
            None => Ok(()),
        }
    }

    /// Fails if a host of these tiers would go back to an older commit.
    pub fn check_not_downgrade(&self, tiers: &[Tier]) -> Result<(), PreflightError> {
        let hosts = self.rollout.plan.hosts().filter(|host| tiers.contains(&host.tier)).map(|host| &host.hostname);
        let ahead: Vec<HostName> = hosts.filter(|host| self.ahead.contains(host)).cloned().collect();
        PreflightError::downgrade(&ahead, &self.rollout.revision).map_or(Ok(()), Err)
    }
}

/// Adds silent hosts to the plan if they belong to a group of which another host answered, and returns their names.
/// They may be about to answer, and a request to an absent host costs nothing.
fn remember(plan: &mut Plan, roster: &Roster, silent: &[SilentHost]) -> BTreeSet<HostName> {
    let mut remembered = BTreeSet::new();
    for wave in &mut plan.waves {
        let groups: Vec<Target> = wave.targets.iter().map(|by| by.value.target.clone()).collect();
        for group in groups.iter().filter(|group| roster.members(&group.subject()).next().is_some()) {
            for host in silent.iter().filter(|host| belongs(host, group)) {
                let target = Target::Host(host.tier, host.hostname.clone());
                wave.targets.push(Spanned::nowhere(Selector { text: target.subject().to_string(), target }));
                remembered.insert(host.hostname.clone());
            }
        }
    }
    remembered
}

fn belongs(host: &SilentHost, group: &Target) -> bool {
    match group {
        Target::All(tier) => host.tier == *tier,
        Target::Role(tier, role) => host.tier == *tier && host.role.as_ref() == Some(role),
        Target::Host(..) | Target::Custom(_) => false,
    }
}

/// Returns warnings about answers in the old form, and the problems that hosts report.
fn doubts(roster: &Roster, plan: &ResolvedPlan) -> Vec<String> {
    let answers = || plan.hosts().filter_map(|host| roster.answer(host.tier, &host.hostname));
    let unproved: Vec<HostName> =
        answers().filter(|answer| !answer.proved).map(|answer| answer.report.hostname.clone()).collect();
    let unproved = (!unproved.is_empty()).then(|| {
        format!(
            "answers in the old form, which other hosts could have sent: {}; update their listeners",
            names(&unproved)
        )
    });
    let mut problems: BTreeMap<&str, Vec<HostName>> = BTreeMap::new();
    for report in answers().map(|answer| &answer.report) {
        for problem in &report.problems {
            problems.entry(&problem.message).or_default().push(report.hostname.clone());
        }
    }
    let problems = problems.into_iter().map(|(message, hosts)| format!("{}: {}", names(&hosts), safe(message)));
    unproved.into_iter().chain(problems).collect()
}

/// Returns the hosts that would go back to an older commit, as far as known. Ignores dry runs, which change nothing.
pub(super) async fn ahead_of(commit: &Commit, plan: &ResolvedPlan, history: &mut History) -> Vec<HostName> {
    let mut known = BTreeMap::new();
    let mut ahead = Vec::new();
    let waves = plan.deploying_waves().map(|(_, wave)| wave).filter(|wave| wave.action != Action::DryActivate);
    for host in waves.flat_map(|wave| &wave.hosts) {
        let Some(current) = host.revision.as_ref().filter(|current| *current != commit) else { continue };
        let is_ahead = match known.get(current) {
            Some(is_ahead) => *is_ahead,
            None => *known.entry(current).or_insert(history.is_ancestor(commit, current).await == Some(true)),
        };
        if is_ahead {
            ahead.push(host.hostname.clone());
        }
    }
    ahead
}

pub(super) fn shares_a_tier(other: &RolloutReport, plan: &ResolvedPlan) -> bool {
    let tiers: Vec<Tier> = plan.hosts().map(|host| host.tier).collect();
    other.tiers.iter().any(|tier| tiers.contains(tier))
}

fn names(hosts: &[HostName]) -> String {
    hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(" ")
}
