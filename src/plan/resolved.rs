//! A plan with its hosts: exactly this is shown, journaled and carried out.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::diagnostic::{PlanDiagnostic, PlanErrors, list};
use super::roster::{Roster, groups_of};
use super::settings::{CONFIRM_TIMEOUT, Hook, Hooks, Rollback};
use crate::protocol::{
    Action, Commit, FlakeUrl, HostName, HostReport, RETURN_WITHIN, Subject, SystemPath, Target, Tier,
};

/// A plan with its hosts settled. A host is in one wave only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedPlan {
    pub name: String,
    /// The waves, in the order in which they run.
    pub waves: Vec<ResolvedWave>,
    /// Whether the hosts of all waves fetch their systems before any of them is changed. The first wave is for that, and has all
    /// hosts of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stage: bool,
    /// The hosts of waves that are not run this time.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<HostName>,
    /// The hosts of which nothing but an earlier roll call tells that they belong to a group. One that stays silent is reported
    /// and not charged.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remembered: BTreeSet<HostName>,
    /// What is told how the rollout goes.
    #[serde(default, deserialize_with = "known_hooks", skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: Hooks,
}

/// Reads the hooks that this version knows. A later one may record others, and its journals have to be readable.
fn known_hooks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hooks, D::Error> {
    let recorded = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let argv = |hook: Hook| recorded.get(hook.as_str()).filter(|argv| !argv.is_null());
    let known = Hook::ALL.into_iter().filter_map(|hook| Some((hook, argv(hook)?)));
    known.map(|(hook, argv)| Ok((hook, Vec::deserialize(argv).map_err(D::Error::custom)?))).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedWave {
    pub name: String,
    pub action: Action,
    /// Its hosts, in the order in which they are sent requests. Empty only where `min_hosts` is 0.
    pub hosts: Vec<ResolvedHost>,
    #[serde(default, skip_serializing_if = "Groups::is_empty")]
    pub groups: Groups,
    #[serde(flatten)]
    pub limits: Limits,
}

/// What makes a host belong to a wave that does not name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The tiers, roles and other subjects that many may listen to.
    pub targets: Vec<Subject>,
    /// Whom the wave leaves out, by whatever subject.
    pub exclude: Vec<Subject>,
}

/// A host as the plan found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "it is a record of what is known of a host")]
pub struct ResolvedHost {
    #[serde(rename = "host")]
    pub hostname: HostName,
    pub tier: Tier,
    /// The subject that the plan spells for it, where it does not listen on the one of its name. Others may listen there too:
    /// all of a wave that have the same one are sent a single request.
    #[serde(rename = "subject", default, skip_serializing_if = "Option::is_none")]
    pub shared_subject: Option<Subject>,
    /// Whether it answered the roll call.
    pub present: bool,
    /// Whether its listener knows request ids, so that asking again is never deploying again.
    #[serde(rename = "knows_ids")]
    pub supports_ids: bool,
    /// Whether its listener is known to return to what it ran before when it is asked to.
    #[serde(rename = "can_return", default)]
    pub supports_rollback: bool,
    /// Whether its listener is known to take systems that were built elsewhere.
    #[serde(rename = "takes_systems", default, skip_serializing_if = "std::ops::Not::not")]
    pub supports_system: bool,
    /// Whether its listener gives out the logs of its runs.
    #[serde(rename = "gives_logs", default, skip_serializing_if = "std::ops::Not::not")]
    pub supports_log: bool,
    /// Whether it is not asked, since it runs and boots what it would be asked for.
    #[serde(rename = "current", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_current: bool,
    /// What it ran then, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    /// The system that it gets, where that was built before the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemPath>,
}

/// How a wave runs. Durations are written like `"1h 30m"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most hosts in flight at once; at least 1.
    pub max_parallel: usize,
    /// The wave fails once more hosts than this have failed.
    pub max_failures: usize,
    /// The wave fails when fewer hosts than this completed.
    pub min_hosts: usize,
    /// Whether a host that never answered is reported without being charged as a failure.
    pub ignore_unreachable: bool,
    /// From the request to the first status, else the host is unreachable.
    #[serde(with = "humantime_text")]
    pub accept_timeout: Duration,
    /// From the request to the final status, else the host has timed out.
    #[serde(with = "humantime_text")]
    pub timeout: Duration,
    /// How long to wait after the wave succeeded.
    #[serde(with = "humantime_text")]
    pub bake_time: Duration,
    /// A command that must succeed after the bake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    pub confirm: bool,
    /// How often a host that was unreachable or busy is asked again.
    pub retries: u32,
    #[serde(with = "humantime_text")]
    pub retry_delay: Duration,
    /// When its hosts return to what they ran before. Always none where nothing is changed on them.
    #[serde(default, skip_serializing_if = "Rollback::is_none")]
    pub rollback: Rollback,
    /// How long a host that may return waits to be confirmed; whole seconds.
    #[serde(default = "confirm_timeout", with = "humantime_text")]
    pub confirm_timeout: Duration,
}

