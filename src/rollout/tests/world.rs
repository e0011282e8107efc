//! Generates random plans, and everything around them that the machine cannot decide.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fixture::{self, EPOCH, secs};
use super::network::{Network, Script, connection, interrupts, losses, mostly, rollback_requests, scripts, seconds};
use super::sim::{self, Agenda, Log, TestMachine};
use crate::plan::{Check, Groups, Limits, ResolvedHost, ResolvedWave, Rollback};
use crate::protocol::{Action, Feature, HostReport, Revision, Tier};
use crate::rollout::{Confirmation, Connection, Dispatch, Effect, Input, Interrupt, Machine, Rollout};

/// A plan, and everything that the machine cannot decide.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) waves: Vec<ResolvedWave>,
    /// Whether the first wave is a staging wave, in which the hosts of all others fetch.
    pub(super) stages: bool,
    /// The deployed revision: a commit, or a branch that each host resolves itself.
    pub(super) revision: Revision,
    /// The scripts of each host, in the order of the plan, for its first request, its second and so on.
    pub(super) scripts: Vec<Vec<Script>>,
    /// The script of each host for its rollback request.
    pub(super) returns: Vec<Script>,
    pub(super) connection: Vec<(Duration, Connection)>,
    pub(super) losses: Vec<Range<Duration>>,
    pub(super) interrupts: Vec<(Duration, Interrupt)>,
    /// How long the operator thinks before each wave, and the answer.
    pub(super) answers: Vec<(Duration, Confirmation)>,
    pub(super) checks: Vec<Checked>,
    pub(super) late_hosts: Vec<LateHost>,
    /// How long hosts that were silent in the first roll call take to answer a later one, if they do.
    pub(super) late_answer: Option<Duration>,
    pub(super) deadline_first: bool,
}

#[derive(Debug, Clone)]
pub(super) struct LateHost {
    /// Its answer to the roll call.
    pub(super) report: HostReport,
    /// From when on it can answer.
    pub(super) since: Duration,
    /// How long its answer takes.
    pub(super) after: Duration,
}

/// How long the check of a wave runs, and whether it passes.
pub(super) type Checked = (Duration, bool);

/// The kind of trouble in a world.
#[derive(Debug, Clone, Copy)]
pub(super) enum Climate {
    /// The bus stays connected and nobody interrupts.
    Calm,
    /// The connection goes down and up, and responses are lost.
    Outages,
    /// The operator interrupts.
    Interrupts,
    /// Outages and interrupts.
    Chaos,
}

impl World {
    pub(super) fn hosts(&self) -> impl Iterator<Item = &ResolvedHost> {
        self.waves.iter().skip(usize::from(self.stages)).flat_map(|wave| &wave.hosts)
    }

    pub(super) fn rollout(&self) -> Arc<Rollout> {
        let mut rollout = fixture::rollout(self.waves.clone());
        let settled = Arc::make_mut(&mut rollout);
        settled.revision = self.revision.clone();
        settled.plan.stage = self.stages;
        rollout
    }

    /// Runs the whole rollout.
    pub(super) fn run(&self) -> Log {
        let machine = Machine::new(self.rollout(), EPOCH, fixture::MAX_PREPARED);
        self.live(TestMachine { at: Duration::ZERO, machine }, self.network(), self.agenda())
    }

