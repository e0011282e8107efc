//! Random deployments to one subject, and what holds of all of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::fixture::{self, EPOCH, name, report, secs, subject_of};
use super::network::{Network, Script, connection, interrupts, losses, scripts, seconds};
use super::properties::rollouts;
use super::sim::{self, Agenda, Entry, Log};
use super::transcript::transcript;
use crate::protocol::{Action, HostName, Response, Subject};
use crate::rollout::broadcast::Order;
use crate::rollout::{
    Broadcast, Connection, Dispatch, Effect, EventKind, HostOutcome, Input, Interrupt, Outcome, Summary,
};

/// How long the answers to a roll call are awaited.
const WINDOW: Duration = Duration::from_secs(2);

/// A deployment and what it meets.
#[derive(Debug, Clone)]
struct Deployment {
    /// Whether the subject names the first host, or all that listen to it.
    is_named: bool,
    hosts: Vec<Neighbour>,
    scripts: Vec<Vec<Script>>,
    patience: (Duration, Duration),
    connection: Vec<(Duration, Connection)>,
    losses: Vec<Range<Duration>>,
    interrupts: Vec<(Duration, Interrupt)>,
    deadline_first: bool,
}

/// A host that is on the bus.
#[derive(Debug, Clone)]
struct Neighbour {
    name: HostName,
    /// Whether it listens on the subject of all.
    is_member: bool,
    /// How long after the roll call it says that it is there, if it does.
    present_after: Option<Duration>,
}

impl Deployment {
    fn subject(&self) -> Subject {
        if self.is_named { subject_of(&self.hosts[0].name) } else { all() }
    }

    fn run(&self) -> Log {
        let mut agenda = Agenda::new(self.deadline_first, &self.losses);
        for (at, connection) in &self.connection {
            agenda.surely(*at, Input::Connection(*connection));
        }
        for (at, how) in &self.interrupts {
            agenda.surely(*at, Input::Interrupt(*how));
        }
        let mut network = Network::new(self.hosts.iter().map(|host| &host.name).collect(), &self.scripts, &[]);
        let (accept_timeout, timeout) = self.patience;
        let order = Order { subject: self.subject(), action: Action::Switch, accept_timeout, timeout };
        let mut broadcast = Broadcast::new(Arc::clone(&fixture::rollout([])), order, EPOCH);
        sim::run(&mut broadcast, agenda, |now, effect, agenda| match effect {
            Effect::Send(Dispatch { subject, request }) => {
                for index in (0..self.hosts.len()).filter(|index| self.hosts[*index].listens_to(subject)) {
                    network.sent(now, index, request, agenda);
                }
            }
            Effect::AskState(Dispatch { subject, request }) => {
                for index in (0..self.hosts.len()).filter(|index| self.hosts[*index].listens_to(subject)) {
                    network.asked(now, index, request, agenda);
                }
            }
            Effect::CallRoll => {
                for host in &self.hosts {
                    if let Some(after) = host.present_after {
                        agenda.over_the_bus(now + after, Input::Present(Box::new(report(&host.name, host.subjects()))));
                    }
                }
                agenda.surely(now + WINDOW, Input::RollCallOver);
            }
            Effect::Confirm(_) | Effect::Ask(_) | Effect::RunCheck(_) | Effect::Report(_) => {}
        })
    }
}

impl Neighbour {
    fn subjects(&self) -> Vec<Subject> {
        let own = subject_of(&self.name);
        if self.is_member { vec![own, all()] } else { vec![own] }
    }

    fn listens_to(&self, subject: &Subject) -> bool {
        self.subjects().contains(subject)
    }
}

fn all() -> Subject {
    "deploy.prod.all".parse().unwrap()
}

/// What an onlooker knows of a host.
#[derive(Debug, Default)]
struct Seen {
    joined: bool,
    /// Whether it answered the roll call.
    is_present: bool,
    /// Whether it became known after answers had been lost, some of which may have been its.
    is_to_be_asked: bool,
    /// What it said while it was expected to.
    said: Vec<Response>,
    outcome: Option<HostOutcome>,
}

impl Seen {
    fn first_final(&self) -> Option<HostOutcome> {
        self.said.iter().find_map(|response| HostOutcome::of(response.status))
    }
}

/// What an onlooker knows of a deployment.
#[derive(Debug, Default)]
struct Onlooker {
    hosts: BTreeMap<HostName, Seen>,
    publishes: usize,
    announced: bool,
    down_since: Option<Duration>,
    /// How long nobody could be heard, and since when everybody could.
    deaf_for: Duration,
    heard_since: Duration,
    roll_is_over: bool,
    has_missed: bool,
    interrupt: Option<Interrupt>,
    outcome: Option<Outcome>,
}

