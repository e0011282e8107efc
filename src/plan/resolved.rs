//! The resolved plan, which is shown, recorded in the journal and carried out.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use miette::MietteDiagnostic;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::diagnostic::{PlanErrors, list};
use super::roster::{Roster, groups_of};
use super::settings::{Hook, Hooks, Rollback};
use super::value::CONFIRM_TIMEOUT;
use crate::protocol::{
    Action, Commit, FlakeUrl, HostName, HostReport, ROLLBACK_WITHIN, Subject, SystemPath, Target, Tier,
};

/// A plan with a fixed set of hosts. A host is in one wave only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedPlan {
    pub name: String,
    /// In the order in which they run.
    pub waves: Vec<ResolvedWave>,
    /// Whether all hosts fetch their systems, in the first wave, before any of them is changed in the other waves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stage: bool,
    /// The hosts of the waves that were not selected.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<HostName>,
    /// Hosts of a group that answered an earlier roll call and not this one. Their silence is no failure. They are sent
    /// a request too, unless the wave rolls back or has built systems and they stay silent.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remembered: BTreeSet<HostName>,
    #[serde(default, deserialize_with = "known_hooks", skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: Hooks,
}

/// Reads the hooks that this version knows. Journals of later versions may have others and must stay readable.
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
    /// In the order in which they receive requests. Empty only if `min_hosts` is 0.
    pub hosts: Vec<ResolvedHost>,
    #[serde(default, skip_serializing_if = "Groups::is_empty")]
    pub groups: Groups,
    #[serde(flatten)]
    pub limits: Limits,
}

/// The groups whose hosts belong to a wave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The subjects of tiers, roles and custom groups.
    pub targets: Vec<Subject>,
    /// The subjects of excluded hosts and groups.
    pub exclude: Vec<Subject>,
}

/// A host with its state when the plan was resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "it is a record of what is known of a host")]
pub struct ResolvedHost {
    #[serde(rename = "host")]
    pub hostname: HostName,
    pub tier: Tier,
    /// The subject in the plan, for a host that does not listen on the subject of its name. Other hosts may listen
    /// there too: all hosts of a wave with the same subject receive a single request.
    #[serde(rename = "subject", default, skip_serializing_if = "Option::is_none")]
    pub shared_subject: Option<Subject>,
    /// Whether the host answered the roll call.
    pub present: bool,
    /// Whether the listener supports request ids, so that a repeated request never deploys twice.
    #[serde(rename = "knows_ids")]
    pub supports_ids: bool,
    /// Whether the listener supports rollbacks.
    #[serde(rename = "can_return", default)]
    pub supports_rollback: bool,
    /// Whether the listener accepts built systems.
    #[serde(rename = "takes_systems", default, skip_serializing_if = "std::ops::Not::not")]
    pub supports_system: bool,
    /// Whether the listener serves the logs of its runs.
    #[serde(rename = "gives_logs", default, skip_serializing_if = "std::ops::Not::not")]
    pub supports_log: bool,
    /// Whether the host already runs and boots the requested system, so that it gets no request.
    #[serde(rename = "current", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_current: bool,
    /// The commit that the host ran, if it reported one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    /// The system built for the host before the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemPath>,
}

/// The [`Settings`](super::Settings) of a wave whose hosts are known. Durations are serialized like `"1h 30m"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most hosts in flight at once; at least 1.
    pub max_parallel: usize,
    pub max_failures: usize,
    pub min_hosts: usize,
    pub ignore_unreachable: bool,
    #[serde(with = "humantime_text")]
    pub accept_timeout: Duration,
    #[serde(with = "humantime_text")]
    pub timeout: Duration,
    #[serde(with = "humantime_text")]
    pub bake_time: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    pub confirm: bool,
    pub retries: u32,
    #[serde(with = "humantime_text")]
    pub retry_delay: Duration,
    /// Always `Rollback::None` for actions that change nothing.
    #[serde(default, skip_serializing_if = "Rollback::is_none")]
    pub rollback: Rollback,
    #[serde(default = "confirm_timeout", with = "humantime_text")]
    pub confirm_timeout: Duration,
}

/// A command on the operator's machine. The wave is healthy if it exits with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The program and its arguments, run without a shell.
    pub command: Vec<String>,
    #[serde(with = "humantime_text")]
    pub timeout: Duration,
}

impl Limits {
    /// Returns the confirm timeout if hosts may roll back.
    pub fn rollback_confirm_timeout(&self) -> Option<Duration> {
        (self.rollback != Rollback::None).then_some(self.confirm_timeout)
    }

    /// Returns the timeout from the request to the final response, including a confirmation and a rollback.
    pub fn finish_timeout(&self) -> Duration {
        self.timeout + self.rollback_confirm_timeout().map_or(Duration::ZERO, |confirm| confirm + ROLLBACK_WITHIN)
    }
}