    pub(super) fn network(&self) -> Network<'_> {
        Network::new(self.hosts().collect(), &self.scripts, &self.returns)
    }

    /// Returns the inputs that come whatever the machine does.
    pub(super) fn agenda(&self) -> Agenda {
        let mut agenda = Agenda::new(self.deadline_first, &self.losses);
        for (at, connection) in &self.connection {
            agenda.surely(*at, Input::Connection(*connection));
        }
        for (at, how) in &self.interrupts {
            agenda.surely(*at, Input::Interrupt(*how));
        }
        agenda
    }

    /// Runs the machine to its end.
    pub(super) fn live(&self, mut machine: TestMachine, mut network: Network<'_>, agenda: Agenda) -> Log {
        sim::run(&mut machine, agenda, |now, effect, agenda| match effect {
            Effect::Send(_) | Effect::AskState(_) | Effect::CallRoll => {
                self.publish(now, effect, &mut network, agenda);
            }
            Effect::Ask(wave) => {
                let (after, answer) = self.answers[wave.0];
                agenda.surely(now + after, Input::Confirmation(answer));
            }
            Effect::RunCheck(wave) => {
                let (after, passes) = self.checks[wave.0];
                let result = if passes { Ok(()) } else { Err("exit status 1".to_owned()) };
                agenda.surely(now + after, Input::CheckDone(result));
            }
            // The script already decides how a host takes a confirmation, which may be lost.
            Effect::Confirm(_) | Effect::Report(_) => {}
        })
    }

    /// Passes what the machine publishes to the network.
    pub(super) fn publish(&self, now: Duration, effect: &Effect, network: &mut Network<'_>, agenda: &mut Agenda) {
        let of = |Dispatch { subject, request }: &Dispatch| {
            let host = self.hosts().position(|host| host.subject() == *subject);
            let host = host.expect("requests go to hosts of the plan");
            (host, request.clone())
        };
        match effect {
            Effect::Send(dispatch) => {
                let (host, request) = of(dispatch);
                network.sent(now, host, &request, agenda);
            }
            Effect::AskState(dispatch) => {
                let (host, request) = of(dispatch);
                network.asked(now, host, &request, agenda);
            }
            Effect::CallRoll => {
                for host in self.hosts() {
                    let mut report = fixture::report(&host.hostname, vec![host.subject()]);
                    report.features.extend([Feature::Rollback, Feature::System]);
                    let after = if host.supports_rollback && host.supports_system {
                        Some(Duration::ZERO)
                    } else {
                        self.late_answer
                    };
                    if let Some(after) = after {
                        agenda.over_the_bus(now + after, Input::Discovered(Box::new(report)));
                    }
                }
                for host in self.late_hosts.iter().filter(|host| host.since <= now) {
                    agenda.over_the_bus(now + host.after, Input::Discovered(Box::new(host.report.clone())));
                }
            }
            Effect::Confirm(_) | Effect::Report(_) | Effect::Ask(_) | Effect::RunCheck(_) => {}
        }
    }
}

// -- strategies

fn limits() -> impl Strategy<Value = Limits> {
    let counts = (1..7usize, mostly(60, Just(0), 1..4usize), mostly(70, Just(0), 1..4usize));
    let patience = (seconds(2..6), seconds(1..16));
    let after = (mostly(50, Just(Duration::ZERO), seconds(1..6)), any::<[bool; 2]>(), any::<[bool; 2]>());
    let retry = (mostly(60, Just(0), 1..3u32), seconds(0..5));
    let rollback = (select(vec![Rollback::None, Rollback::None, Rollback::Auto, Rollback::Wave]), seconds(1..6));
    let rest = (any::<bool>(), rollback);
    (counts, patience, after, retry, rest).prop_map(
        |(counts, patience, after, retry, (ignore_unreachable, rollback))| {
            let (bake_time, check, confirm) = after;
            Limits {
                max_parallel: counts.0,
                max_failures: counts.1,
                min_hosts: counts.2,
                ignore_unreachable,
                accept_timeout: patience.0,
                timeout: patience.0 + patience.1,
                bake_time,
                check: (check == [true; 2]).then(|| Check { command: vec!["true".to_owned()], timeout: secs(4) }),
                confirm: confirm == [true; 2],
                retries: retry.0,
                retry_delay: retry.1,
                rollback: rollback.0,
                confirm_timeout: rollback.1,
            }
        },
    )
}