/// The sentences that are not true of this deployment.
fn broken(deployment: &Deployment, log: &Log) -> Vec<&'static str> {
    let mut seen = Onlooker::default();
    let mut broken = Vec::new();
    for (at, entry) in log {
        broken.extend(seen.objections(deployment, *at, entry));
        seen.note(deployment, *at, entry);
    }
    let events = log.iter().filter_map(|(_, entry)| match entry {
        Entry::Did(Effect::Report(event)) => Some(event),
        _ => None,
    });
    let summary = Summary::of(events);
    let joined = seen.hosts.values().filter(|host| host.joined).count();
    let ended_at = log.last().map_or(Duration::ZERO, |(at, _)| *at);
    let statements = [
        ("everyone who is known is counted once", summary.counts().total() == joined),
        ("the summary ends as the deployment does", summary.outcome == seen.outcome),
        ("the request is published once", seen.publishes == 1),
        ("it ends in time", {
            let undisturbed = deployment.connection.is_empty() && deployment.losses.is_empty();
            !undisturbed || ended_at <= deployment.patience.1.max(WINDOW + secs(1))
        }),
    ];
    broken.extend(statements.into_iter().filter(|(_, holds)| !holds).map(|(statement, _)| statement));
    broken
}

impl Onlooker {
    fn objections(&self, deployment: &Deployment, at: Duration, entry: &Entry) -> Vec<&'static str> {
        let statements = match entry {
            Entry::Did(Effect::Send(dispatch)) => vec![
                ("the request is recorded before it is sent", self.announced),
                ("the request goes where it was told to", dispatch.subject == deployment.subject()),
                ("nothing is published while disconnected", self.down_since.is_none()),
            ],
            Entry::Did(Effect::AskState(dispatch)) => vec![
                ("nothing is published while disconnected", self.down_since.is_none()),
                ("only hosts in flight are asked for their state, each on its own subject", {
                    let is_asked = |(host, seen): (&HostName, &Seen)| {
                        seen.joined && seen.outcome.is_none() && dispatch.subject == subject_of(host)
                    };
                    self.hosts.iter().any(is_asked)
                }),
            ],
            Entry::Did(Effect::CallRoll) => {
                vec![("nothing is published while disconnected", self.down_since.is_none())]
            }
            Entry::Did(Effect::Report(event)) => self.objections_to(deployment, at, &event.kind),
            Entry::Did(Effect::Confirm(_) | Effect::Ask(_) | Effect::RunCheck(_)) => {
                vec![("nothing is confirmed, asked or checked", false)]
            }
            Entry::Told(_) | Entry::Woken | Entry::Restarted => {
                let is_settled = |seen: &Seen| seen.outcome == seen.first_final() || seen.gave_up();
                vec![
                    ("whoever is there is expected", self.hosts.values().all(|seen| seen.joined)),
                    ("a host is final once it says so", self.hosts.values().all(is_settled)),
                    ("who may have answered is asked", !self.hosts.values().any(|seen| seen.is_to_be_asked)),
                ]
            }
        };
        statements.into_iter().filter(|(_, holds)| !holds).map(|(statement, _)| statement).collect()
    }

    fn objections_to(&self, deployment: &Deployment, at: Duration, event: &EventKind) -> Vec<(&'static str, bool)> {
        let (accept, timeout) = deployment.patience;
        let bus_lost = self.down_since.is_some_and(|since| since + timeout <= at);
        match event {
            EventKind::Joined { host } => {
                let seen = self.hosts.get(host);
                let is_known = deployment.is_named || seen.is_some();
                let is_new = seen.is_none_or(|seen| !seen.joined);
                vec![("a host joins because it was heard", is_known), ("a host joins once", is_new)]
            }
            EventKind::Final { host, outcome, .. } => {
                let seen = &self.hosts[host];
                let is_true = match outcome {
                    HostOutcome::Completed | HostOutcome::Failed | HostOutcome::Rejected => {
                        seen.first_final() == Some(*outcome)
                    }
                    HostOutcome::Unreachable => {
                        let is_gone = self.roll_is_over && !seen.is_present;
                        seen.said.is_empty() && (is_gone || at >= self.heard_since + accept)
                    }
                    HostOutcome::TimedOut => bus_lost || (!seen.said.is_empty() && at >= self.deaf_for + timeout),
                    HostOutcome::Skipped(_) => false,
                };
                vec![("an outcome is what the host said", is_true), ("there is one final", seen.outcome.is_none())]
            }
            EventKind::Ended { outcome } => {
                let joined = || self.hosts.values().filter(|seen| seen.joined);
                let completed = || joined().all(|seen| seen.outcome == Some(HostOutcome::Completed));
                let known = deployment.is_named || self.roll_is_over;
                let expected = match self.interrupt {
                    Some(Interrupt::Abort) => Outcome::Interrupted,
                    _ if known && joined().count() > 0 && completed() => Outcome::Succeeded,
                    _ => Outcome::Failed,
                };
                let aborted = expected == Outcome::Interrupted;
                let all_final = joined().all(|seen| seen.outcome.is_some());
                vec![
                    ("it succeeds when it is known who is there, someone is, and all complete", *outcome == expected),
                    ("it ends when all are final", all_final || aborted),
                    ("it ends when all who are there are known", known || aborted || bus_lost),
                    ("it ends once", self.outcome.is_none()),
                ]
            }
            _ => Vec::new(),
        }
    }

    fn note(&mut self, deployment: &Deployment, at: Duration, entry: &Entry) {
        let counts = |host: &HostName| !deployment.is_named || *host == deployment.hosts[0].name;
        match entry {
            Entry::Told(Input::Response { response, .. }) if counts(&response.hostname) => {
                let seen = self.hosts.entry(response.hostname.clone()).or_default();
                if seen.outcome.is_none() {
                    seen.said.push(Response::clone(response));
                }
            }
            Entry::Told(Input::Present(report)) if report.deploy_subjects.contains(&deployment.subject()) => {
                let seen = self.hosts.entry(report.hostname.clone()).or_default();
                seen.is_to_be_asked = self.has_missed && !seen.is_present && seen.outcome.is_none();
                seen.is_present = true;
            }
            Entry::Told(Input::AnswersLost) => self.has_missed |= self.down_since.is_none(),
            Entry::Told(Input::Connection(Connection::Down)) => _ = self.down_since.get_or_insert(at),
            Entry::Told(Input::Connection(Connection::Up)) => {
                if let Some(since) = self.down_since.take() {
                    self.deaf_for += at.saturating_sub(since);
                    self.heard_since = at;
                    self.has_missed = true;
                }
            }
            Entry::Told(Input::RollCallOver) => self.roll_is_over |= self.down_since.is_none(),
            Entry::Told(Input::Interrupt(how)) => self.interrupt = self.interrupt.max(Some(*how)),
            Entry::Did(Effect::Send(_)) => self.publishes += 1,
            Entry::Did(Effect::AskState(dispatch)) => {
                for (_, seen) in self.hosts.iter_mut().filter(|(host, _)| subject_of(host) == dispatch.subject) {
                    seen.is_to_be_asked = false;
                }
            }
            Entry::Did(Effect::CallRoll) => self.roll_is_over = false,
            Entry::Did(Effect::Report(event)) => match &event.kind {
                EventKind::Dispatched { .. } => self.announced = true,
                EventKind::Joined { host } => self.hosts.entry(host.clone()).or_default().joined = true,
                EventKind::Final { host, outcome, .. } => {
                    self.hosts.entry(host.clone()).or_default().outcome = Some(*outcome);
                }
                EventKind::Ended { outcome } => self.outcome = Some(*outcome),
                _ => {}
            },
            _ => {}
        }
    }
}