impl ResolvedPlan {
    /// Returns all hosts, in the order in which they receive requests.
    pub fn hosts(&self) -> impl Iterator<Item = &ResolvedHost> {
        self.deploying_waves().flat_map(|(_, wave)| &wave.hosts)
    }

    /// Returns the waves that change hosts, with their indices. Each host is in exactly one.
    pub fn deploying_waves(&self) -> impl Iterator<Item = (usize, &ResolvedWave)> {
        self.waves.iter().enumerate().skip(usize::from(self.stage))
    }

    /// Whether the silence of a host in the wave with this index does not count as a failure.
    pub fn ignores_silence_of(&self, wave: usize, host: &HostName) -> bool {
        let has = |wave: &&ResolvedWave| wave.hosts.iter().any(|other| other.hostname == *host);
        let wave = match wave {
            0 if self.stage => self.deploying_waves().map(|(_, wave)| wave).find(has),
            wave => self.waves.get(wave),
        };
        wave.is_some_and(|wave| wave.limits.ignore_unreachable) || self.remembered.contains(host)
    }

    pub fn tiers(&self) -> BTreeSet<Tier> {
        self.hosts().map(|host| host.tier).collect()
    }

    /// Drops the waves that are not wanted. Their hosts do not move to other waves.
    pub fn keep_waves(&mut self, mut wanted: impl FnMut(&ResolvedWave) -> bool) {
        let waves = std::mem::take(&mut self.waves).into_iter();
        let (kept, dropped): (_, Vec<ResolvedWave>) = waves.partition(|wave| wanted(wave));
        self.waves = kept;
        self.left_out.extend(dropped.into_iter().flat_map(|wave| wave.hosts).map(|host| host.hostname));
    }

    /// Returns the first wave with a group of this host, which it would have been in had it answered.
    pub fn wave_of_group(&self, host: &HostReport) -> Option<usize> {
        self.waves.iter().position(|wave| wave.groups.contain(host))
    }

    /// Whether the set of hosts depends on the roll call.
    pub fn has_groups(&self) -> bool {
        self.waves.iter().any(|wave| !wave.groups.is_empty())
    }

    /// Returns the longest duration of the rollout, without lost connections and waits for the operator.
    pub fn longest(&self) -> Duration {
        (0..self.waves.len()).map(|index| self.longest_wave(index)).sum()
    }

    /// Returns the bake time after the wave with this index. The last wave has one only if it has a check.
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
        // If a host may not support the request, the roll is called again, and the host is awaited.
        let may_be_unable = |host: &ResolvedHost| {
            let to_return = limits.rollback != Rollback::None && !host.supports_rollback;
            to_return || (host.system.is_some() && !host.supports_system)
        };
        let is_awaited = hosts.iter().any(may_be_unable);
        let roll_call = if is_awaited { limits.accept_timeout } else { Duration::ZERO };
        roll_call + limits.longest_host() * rounds + self.bake_time(index) + check.unwrap_or_default() + returns
    }

    /// Returns the flake that the hosts name in the roll call, if any. If the plan has prod hosts, only those count: a
    /// test host must neither choose what prod hosts run, nor block the choice by naming another flake.
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
        Err(MietteDiagnostic::new(format!("the hosts deploy from different flakes: {examples}"))
            .with_help("say which one the revision is looked up in: flake = \"…\" at the top of the plan, or --flake")
            .into())
    }

    /// Returns the hosts that belonged to a group of this plan in an earlier rollout and do not answer now, with the
    /// time of the last such rollout. A group has only the hosts that answer, so a lost host would go unnoticed.
    pub fn missed<'a>(
        &self,
        roster: &Roster,
        earlier: impl IntoIterator<Item = (Timestamp, &'a Self)>,
    ) -> BTreeMap<HostName, Timestamp> {
        // A named host is in the plan even if it is silent, and is shown there.
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

    /// Whether a host of an earlier wave would be in this plan. Compares the waves' groups: no role is recorded.
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
    /// Returns the subject that reaches this host. Only a shared subject reaches other hosts too.
    pub fn subject(&self) -> Subject {
        self.shared_subject.clone().unwrap_or_else(|| Target::Host(self.tier, self.hostname.clone()).subject())
    }
}

impl Groups {
    /// Whether the wave has only named hosts.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn contain(&self, host: &HostReport) -> bool {
        let own = Target::Host(host.tier, host.hostname.clone()).subject();
        groups_of(host).any(|group| self.targets.contains(&group))
            && !groups_of(host).chain([own]).any(|subject| self.exclude.contains(&subject))
    }
}

/// The default for journals of versions without this setting.
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
