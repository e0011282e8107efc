//! Random plans, and a network that drops, repeats, reorders, delays, is silent and lies.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fixture::{self, EPOCH, name, secs};
use super::sim::{self, Agenda, Log};
use crate::plan::{Check, FrozenHost, FrozenWave, Limits};
use crate::protocol::{Action, ErrorCode, HostName, Phase, RequestId, Response, Status};
use crate::rollout::{Answer, Connection, Dispatch, Effect, Input, Interrupt, Machine};

/// Everything that the machine cannot decide.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) waves: Vec<FrozenWave>,
    /// What comes back from each host, in the order of the plan, for its first request, its second and so on.
    pub(super) scripts: Vec<Vec<Script>>,
    pub(super) connection: Vec<(Duration, Connection)>,
    pub(super) losses: Vec<Range<Duration>>,
    pub(super) interrupts: Vec<(Duration, Interrupt)>,
    /// How long the operator thinks about each wave, and what is said then.
    pub(super) answers: Vec<(Duration, Answer)>,
    pub(super) checks: Vec<Checked>,
    pub(super) deadline_first: bool,
}

/// What comes back for one request.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// Whether the request does not get through; the host takes it when it is asked again.
    pub(super) is_lost: bool,
    /// Whether the listener names the request in its answers.
    pub(super) names_id: bool,
    pub(super) replies: Vec<Reply>,
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// How long after the request.
    pub(super) after: Duration,
    pub(super) said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// The host's own answer.
    Status(Status),
    /// The host is at another request.
    Busy,
    /// The server says that nobody is subscribed.
    Nobody,
    /// Another host answers in its place.
    Forged(Status),
}

/// How long the check of a wave runs, and whether it passes.
pub(super) type Checked = (Duration, bool);

/// How bad it gets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Climate {
    /// The bus stays connected and nobody interrupts.
    Calm,
    /// The connection comes and goes, and answers are lost.
    Outages,
    /// The operator wants to stop.
    Interrupts,
    /// All of it.
    Chaos,
}

impl World {
    pub(super) fn hosts(&self) -> impl Iterator<Item = &FrozenHost> {
        self.waves.iter().flat_map(|wave| &wave.hosts)
    }

    /// Lives through the whole rollout.
    pub(super) fn run(&self) -> Log {
        let mut agenda = Agenda::new(self.deadline_first, &self.losses);
        for (at, connection) in &self.connection {
            agenda.surely(*at, Input::Connection(*connection));
        }
        for (at, how) in &self.interrupts {
            agenda.surely(*at, Input::Interrupt(*how));
        }
        let mut network = Network { world: self, sent: vec![0; self.scripts.len()], taken: BTreeMap::new() };
        let mut machine = Machine::new(fixture::rollout(self.waves.clone()), EPOCH);
        sim::run(&mut machine, agenda, |now, effect, agenda| network.react(now, effect, agenda))
    }
}

/// The hosts and the way to them.
struct Network<'a> {
    world: &'a World,
    /// How many requests each host was sent.
    sent: Vec<usize>,
    /// The requests that got through: when, and what is said to them.
    taken: BTreeMap<RequestId, (Duration, &'a Script)>,
}

impl<'a> Network<'a> {
    fn react(&mut self, now: Duration, effect: &Effect, agenda: &mut Agenda) {
        match effect {
            Effect::Send(dispatch) => self.sent(now, dispatch, agenda),
            Effect::AskState(dispatch) => self.asked(now, dispatch, agenda),
            Effect::Ask(wave) => {
                let (after, answer) = self.world.answers[wave.0];
                agenda.surely(now + after, Input::Answer(answer));
            }
            Effect::RunCheck(wave) => {
                let (after, passes) = self.world.checks[wave.0];
                let result = if passes { Ok(()) } else { Err("exit status 1".to_owned()) };
                agenda.surely(now + after, Input::CheckDone(result));
            }
            Effect::Report(_) | Effect::CallRoll => {}
        }
    }

    fn sent(&mut self, now: Duration, dispatch: &Dispatch, agenda: &mut Agenda) {
        let index = self.index(dispatch);
        self.sent[index] += 1;
        let script = self.script(index);
        if !script.is_lost {
            self.play(now, index, dispatch, script, agenda);
        }
    }

