//! Simulates hosts behind a network that drops, repeats, reorders, delays, is silent and lies.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fixture::{self, name, secs};
use super::sim::Agenda;
use crate::plan::ResolvedHost;
use crate::protocol::{ErrorCode, HostName, Phase, Request, RequestId, Response, Sender, Status, Tier};
use crate::rollout::{Connection, Input, Interrupt};

/// The responses to one request.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// How often the request is lost before the host gets it.
    pub(super) lost: usize,
    /// Whether the listener's responses carry the request id.
    pub(super) names_id: bool,
    /// Whether its responses carry the commit that it deploys.
    pub(super) names_commit: bool,
    pub(super) replies: Vec<Reply>,
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// The time since the request.
    pub(super) after: Duration,
    pub(super) said: ReplyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// A response of the host.
    Status(Status),
    /// The host waits to be confirmed.
    ToBeConfirmed,
    /// The host rolled back, and responds with this status.
    RolledBack(Status),
    /// The host could not roll back, and responds with this status.
    NotRolledBack(Status),
    /// The host runs another request.
    Busy,
    /// The server reports that nobody is subscribed.
    Nobody,
    /// A response that is not the host's own, or is about something else.
    Forged(Forgery, Status),
}

/// What another key can publish, and what gives the forged response away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgery {
    /// Another host responds below its own prefix, under its own name.
    WrongHost,
    /// Another host responds below its own prefix, under this host's name.
    Subject,
    /// A host of the same name in another tier responds.
    Tier,
    /// The host responds under another name.
    Name,
    /// The host responds to another request.
    Request,
}

pub(super) struct Network<'a> {
    hosts: Vec<&'a ResolvedHost>,
    /// The scripts of each host for its first request, its second and so on; the last one also for all that follow.
    scripts: &'a [Vec<Script>],
    /// The script of each host for its rollback request.
    returns: &'a [Script],
    /// How many requests each host was sent.
    sent: Vec<usize>,
    /// How many times each request was lost.
    lost: BTreeMap<(usize, RequestId), usize>,
    /// The requests that hosts got: when, and with which script they respond.
    taken: BTreeMap<(usize, RequestId), (Duration, &'a Script)>,
}

impl<'a> Network<'a> {
    pub(super) fn new(hosts: Vec<&'a ResolvedHost>, scripts: &'a [Vec<Script>], returns: &'a [Script]) -> Self {
        let sent = vec![0; hosts.len()];
        Self { hosts, scripts, returns, sent, lost: BTreeMap::new(), taken: BTreeMap::new() }
    }

    /// Delivers a request to a host, unless it is lost.
    pub(super) fn sent(&mut self, now: Duration, host: usize, request: &Request, agenda: &mut Agenda) {
        self.sent[host] += usize::from(request.returns.is_none());
        if !self.loses(host, request) {
            self.play(now, host, request, agenda);
        }
    }

    /// Whether the request is lost this time.
    fn loses(&mut self, host: usize, request: &Request) -> bool {
        let script = self.script(host, request);
        let lost = self.lost.entry((host, id_of(request))).or_default();
        let loses = *lost < script.lost;
        *lost += usize::from(loses);
        loses
    }

    /// Repeats a request. A host that knows it responds with its state; another one runs it.
    pub(super) fn asked(&mut self, now: Duration, host: usize, request: &Request, agenda: &mut Agenda) {
        match self.taken.get(&(host, id_of(request))).copied() {
            Some((since, script)) => {
                let so_far = script.replies.iter().filter(|reply| since + reply.after <= now);
                if let Some(reply) = so_far.max_by_key(|reply| reply.after) {
                    agenda.over_the_bus(now, self.input(host, &id_of(request), script, reply.said));
                }
            }
            None if self.loses(host, request) => {}
            None => self.play(now, host, request, agenda),
        }
    }

    fn play(&mut self, now: Duration, host: usize, request: &Request, agenda: &mut Agenda) {
        let script = self.script(host, request);
        self.taken.insert((host, id_of(request)), (now, script));
        for reply in &script.replies {
            agenda.over_the_bus(now + reply.after, self.input(host, &id_of(request), script, reply.said));
        }
    }

