//! Carries out a schedule, and then lets the rollout finish in calm.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use super::Figures;
use super::rollout::{Deployment, Rollout};
use super::schedule::{Blow, Fault, Link, Schedule, Stroke, Trouble, Victim};
use super::site::{self, Site};
use crate::support::proxy::{Passes, Proxy};

/// How often the state of everything is checked.
const LOOK: Duration = Duration::from_millis(10);

/// How long the rollout may take to succeed once nothing breaks any more.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Storm<'a> {
    pub site: Site,
    /// All rollouts so far; the last one runs.
    pub rollouts: Vec<Rollout>,
    pub deployments: Vec<Deployment>,
    pub figures: Figures,
    schedule: &'a Schedule,
    /// The strokes that wait for a supervisor to hit, and how to hit it.
    aimed: Vec<(usize, Blow)>,
    /// The processes that each stroke has suspended.
    suspended: BTreeMap<usize, Vec<Pid>>,
}

impl<'a> Storm<'a> {
    pub fn new(schedule: &'a Schedule, site: Site) -> Self {
        Self {
            site,
            schedule,
            rollouts: vec![Rollout::new(0)],
            deployments: Vec::new(),
            figures: Figures::default(),
            aimed: Vec::new(),
            suspended: BTreeMap::new(),
        }
    }

    /// Carries out all strokes, and then waits for the end of the last rollout. Returns an error if it does not end.
    pub async fn rage(&mut self) -> Result<(), String> {
        let strokes = self.schedule.strokes.iter().enumerate();
        let moments =
            strokes.flat_map(|(index, Stroke { at, lasts, .. })| [(*at, index, true), (*at + *lasts, index, false)]);
        let mut moments: Vec<(Duration, usize, bool)> = moments.collect();
        moments.sort();
        let began = Instant::now();
        for (at, index, begins) in moments {
            while began.elapsed() < at {
                self.look().await;
                self.go_on();
            }
            let stroke = self.schedule.strokes[index];
            if begins { self.strike(index, stroke) } else { self.heal(index, stroke).await }
        }
        self.calm().await
    }

    async fn calm(&mut self) -> Result<(), String> {
        let (since, attempts) = (Instant::now(), self.rollout().attempts);
        while !self.rollout().is_done || self.deploying() {
            if since.elapsed() > PATIENCE {
                let more = self.rollout().attempts - attempts;
                return Err(format!(
                    "nothing breaks for {PATIENCE:?}, and {more} more commands did not come to an end"
                ));
            }
            self.look().await;
        }
        self.site.lab.fleet.check_alive().map_err(|error| format!("{error:?}"))
    }

    fn deploying(&mut self) -> bool {
        self.deployments.iter_mut().any(|deployment| deployment.running.status().unwrap().is_none())
    }

    /// Starts the next rollout once the last one has succeeded.
    fn go_on(&mut self) {
        if self.rollout().is_done {
            self.rollouts.push(Rollout::new(self.rollouts.len()));
        }
    }

    fn rollout(&mut self) -> &mut Rollout {
        self.rollouts.last_mut().unwrap()
    }

    async fn look(&mut self) {
        self.rollouts.last_mut().unwrap().tend(&self.site, self.schedule);
        if let Some((index, blow)) = self.aimed.pop() {
            match self.site.supervisors().first() {
                Some(supervisor) => self.hit(index, blow, &[*supervisor]),
                None => self.aimed.push((index, blow)),
            }
        }
        sleep(LOOK).await;
    }

    fn strike(&mut self, index: usize, Stroke { fault, lasts, .. }: Stroke) {
        match fault {
            Fault::Process(victim, blow) => {
                match blow {
                    Blow::Kill => self.figures.kills += 1,
                    Blow::Stop => self.figures.stops += 1,
                    Blow::End => self.figures.ends += 1,
                }
                self.strike_process(index, victim, blow, lasts);
            }
            Fault::Link(link, trouble) => {
                self.figures.cuts += 1;
                let link = self.link(link);
                match trouble {
                    Trouble::Cut => link.cut(),
                    Trouble::Stalled | Trouble::HalfOpen => link.let_pass(Passes::Nothing),
                    Trouble::Deaf => link.let_pass(Passes::ToServer),
                    Trouble::Mute => link.let_pass(Passes::ToClient),
                }
            }
            Fault::Deployment(tier, _) => {
                self.figures.deployments += 1;
                self.deployments.push(Deployment::start(&self.site, tier, self.deployments.len()));
            }
        }
    }

