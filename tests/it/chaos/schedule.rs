//! Generates everything that happens in a round from one seed.

use std::time::Duration;

use crate::dice::Dice;

/// How long things go wrong, in milliseconds.
const STORM: u64 = 6_000;

/// The longest fault, in milliseconds: longer than a host may be silent, so that some hosts time out.
const AT_MOST: u64 = 3_000;

/// The content of one round.
#[derive(Debug)]
pub struct Schedule {
    /// Whether hosts roll back unless they are confirmed.
    pub returns: bool,
    pub waves: Vec<Wave>,
    /// The faults, in order of time.
    pub strokes: Vec<Stroke>,
}

/// A wave of the rollout, and its limits.
#[derive(Debug)]
pub struct Wave {
    pub tier: &'static str,
    pub hosts: Vec<Member>,
    pub max_parallel: u64,
    pub max_failures: u64,
    pub retries: u64,
}

/// A host, and the results of its first runs. All later runs complete at once.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub runs: Vec<Run>,
}

/// The duration of a run in milliseconds, and whether it fails.
#[derive(Debug)]
pub struct Run {
    pub takes: u64,
    pub fails: bool,
}

/// A fault that lasts for a while.
#[derive(Debug, Clone, Copy)]
pub struct Stroke {
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// The kind of a fault. Hosts are numbered over all waves.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Process(Victim, Blow),
    Link(Link, Trouble),
    /// Another operator deploys another commit to a whole tier, and may be hit when the fault ends.
    Deployment(&'static str, Option<Blow>),
}

/// The processes that are hit.
#[derive(Debug, Clone, Copy)]
pub enum Victim {
    Server,
    /// The operator who retries. Suspending that machine suspends all commands on it.
    Operator,
    Listener(usize),
    Host(usize),
    /// The supervisor of some run, or of the next run if none is running.
    Supervisor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The process is killed, and started again.
    Kill,
    /// The process is suspended, and continued.
    Stop,
    /// The process is terminated, and started again.
    End,
}

/// A connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Host(usize),
    Operators,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Connections break.
    Cut,
    /// Data is delayed in both directions.
    Stalled,
    /// Data from the server is delayed.
    Deaf,
    /// Data to the server is delayed.
    Mute,
    /// Data is lost, and neither side notices before the connection is open again.
    HalfOpen,
}

impl Schedule {
    /// Generates the schedule of a seed, always the same one.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut names = (0..).map(|number| format!("host{number:02}"));
        let waves = [("test", 2), ("prod", 3), ("prod", 3)].map(|(tier, fewest)| {
            let size = fewest + dice.below(2);
            let hosts = names.by_ref().take(usize::try_from(size).unwrap());
            let hosts = hosts.map(|name| Member { name, runs: runs(&mut dice) }).collect();
            let (max_failures, retries) = (dice.below(2), dice.below(3));
            Wave { tier, hosts, max_parallel: 1 + dice.below(size), max_failures, retries }
        });
        let count = waves.iter().map(|wave| wave.hosts.len()).sum();
        let returns = dice.below(2) == 0;
        let mut strokes: Vec<Stroke> = (0..8 + dice.below(8)).map(|_| stroke(&mut dice, count)).collect();
        strokes.sort_by_key(|stroke| stroke.at);
        Self { returns, waves: waves.into(), strokes }
    }

    /// Returns all hosts with their tiers, in the order of the waves.
    pub fn hosts(&self) -> impl Iterator<Item = (&'static str, &Member)> {
        self.waves.iter().flat_map(|wave| wave.hosts.iter().map(|host| (wave.tier, host)))
    }

    /// Returns the plan for this commit.
    pub fn plan(&self, commit: &str) -> String {
        let waves = self.waves.iter().enumerate().map(|(index, wave)| {
            let Wave { tier, hosts, max_parallel, max_failures, retries } = wave;
            let targets: Vec<String> = hosts.iter().map(|host| format!("{tier}.{}", host.name)).collect();
            format!(
                "[[wave]]\nname = 'wave{index}'\ntargets = {targets:?}\nmax_parallel = {max_parallel}\n\
                 max_failures = {max_failures}\nretries = {retries}\n"
            )
        });
        let returns = if self.returns { "rollback = 'auto'\nconfirm_timeout = '5s'\n" } else { "" };
        let defaults = format!("accept_timeout = '1s'\ntimeout = '5s'\nretry_delay = '500ms'\n{returns}");
        format!("name = 'chaos'\nrevision = '{commit}'\n[defaults]\n{defaults}{}", waves.collect::<String>())
    }
}

fn runs(dice: &mut Dice) -> Vec<Run> {
    (0..2).map(|_| Run { takes: 100 + dice.below(700), fails: dice.below(8) == 0 }).collect()
}

fn stroke(dice: &mut Dice, hosts: usize) -> Stroke {
    let host = usize::try_from(dice.below(u64::try_from(hosts).unwrap())).unwrap();
    let blow = dice.pick(&[Blow::Kill, Blow::Kill, Blow::Stop, Blow::End]);
    let victim = match dice.below(10) {
        0 => Victim::Server,
        1..=3 => Victim::Operator,
        4 | 5 => Victim::Listener(host),
        6 => Victim::Host(host),
        _ => Victim::Supervisor,
    };
    let link = if dice.below(3) == 0 { Link::Operators } else { Link::Host(host) };
    let trouble = dice.pick(&[Trouble::Cut, Trouble::Stalled, Trouble::Deaf, Trouble::Mute, Trouble::HalfOpen]);
    let fault = match dice.below(20) {
        0 | 1 => Fault::Deployment(dice.pick(&["test", "prod"]), dice.pick(&[None, Some(Blow::Kill), Some(Blow::End)])),
        2..=7 => Fault::Link(link, trouble),
        _ => Fault::Process(victim, blow),
    };
    let millis = Duration::from_millis;
    Stroke { at: millis(dice.below(STORM)), lasts: millis(100 + dice.below(AT_MOST)), fault }
}