    fn script(&self, host: usize, request: &Request) -> &'a Script {
        if request.returns.is_some() {
            return &self.returns[host];
        }
        let scripts = &self.scripts[host];
        &scripts[self.sent[host].saturating_sub(1).min(scripts.len() - 1)]
    }

    fn input(&self, index: usize, request: &RequestId, script: &Script, said: ReplyKind) -> Input {
        let ResolvedHost { hostname: host, tier, supports_ids, .. } = self.hosts[index];
        let own = Sender { tier: *tier, host: host.clone() };
        let another = Sender { host: self.another_than(index), ..own.clone() };
        let (from, speaker, status, error) = match said {
            ReplyKind::Status(status)
            | ReplyKind::RolledBack(status)
            | ReplyKind::NotRolledBack(status)
            | ReplyKind::Forged(Forgery::Request, status) => (own, host, status, None),
            ReplyKind::ToBeConfirmed => (own, host, Status::Started, None),
            ReplyKind::Busy => (own, host, Status::Rejected, Some(ErrorCode::AlreadyRunning)),
            ReplyKind::Nobody => return Input::NoResponders { request: request.clone() },
            ReplyKind::Forged(Forgery::WrongHost, status) => (another.clone(), &another.host, status, None),
            ReplyKind::Forged(Forgery::Subject, status) => (another.clone(), host, status, None),
            ReplyKind::Forged(Forgery::Tier, status) => (Sender { tier: Tier::Test, ..own }, host, status, None),
            ReplyKind::Forged(Forgery::Name, status) => (own, &another.host, status, None),
        };
        let phase = match said {
            ReplyKind::ToBeConfirmed => Some(Phase::Confirm),
            _ => (status == Status::Started).then_some(Phase::Build),
        };
        let rolled_back = match said {
            ReplyKind::RolledBack(_) => Some(true),
            ReplyKind::NotRolledBack(_) => Some(false),
            _ => None,
        };
        let id = match said {
            ReplyKind::Forged(Forgery::Request, _) => Some("of-another-request".parse().expect("it is an id")),
            _ => (*supports_ids || script.names_id).then(|| request.clone()),
        };
        let revision = script.names_commit.then(|| fixture::commit_of(index));
        let response =
            Response { error, id, phase, revision, rolled_back, ..Response::new(speaker.clone(), status, "") };
        Input::Response { from, request: request.clone(), response: Arc::new(response) }
    }

    fn another_than(&self, index: usize) -> HostName {
        match self.hosts.as_slice() {
            [_] => name("stranger"),
            hosts => hosts[(index + 1) % hosts.len()].hostname.clone(),
        }
    }
}

fn id_of(request: &Request) -> RequestId {
    request.id.clone().expect("each request has an id")
}

// -- strategies

pub(super) fn seconds(range: Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(secs)
}

/// Draws `some` of a hundred values from `first` and the rest from `second`.
pub(super) fn mostly<T: std::fmt::Debug>(
    some: u32,
    first: impl Strategy<Value = T> + 'static,
    second: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![some => first, 100 - some => second]
}

fn status() -> impl Strategy<Value = Status> {
    select(vec![Status::Accepted, Status::Started, Status::Rejected, Status::Completed, Status::Failed])
}

fn forgery() -> impl Strategy<Value = Forgery> {
    select(vec![Forgery::WrongHost, Forgery::Subject, Forgery::Tier, Forgery::Name, Forgery::Request])
}