/// A command on the operator's machine that says whether a wave is healthy: it is when the command exits with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The program and its arguments; no shell reads them.
    pub command: Vec<String>,
    #[serde(with = "humantime_text")]
    pub timeout: Duration,
}

impl Limits {
    /// How long a host waits to be confirmed, where it is to return otherwise.
    pub fn confirms_within(&self) -> Option<Duration> {
        (self.rollback != Rollback::None).then_some(self.confirm_timeout)
    }

    /// From the request to the final status of a host, which may have to wait and to return before it can say that.
    pub fn finish_timeout(&self) -> Duration {
        self.timeout + self.confirms_within().map_or(Duration::ZERO, |confirm| confirm + RETURN_WITHIN)
    }
}

impl ResolvedPlan {
    /// Every host, in the order in which requests are sent.
    pub fn hosts(&self) -> impl Iterator<Item = &ResolvedHost> {
        self.own_waves().flat_map(|(_, wave)| &wave.hosts)
    }

    /// The waves in which hosts are changed, each with its place: a host is in one of them.
    pub fn own_waves(&self) -> impl Iterator<Item = (usize, &ResolvedWave)> {
        self.waves.iter().enumerate().skip(usize::from(self.stage))
    }

    /// Whether a host is reported without being charged when it is silent in the wave at this place.
    pub fn excuses_silence(&self, wave: usize, host: &HostName) -> bool {
        let has = |wave: &&ResolvedWave| wave.hosts.iter().any(|other| other.hostname == *host);
        let wave = match wave {
            0 if self.stage => self.own_waves().map(|(_, wave)| wave).find(has),
            wave => self.waves.get(wave),
        };
        wave.is_some_and(|wave| wave.limits.ignore_unreachable) || self.remembered.contains(host)
    }

    pub fn tiers(&self) -> BTreeSet<Tier> {
        self.hosts().map(|host| host.tier).collect()
    }

    /// Runs only those of the waves that are wanted. No other wave takes the hosts of one that is not.
    pub fn keep_waves(&mut self, mut wanted: impl FnMut(&ResolvedWave) -> bool) {
        let waves = std::mem::take(&mut self.waves).into_iter();
        let (kept, dropped): (_, Vec<ResolvedWave>) = waves.partition(|wave| wanted(wave));
        self.waves = kept;
        self.left_out.extend(dropped.into_iter().flat_map(|wave| wave.hosts).map(|host| host.hostname));
    }

    /// The wave that a host would have been in, had it been there: the first that draws from a group of it.
    pub fn wave_of_group(&self, host: &HostReport) -> Option<usize> {
        self.waves.iter().position(|wave| wave.groups.have(host))
    }

    /// Whether the hosts of the plan depend on the roll call.
    pub fn has_groups(&self) -> bool {
        self.waves.iter().any(|wave| !wave.groups.is_empty())
    }

    /// The longest that the rollout can take while the bus is connected and no answer to a question is awaited.
    pub fn longest(&self) -> Duration {
        (0..self.waves.len()).map(|index| self.longest_wave(index)).sum()
    }