    /// A host that knows the request says how far it is; one that does not takes it for new.
    fn asked(&mut self, now: Duration, dispatch: &Dispatch, agenda: &mut Agenda) {
        let index = self.index(dispatch);
        let request = dispatch.request.id.as_ref().unwrap();
        match self.taken.get(request) {
            Some(&(since, script)) => {
                let so_far = script.replies.iter().filter(|reply| since + reply.after <= now);
                if let Some(reply) = so_far.max_by_key(|reply| reply.after) {
                    agenda.over_the_bus(now, self.input(index, request, script, reply.said));
                }
            }
            None => self.play(now, index, dispatch, self.script(index), agenda),
        }
    }

    fn play(&mut self, now: Duration, index: usize, dispatch: &Dispatch, script: &'a Script, agenda: &mut Agenda) {
        let request = dispatch.request.id.as_ref().unwrap();
        self.taken.insert(request.clone(), (now, script));
        for reply in &script.replies {
            agenda.over_the_bus(now + reply.after, self.input(index, request, script, reply.said));
        }
    }

    fn index(&self, dispatch: &Dispatch) -> usize {
        self.world.hosts().position(|host| host.subject == dispatch.subject).expect("requests go to hosts of the plan")
    }

    fn script(&self, index: usize) -> &'a Script {
        let scripts = &self.world.scripts[index];
        &scripts[self.sent[index].saturating_sub(1).min(scripts.len() - 1)]
    }

    fn input(&self, index: usize, request: &RequestId, script: &Script, said: Said) -> Input {
        let host = &self.world.hosts().nth(index).unwrap().hostname;
        let (speaker, status, error) = match said {
            Said::Status(status) => (host.clone(), status, None),
            Said::Busy => (host.clone(), Status::Rejected, Some(ErrorCode::AlreadyRunning)),
            Said::Nobody => return Input::NoResponders { request: request.clone() },
            Said::Forged(status) => (self.another_than(index), status, None),
        };
        let phase = (status == Status::Started).then_some(Phase::Build);
        let id = script.names_id.then(|| request.clone());
        let response = Response { error, id, phase, ..Response::new(speaker, status, "") };
        Input::Response { request: request.clone(), response: Box::new(response) }
    }

    fn another_than(&self, index: usize) -> HostName {
        let count = self.world.scripts.len();
        let other = self.world.hosts().nth((index + 1) % count).unwrap();
        if count > 1 { other.hostname.clone() } else { name("stranger") }
    }
}

// -- strategies

fn seconds(range: Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(secs)
}

/// `some` of a hundred values are drawn from the first, the rest from the second.
fn mostly<T: std::fmt::Debug>(
    some: u32,
    first: impl Strategy<Value = T> + 'static,
    second: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![some => first, 100 - some => second]
}

fn limits() -> impl Strategy<Value = Limits> {
    let counts = (1..7usize, mostly(60, Just(0), 1..4usize), mostly(70, Just(0), 1..4usize));
    let patience = (seconds(2..6), seconds(1..16));
    let after = (mostly(50, Just(Duration::ZERO), seconds(1..6)), any::<[bool; 2]>(), any::<[bool; 2]>());
    let retry = (mostly(60, Just(0), 1..3u32), seconds(0..5));
    (counts, patience, after, retry, any::<bool>()).prop_map(|(counts, patience, after, retry, ignore_unreachable)| {
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
        }
    })
}

fn waves() -> impl Strategy<Value = Vec<FrozenWave>> {
    let wave = (vec(any::<bool>(), 0..7), limits(), select(Action::ALL.to_vec()));
    vec(wave, 1..5).prop_map(|waves| {
        let mut count = 0;
        let mut new_host = |knows_ids| {
            count += 1;
            FrozenHost { knows_ids, ..fixture::host(&format!("h{count}")) }
        };
        let mut frozen = Vec::new();
        for (number, (hosts, mut limits, action)) in waves.into_iter().enumerate() {
            let hosts: Vec<FrozenHost> = hosts.into_iter().map(&mut new_host).collect();
            limits.min_hosts = limits.min_hosts.min(hosts.len());
            frozen.push(FrozenWave { name: format!("w{number}"), action, hosts, limits });
        }
        frozen
    })
}