fn said() -> impl Strategy<Value = ReplyKind> {
    prop_oneof![
        4 => status().prop_map(ReplyKind::Status),
        1 => Just(ReplyKind::Busy),
        1 => Just(ReplyKind::Nobody),
        2 => Just(ReplyKind::ToBeConfirmed),
        1 => status().prop_map(ReplyKind::RolledBack),
        1 => status().prop_map(ReplyKind::NotRolledBack),
        3 => (forgery(), status()).prop_map(|(forgery, status)| ReplyKind::Forged(forgery, status)),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    (seconds(0..22), said()).prop_map(|(after, said)| Reply { after, said })
}

/// Returns the replies of a correct listener: accepted, started, maybe waiting to be confirmed, and `end`.
fn orderly(end: ReplyKind) -> impl Strategy<Value = Vec<Reply>> {
    (seconds(0..3), seconds(0..2), 0..3usize, seconds(0..5)).prop_map(move |(accepted, started, waits, ended)| {
        let statuses = [(accepted, Status::Accepted), (started, Status::Started)];
        let begin = statuses.map(|(after, status)| (after, ReplyKind::Status(status)));
        let waits = std::iter::repeat_n((secs(1), ReplyKind::ToBeConfirmed), waits);
        let replies = begin.into_iter().chain(waits).chain([(ended, end)]);
        replies
            .scan(Duration::ZERO, |now, (after, said)| {
                *now += after;
                Some(Reply { after: *now, said })
            })
            .collect()
    })
}

fn one(said: ReplyKind) -> impl Strategy<Value = Vec<Reply>> {
    seconds(0..4).prop_map(move |after| vec![Reply { after, said }])
}

fn trouble() -> impl Strategy<Value = Vec<Reply>> {
    prop_oneof![
        2 => orderly(ReplyKind::Status(Status::Failed)),
        2 => orderly(ReplyKind::RolledBack(Status::Failed)),
        1 => orderly(ReplyKind::NotRolledBack(Status::Failed)),
        2 => one(ReplyKind::Status(Status::Rejected)),
        3 => one(ReplyKind::Busy),
        2 => one(ReplyKind::Nobody),
        2 => one(ReplyKind::Status(Status::Accepted)),
        2 => Just(Vec::new()),
        2 => vec(reply(), 1..6),
    ]
}

pub(super) fn script(reliability: u32) -> impl Strategy<Value = Script> {
    let replies = mostly(reliability, orderly(ReplyKind::Status(Status::Completed)), trouble());
    let extra = mostly(reliability, Just(Vec::new()), vec(reply(), 1..3));
    let lost = mostly(85, Just(0), 1..5usize);
    let names_commit = mostly(80, Just(true), Just(false));
    (replies, extra, lost, any::<bool>(), names_commit).prop_map(
        |(mut replies, extra, lost, names_id, names_commit)| {
            replies.extend(extra);
            Script { lost, names_id, names_commit, replies }
        },
    )
}

pub(super) fn scripts(hosts: usize) -> impl Strategy<Value = Vec<Vec<Script>>> {
    select(vec![50, 80, 95]).prop_flat_map(move |reliability| vec(vec(script(reliability), 1..3), hosts))
}

/// Returns a script for a rollback request. The host may respond `completed` without having rolled back.
fn rollback_script() -> impl Strategy<Value = Script> {
    let trouble = prop_oneof![
        2 => orderly(ReplyKind::NotRolledBack(Status::Failed)),
        2 => orderly(ReplyKind::NotRolledBack(Status::Completed)),
        2 => orderly(ReplyKind::Status(Status::Completed)),
        1 => one(ReplyKind::Status(Status::Rejected)),
        3 => trouble(),
    ];
    let replies = mostly(60, orderly(ReplyKind::RolledBack(Status::Completed)), trouble);
    let lost = mostly(85, Just(0), 1..5usize);
    (replies, lost).prop_map(|(replies, lost)| Script { lost, names_id: true, names_commit: true, replies })
}

pub(super) fn rollback_requests(hosts: usize) -> impl Strategy<Value = Vec<Script>> {
    vec(rollback_script(), hosts)
}

pub(super) fn connection() -> impl Strategy<Value = Vec<(Duration, Connection)>> {
    vec((seconds(0..60), select(vec![Connection::Down, Connection::Up])), 1..7)
}

pub(super) fn losses() -> impl Strategy<Value = Vec<Range<Duration>>> {
    vec((seconds(0..40), seconds(0..6)).prop_map(|(at, length)| at..at + length), 0..3)
}

pub(super) fn interrupts() -> impl Strategy<Value = Vec<(Duration, Interrupt)>> {
    let how = prop_oneof![3 => Just(Interrupt::Drain), 1 => Just(Interrupt::Abort)];
    vec((seconds(0..40), how), 1..3)
}