    /// For how long the wave at this place is left running after it succeeded. After the last wave nothing is waited
    /// for, unless there is a check that the wait is for.
    pub fn bake_time(&self, wave: usize) -> Duration {
        match self.waves.get(wave) {
            Some(ResolvedWave { limits, .. }) if wave + 1 < self.waves.len() || limits.check.is_some() => {
                limits.bake_time
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    fn longest_wave(&self, index: usize) -> Duration {
        let Some(ResolvedWave { hosts, limits, .. }) = self.waves.get(index) else { return Duration::ZERO };
        let rounds = u32::try_from(hosts.len().div_ceil(limits.max_parallel.max(1))).unwrap_or(u32::MAX);
        let check = limits.check.as_ref().map(|check| check.timeout);
        let returns = match limits.rollback {
            Rollback::Wave => limits.finish_timeout() * u32::try_from(hosts.len()).unwrap_or(u32::MAX),
            Rollback::None | Rollback::Auto => Duration::ZERO,
        };
        // A host that may be unable to do as it is asked is waited for when the roll is called again.
        let may_be_unable = |host: &ResolvedHost| {
            let to_return = limits.rollback != Rollback::None && !host.supports_rollback;
            to_return || (host.system.is_some() && !host.supports_system)
        };
        let is_awaited = hosts.iter().any(may_be_unable);
        let roll_call = if is_awaited { limits.accept_timeout } else { Duration::ZERO };
        roll_call + limits.longest_host() * rounds + self.bake_time(index) + check.unwrap_or_default() + returns
    }

    /// The flake that all of its hosts name in the roll call, as far as they name one. In a plan that touches prod hosts only
    /// their word counts: a test host shall not choose what they run, nor keep others from naming it.
    pub fn flake_of_hosts(&self, roster: &Roster) -> Result<Option<FlakeUrl>, PlanErrors> {
        let touches_prod = self.hosts().any(|host| host.tier == Tier::Prod);
        let heard = self.hosts().filter(|host| !touches_prod || host.tier == Tier::Prod);
        let mut flakes: BTreeMap<FlakeUrl, &HostName> = BTreeMap::new();
        for host in heard.filter_map(|host| roster.host(host.tier, &host.hostname)) {
            if let Some(flake) = &host.flake {
                flakes.entry(flake.public()).or_insert(&host.hostname);
            }
        }
        if flakes.len() <= 1 {
            return Ok(flakes.into_keys().next());
        }
        let examples: Vec<_> = flakes.iter().map(|(flake, host)| format!("{flake} ({host})")).collect();
        let examples = list(examples.iter().map(String::as_str)).unwrap_or_default();
        Err(PlanDiagnostic::mistake(format!("the hosts deploy from different flakes: {examples}"))
            .help("say which one the revision is looked up in: flake = \"…\" at the top of the plan, or --flake")
            .into())
    }

    /// The hosts that belonged to a group of this plan in one of these earlier rollouts and do not answer now, each with
    /// when it was there last. Groups are those that answer: nothing else would notice that one of them is gone.
    pub fn missed<'a>(
        &self,
        roster: &Roster,
        earlier: impl IntoIterator<Item = (Timestamp, &'a Self)>,
    ) -> BTreeMap<HostName, Timestamp> {
        // A host that the plan names is in it whether or not it answers, and is shown as silent there.
        let known: LazyCell<BTreeSet<&HostName>, _> =
            LazyCell::new(|| self.hosts().map(|host| &host.hostname).chain(&self.left_out).collect());
        let mut missed = BTreeMap::new();
        for (at, plan) in earlier {
            for wave in &plan.waves {
                let gone =
                    wave.hosts.iter().filter(|host| host.present && roster.host(host.tier, &host.hostname).is_none());
                for host in gone.filter(|host| !known.contains(&host.hostname) && self.would_take(host, wave)) {
                    let last = missed.entry(host.hostname.clone()).or_insert(at);
                    *last = at.max(*last);
                }
            }
        }
        missed
    }

    /// Whether a host that an earlier wave had would be in this plan again, as far as that can be told: its role is not
    /// known, but which groups that wave drew from.
    fn would_take(&self, host: &ResolvedHost, earlier: &ResolvedWave) -> bool {
        let own = Target::Host(host.tier, host.hostname.clone()).subject();
        self.waves.iter().map(|wave| &wave.groups).any(|groups| {
            let same_group = groups.targets.iter().any(|group| earlier.groups.targets.contains(group));
            same_group && !groups.exclude.contains(&own)
        })
    }
}

impl Limits {
    fn longest_host(&self) -> Duration {
        self.finish_timeout() + (self.accept_timeout + self.retry_delay) * self.retries
    }
}

impl ResolvedHost {
    /// The subject that reaches it, and no other host unless it is a shared one.
    pub fn subject(&self) -> Subject {
        self.shared_subject.clone().unwrap_or_else(|| Target::Host(self.tier, self.hostname.clone()).subject())
    }
}

impl Groups {
    /// Whether no host belongs to the wave but those that it names.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn have(&self, host: &HostReport) -> bool {
        let own = Target::Host(host.tier, host.hostname.clone()).subject();
        groups_of(host).any(|group| self.targets.contains(&group))
            && !groups_of(host).chain([own]).any(|subject| self.exclude.contains(&subject))
    }
}

/// What a record means that was made before there was another.
const fn confirm_timeout() -> Duration {
    CONFIRM_TIMEOUT
}

mod humantime_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