impl Seen {
    fn gave_up(&self) -> bool {
        matches!(self.outcome, Some(HostOutcome::Unreachable | HostOutcome::TimedOut))
    }
}

fn deployment() -> impl Strategy<Value = Deployment> {
    let host = (any::<bool>(), option::weighted(0.8, seconds(0..4)));
    let hosts = vec(host, 1..6).prop_flat_map(|hosts| {
        let named = hosts.into_iter().enumerate().map(|(index, (is_member, present_after))| Neighbour {
            name: name(&format!("h{index}")),
            is_member,
            present_after,
        });
        let named: Vec<Neighbour> = named.collect();
        let count = named.len();
        (Just(named), scripts(count))
    });
    let patience = (seconds(2..6), seconds(1..16)).prop_map(|(accept, more)| (accept, accept + more));
    let trouble = (
        prop_oneof![Just(Vec::new()), connection()],
        prop_oneof![Just(Vec::new()), losses()],
        prop_oneof![Just(Vec::new()), interrupts()],
    );
    (any::<bool>(), hosts, patience, trouble, any::<bool>()).prop_map(
        |(is_named, (hosts, scripts), patience, (connection, losses, interrupts), deadline_first)| Deployment {
            is_named,
            hosts,
            scripts,
            patience,
            connection,
            losses,
            interrupts,
            deadline_first,
        },
    )
}

proptest! {
    #![proptest_config(rollouts(3000))]

    #[test]
    fn all_holds_of_a_deployment(deployment in deployment()) {
        let log = deployment.run();
        let broken = broken(&deployment, &log);
        prop_assert!(broken.is_empty(), "broken: {}\n{}", broken.join(", "), transcript(&log));
    }
}