fn status() -> impl Strategy<Value = Status> {
    select(vec![Status::Accepted, Status::Started, Status::Rejected, Status::Completed, Status::Failed])
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        4 => status().prop_map(Said::Status),
        1 => Just(Said::Busy),
        1 => Just(Said::Nobody),
        2 => status().prop_map(Said::Forged),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    (seconds(0..22), said()).prop_map(|(after, said)| Reply { after, said })
}

/// A listener as it should be: accepted, started, and how it ended.
fn orderly(end: Status) -> impl Strategy<Value = Vec<Reply>> {
    (seconds(0..3), seconds(0..2), seconds(0..5)).prop_map(move |(accepted, started, ended)| {
        let times = [accepted, accepted + started, accepted + started + ended];
        let statuses = [Status::Accepted, Status::Started, end].map(Said::Status);
        times.into_iter().zip(statuses).map(|(after, said)| Reply { after, said }).collect()
    })
}

fn one(said: Said) -> impl Strategy<Value = Vec<Reply>> {
    seconds(0..4).prop_map(move |after| vec![Reply { after, said }])
}

fn trouble() -> impl Strategy<Value = Vec<Reply>> {
    prop_oneof![
        3 => orderly(Status::Failed),
        2 => one(Said::Status(Status::Rejected)),
        3 => one(Said::Busy),
        2 => one(Said::Nobody),
        2 => one(Said::Status(Status::Accepted)),
        2 => Just(Vec::new()),
        2 => vec(reply(), 1..6),
    ]
}

fn script(reliability: u32) -> impl Strategy<Value = Script> {
    let replies = mostly(reliability, orderly(Status::Completed), trouble());
    let extra = mostly(reliability, Just(Vec::new()), vec(reply(), 1..3));
    let is_lost = mostly(90, Just(false), any::<bool>());
    (replies, extra, is_lost, any::<bool>()).prop_map(|(mut replies, extra, is_lost, names_id)| {
        replies.extend(extra);
        Script { is_lost, names_id, replies }
    })
}

fn scripts(hosts: usize) -> impl Strategy<Value = Vec<Vec<Script>>> {
    select(vec![50, 80, 95]).prop_flat_map(move |reliability| vec(vec(script(reliability), 1..3), hosts))
}

fn connection() -> impl Strategy<Value = Vec<(Duration, Connection)>> {
    vec((seconds(0..60), select(vec![Connection::Down, Connection::Up])), 1..7)
}

fn losses() -> impl Strategy<Value = Vec<Range<Duration>>> {
    vec((seconds(0..40), seconds(0..6)).prop_map(|(at, length)| at..at + length), 0..3)
}

fn interrupts() -> impl Strategy<Value = Vec<(Duration, Interrupt)>> {
    let how = prop_oneof![3 => Just(Interrupt::Drain), 1 => Just(Interrupt::Abort)];
    vec((seconds(0..40), how), 1..3)
}

fn operator(waves: usize) -> impl Strategy<Value = (Vec<(Duration, Answer)>, Vec<Checked>)> {
    let answer = prop_oneof![8 => Just(Answer::Yes), 1 => Just(Answer::No), 1 => Just(Answer::Unavailable)];
    let passes = mostly(80, Just(true), Just(false));
    (vec((seconds(0..6), answer), waves), vec((seconds(0..4), passes), waves))
}

/// A rollout of at most four waves of at most six hosts, and what becomes of it.
pub(super) fn world(climate: Climate) -> impl Strategy<Value = World> {
    let (connection, losses) = match climate {
        Climate::Calm | Climate::Interrupts => (Just(Vec::new()).boxed(), Just(Vec::new()).boxed()),
        Climate::Outages | Climate::Chaos => (connection().boxed(), losses().boxed()),
    };
    let interrupts = match climate {
        Climate::Calm | Climate::Outages => Just(Vec::new()).boxed(),
        Climate::Interrupts | Climate::Chaos => interrupts().boxed(),
    };
    let waves = waves().prop_flat_map(|waves| {
        let hosts = waves.iter().map(|wave| wave.hosts.len()).sum();
        let count = waves.len();
        (Just(waves), scripts(hosts), operator(count))
    });
    (waves, connection, losses, interrupts, any::<bool>()).prop_map(
        |((waves, scripts, (answers, checks)), connection, losses, interrupts, deadline_first)| World {
            waves,
            scripts,
            connection,
            losses,
            interrupts,
            answers,
            checks,
            deadline_first,
        },
    )
}