fn waves() -> impl Strategy<Value = (Vec<ResolvedWave>, bool)> {
    let mostly_true = || mostly(90, Just(true), Just(false));
    let host = (any::<bool>(), mostly_true(), mostly_true(), mostly(90, Just(false), Just(true)));
    let wave = (vec(host, 0..7), limits(), select(Action::ALL.to_vec()), groups());
    (vec(wave, 1..5), any::<bool>(), any::<bool>()).prop_map(|(waves, is_built, stages)| {
        let mut count = 0;
        let mut new_host = |(supports_ids, supports_rollback, supports_system, is_current)| {
            count += 1;
            let host = fixture::host(&format!("h{count}"));
            let system = is_built.then(|| fixture::system_of(&host.hostname));
            ResolvedHost { supports_ids, supports_rollback, supports_system, is_current, system, ..host }
        };
        let mut resolved = Vec::new();
        for (number, (hosts, mut limits, action, groups)) in waves.into_iter().enumerate() {
            let hosts: Vec<ResolvedHost> = hosts.into_iter().map(&mut new_host).collect();
            limits.min_hosts = limits.min_hosts.min(hosts.len());
            resolved.push(ResolvedWave { name: format!("w{number}"), action, hosts, groups, limits });
        }
        let mut plan = fixture::rollout(resolved).plan.clone();
        if is_built && stages {
            plan.fetch_first();
        }
        (plan.waves, plan.stage)
    })
}

/// Returns either all prod hosts or no group.
fn groups() -> impl Strategy<Value = Groups> {
    let all = Groups { targets: vec!["deploy.prod.all".parse().unwrap()], exclude: Vec::new() };
    mostly(70, Just(Groups::default()), Just(all))
}

fn late_hosts() -> impl Strategy<Value = Vec<LateHost>> {
    let late_host = (0..4u32, select(Tier::ALL.to_vec()), seconds(0..30), seconds(0..4));
    let late_host = late_host.prop_map(|(number, tier, since, after)| {
        let report = HostReport { tier, ..fixture::report(&fixture::name(&format!("late{number}")), Vec::new()) };
        LateHost { report, since, after }
    });
    mostly(50, Just(Vec::new()), vec(late_host, 1..4))
}

fn operator(waves: usize) -> impl Strategy<Value = (Vec<(Duration, Confirmation)>, Vec<Checked>)> {
    let answer =
        prop_oneof![8 => Just(Confirmation::Yes), 1 => Just(Confirmation::No), 1 => Just(Confirmation::Unavailable)];
    let passes = mostly(80, Just(true), Just(false));
    (vec((seconds(0..6), answer), waves), vec((seconds(0..4), passes), waves))
}

/// Returns a world with a plan of at most four waves of at most six hosts.
pub(super) fn world(climate: Climate) -> impl Strategy<Value = World> {
    let (connection, losses) = match climate {
        Climate::Calm | Climate::Interrupts => (Just(Vec::new()).boxed(), Just(Vec::new()).boxed()),
        Climate::Outages | Climate::Chaos => (connection().boxed(), losses().boxed()),
    };
    let interrupts = match climate {
        Climate::Calm | Climate::Outages => Just(Vec::new()).boxed(),
        Climate::Interrupts | Climate::Chaos => interrupts().boxed(),
    };
    let waves = waves().prop_flat_map(|(waves, stages)| {
        let hosts = waves.iter().skip(usize::from(stages)).map(|wave| wave.hosts.len()).sum();
        let count = waves.len();
        (Just((waves, stages)), scripts(hosts), rollback_requests(hosts), operator(count))
    });
    let revision = mostly(75, Just(fixture::COMMIT), Just(fixture::BRANCH)).prop_map(|text| text.parse().unwrap());
    let late_answer = proptest::option::of(seconds(0..6));
    let outside = ((late_hosts(), late_answer), revision, any::<bool>());
    (waves, connection, losses, interrupts, outside).prop_map(
        |(((waves, stages), scripts, returns, (answers, checks)), connection, losses, interrupts, outside)| {
            let ((late_hosts, late_answer), revision, deadline_first) = outside;
            World {
                waves,
                stages,
                revision,
                scripts,
                returns,
                connection,
                losses,
                interrupts,
                answers,
                checks,
                late_hosts,
                late_answer,
                deadline_first,
            }
        },
    )
}