    fn strike_process(&mut self, index: usize, victim: Victim, blow: Blow, lasts: Duration) {
        match (victim, blow) {
            (Victim::Server, Blow::Stop) => self.signal_server(Signal::STOP),
            (Victim::Server, Blow::Kill | Blow::End) => self.site.lab.server.stop(),
            (Victim::Operator, _) => {
                if blow == Blow::Kill {
                    // The operator takes time to notice. Hosts that wait for confirmation may roll back meanwhile.
                    self.rollout().leave_for(2 * lasts);
                }
                self.signal_operator(signal(blow));
            }
            (Victim::Listener(host), Blow::Kill) => self.site.kill_listener(host),
            (Victim::Listener(host), Blow::Stop | Blow::End) => self.site.signal_listener(host, signal(blow)),
            (Victim::Host(host), _) => {
                let processes = self.site.processes(host);
                self.hit(index, blow, &processes);
            }
            (Victim::Supervisor, _) => self.aimed.push((index, blow)),
        }
    }

    async fn heal(&mut self, index: usize, Stroke { fault, .. }: Stroke) {
        self.aimed.retain(|(aimed, _)| *aimed != index);
        for pid in self.suspended.remove(&index).unwrap_or_default() {
            site::signal(pid, Signal::CONT);
        }
        match fault {
            Fault::Process(Victim::Server, Blow::Stop) => self.signal_server(Signal::CONT),
            Fault::Process(Victim::Server, _) => self.site.lab.server.restart().await.unwrap(),
            Fault::Process(Victim::Operator, Blow::Stop) => self.signal_operator(Signal::CONT),
            Fault::Process(Victim::Listener(host), Blow::Stop) => self.site.signal_listener(host, Signal::CONT),
            Fault::Process(Victim::Listener(host) | Victim::Host(host), Blow::Kill | Blow::End) => {
                self.site.start_listener(host);
            }
            Fault::Link(link, trouble) => {
                let link = self.link(link);
                if trouble == Trouble::HalfOpen {
                    link.cut();
                }
                link.let_pass(Passes::Both);
            }
            Fault::Deployment(_, Some(blow)) => self.signal_deployments(signal(blow)),
            Fault::Process(..) | Fault::Deployment(_, None) => {}
        }
    }

    /// Sends a signal to these processes.
    fn hit(&mut self, index: usize, blow: Blow, processes: &[Pid]) {
        for pid in processes {
            site::signal(*pid, signal(blow));
        }
        if blow == Blow::Stop {
            self.suspended.entry(index).or_default().extend(processes);
        }
    }

    fn signal_server(&self, signal: Signal) {
        if let Some(server) = self.site.lab.server.process() {
            server.signal(signal).unwrap();
        }
    }

    fn signal_operator(&mut self, signal: Signal) {
        if let Some(command) = self.rollout().command() {
            command.signal(signal).unwrap();
        }
        if [Signal::STOP, Signal::CONT].contains(&signal) {
            self.signal_deployments(signal);
        }
    }

    fn signal_deployments(&mut self, signal: Signal) {
        for Deployment { running, .. } in &mut self.deployments {
            if running.status().unwrap().is_none() {
                running.signal(signal).unwrap();
            }
        }
    }

    fn link(&self, link: Link) -> &Proxy {
        match link {
            Link::Host(host) => &self.site.links[host],
            Link::Operators => &self.site.operators,
        }
    }
}

fn signal(blow: Blow) -> Signal {
    match blow {
        Blow::Kill => Signal::KILL,
        Blow::Stop => Signal::STOP,
        Blow::End => Signal::TERM,
    }
}
