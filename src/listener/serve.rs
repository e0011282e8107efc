//! The loop that serves NATS: one input after another, and nothing in between that takes long.

use std::mem;
use std::pin::Pin;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};

use super::admission::{Decision, Refusal, decide};
use super::busy;
use super::host::Host;
use super::launch::Launcher;
use super::ledger::Ledger;
use super::memory::{Memory, Recalled, Untold};
use super::rebuild::{self, News, NotBegun, Over, Site, Watch};
use super::report::Reporter;
use super::run::{RunDir, Spec};
use super::voice::{Delivery, Link, Voice};
use super::{Config, ListenerError};
use crate::bus::BusEvent;
use crate::clock;
use crate::protocol::message::MAX_REQUEST_BYTES;
use crate::protocol::{DiscoveryRequest, Request, Response, Status, Subject};

/// How old a final may be to be told again after the connection was lost.
const REPEAT_FINAL_FOR: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// How long a listener that is told to stop waits for the server to have the end of a run; the next one tells it again.
const DELIVER_WITHIN: Duration = Duration::from_secs(2);

/// A listener at work.
pub(super) struct Service {
    config: Config,
    voice: Voice,
    ledger: Ledger,
    memory: Memory,
    launcher: Launcher,
    boot_id: Option<String>,
    /// The ends of runs that the server does not have yet.
    untold: Vec<Untold>,
    /// Whether some of them are on their way.
    mail: Mail,
    reporter: Reporter,
    stage: Stage,
    steps: JoinSet<Step>,
    heartbeat: Interval,
}

/// How far the run is, as far as this process has a part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Beginning,
    Running,
    Concluding,
}

/// Whether ends of runs are on their way to the server. One batch at a time: the next one may be the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mail {
    Idle,
    OnItsWay,
}

/// A part of a run that takes time, and is over.
#[derive(Debug)]
enum Step {
    Begun(Result<Watch, NotBegun>),
    News(News),
    Concluded(Box<Response>),
    /// The server has been given these.
    Delivered(Vec<Untold>),
    /// Nobody knows whether the server has been given these.
    Lost(Vec<Untold>),
}

/// What the loop waits for.
enum Input {
    Deploy(Message),
    Discover(Message),
    Step(Result<Step, JoinError>),
    Heartbeat,
    Bus(BusEvent),
    Stop,
}

impl Service {
    /// A service that knows what was found on disk; runs that go on are watched, those that are over concluded.
    pub(super) fn new(config: Config, client: Client, memory: Memory, recalled: Recalled) -> Self {
        let mut service = Self {
            ledger: Ledger::new(config.hostname.clone()),
            reporter: Reporter::new(&config),
            heartbeat: heartbeat(config.heartbeat),
            voice: Voice::new(client, config.discover_subject.clone()),
            launcher: Launcher::new(config.supervisor.clone(), &config.root),
            boot_id: Host::new(config.root.clone()).boot_id(),
            untold: recalled.untold,
            mail: Mail::Idle,
            stage: Stage::Idle,
            steps: JoinSet::new(),
            config,
            memory,
        };
        for (spec, response) in recalled.finals {
            service.ledger.ended(spec, response);
        }
        for (dir, spec) in recalled.unfinished {
            service.take_up(dir, spec);
        }
        service
    }

    /// Takes up a run that an earlier listener began.
    fn take_up(&mut self, dir: RunDir, spec: Spec) {
        match rebuild::over(&dir, &spec, self.boot_id.as_deref()) {
            None if self.stage == Stage::Idle => {
                tracing::info!(key = spec.key, "taking up the run that goes on");
                self.ledger.accepted(spec);
                self.watch(Watch::new(dir));
            }
            None => tracing::error!(key = spec.key, "a second run goes on; it is concluded at the next start"),
            Some(over) => {
                let response = rebuild::conclude(&over, &dir, &spec, self.site());
                self.concluded(dir, spec, response);
            }
        }
    }

    /// What a run is judged with.
    fn site(&self) -> Site {
        Site {
            host: self.config.hostname.clone(),
            boot_id: self.boot_id.clone(),
            previous: self.ledger.deployed_last().cloned(),
        }
    }

    /// Serves until told to stop.
    pub(super) async fn serve(
        mut self,
        mut events: UnboundedReceiver<BusEvent>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ListenerError> {
        let (mut deploys, mut discovery) = self.subscribe().await?;
        // Whoever waits may have missed what happened while nobody listened.
        self.tell_progress().await;
        self.deliver();
        loop {
            let input = tokio::select! {
                Some(message) = deploys.next() => Input::Deploy(message),
                Some(message) = discovery.next() => Input::Discover(message),
                Some(over) = self.steps.join_next() => Input::Step(over),
                _ = self.heartbeat.tick(), if self.stage == Stage::Running => Input::Heartbeat,
                Some(event) = events.recv() => Input::Bus(event),
                () = &mut stop => Input::Stop,
            };
            match input {
                Input::Deploy(message) => self.deploy(&message).await,
                Input::Discover(message) => self.discover(&message).await,
                Input::Step(over) => self.step(over).await,
                Input::Heartbeat => self.tell_progress().await,
                Input::Bus(event) => self.bus(event).await,
                Input::Stop => break,
            }
        }
        drop((deploys, discovery));
        self.finish().await;
        Ok(())
    }

    async fn subscribe(&self) -> Result<(SelectAll<Subscriber>, Subscriber), ListenerError> {
        let mut deploys = Vec::new();
        for subject in &self.config.deploy_subjects {
            deploys.push(self.voice.subscribe(subject).await?);
        }
        let discovery = self.voice.subscribe(&self.config.discover_subject).await?;
        self.voice.flush().await;
        let subjects: Vec<&str> = self.config.deploy_subjects.iter().map(Subject::as_str).collect();
        tracing::info!("listening on {}", subjects.join(", "));
        Ok((select_all(deploys), discovery))
    }

    /// A message on one of the deploy subjects.
    async fn deploy(&mut self, message: &Message) {
        let elsewhere = || busy::activation(&self.config.root);
        match decide(Request::parse(&message.payload), clock::now(), &self.ledger, elsewhere) {
            Decision::Accept(request) => self.accept(request).await,
            Decision::Answer { reply_to, state } => {
                tracing::info!(%reply_to, status = %state.status, "asked again");
                let state = self.with_phase(state);
                self.voice.say(&reply_to, &state).await;
            }
            Decision::Reject(refusal) => self.reject(refusal).await,
            Decision::Drop(why) => tracing::warn!(subject = %message.subject, "message dropped: {why}"),
        }
    }

    async fn accept(&mut self, request: Request) {
        tracing::info!(
            key = request.key(), action = %request.action, revision = %request.revision,
            operator = request.operator, rollout = request.rollout, wave = request.wave, "accepted"
        );
        let spec = self.spec(request);
        self.ledger.accepted(spec.clone());
        // Before anything that takes time: whoever waits shall know at once that it is heard.
        self.tell_progress().await;
        self.stage = Stage::Beginning;
        let (launcher, dir) = (self.launcher.clone(), self.memory.run_dir(&spec.key));
        self.steps.spawn_blocking(move || Step::Begun(rebuild::begin(&launcher, &dir, &spec)));
    }

    /// What to run for a request. No part of it is read by a shell, and none can be taken for an option: the flake URL
    /// begins with its scheme, and the action is one of ours.
    fn spec(&self, request: Request) -> Spec {
        let installable = self.config.flake.installable(&request.revision, &self.config.hostname);
        let argv = ["nixos-rebuild", request.action.as_str(), "--flake", &installable].map(str::to_owned);
        let spec = Spec::new(request, argv.into(), self.config.limits, clock::now());
        Spec { boot_id: self.boot_id.clone(), ..spec }
    }

    async fn reject(&mut self, refusal: Refusal) {
        tracing::warn!(key = refusal.key(), error = %refusal.error, "rejected: {}", refusal.message);
        let key = refusal.key().to_owned();
        let response = Response {
            error: Some(refusal.error),
            id: refusal.id,
            at: Some(clock::now()),
            holder: refusal.holder,
            ..Response::new(self.config.hostname.clone(), Status::Rejected, refusal.message)
        };
        self.voice.say(&refusal.reply_to, &response).await;
        self.ledger.rejected(key, response);
    }

    /// A message on the discovery subject.
    async fn discover(&mut self, message: &Message) {
        if message.payload.len() > MAX_REQUEST_BYTES {
            return tracing::warn!("roll call of {} bytes dropped", message.payload.len());
        }
        match serde_json::from_slice::<DiscoveryRequest>(&message.payload) {
            Ok(request) if request.tier.is_none_or(|tier| tier == self.config.tier) => {
                self.voice.publish(&request.reply_to, self.reporter.answer(&self.ledger).to_bytes()).await;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("roll call dropped: {error}"),
        }
    }

    /// A part of the run is over.
    async fn step(&mut self, step: Result<Step, JoinError>) {
        let step = match step {
            Ok(step) => step,
            // A bug. The run has its own process: the next listener takes it up, while this one knows nothing for sure.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match step {
            Step::Begun(begun) => self.begun(begun).await,
            Step::News(News::Phase(watch)) => {
                self.follow(watch);
                self.tell_progress().await;
            }
            Step::News(News::Over(over)) => self.conclude(over),
            Step::Concluded(response) => self.ended(*response),
            Step::Delivered(told) => {
                self.mail = Mail::Idle;
                told.iter().for_each(Untold::told);
                self.deliver();
            }
            Step::Lost(untold) => {
                self.mail = Mail::Idle;
                self.untold.splice(..0, untold);
                self.deliver();
            }
        }
    }

    /// The accepted run has been begun, or not.
    async fn begun(&mut self, begun: Result<Watch, NotBegun>) {
        match begun {
            Ok(watch) => {
                self.watch(watch);
                self.tell_progress().await;
            }
            Err(why) => {
                let Some((dir, spec)) = self.current() else { return };
                self.ended(rebuild::not_begun(&why, &dir, &spec, &self.config.hostname));
            }
        }
    }

    /// The run that goes on, and where it is kept.
    fn current(&self) -> Option<(RunDir, Spec)> {
        let spec = self.ledger.current()?.spec.clone();
        Some((self.memory.run_dir(&spec.key), spec))
    }

    /// The run goes on.
    fn watch(&mut self, watch: Watch) {
        self.ledger.started();
        self.stage = Stage::Running;
        self.heartbeat.reset();
        self.follow(watch);
    }

    fn follow(&mut self, watch: Watch) {
        self.steps.spawn(async { Step::News(watch.news().await) });
    }

    /// The run is over.
    fn conclude(&mut self, over: Over) {
        let Some((dir, spec)) = self.current() else { return };
        self.stage = Stage::Concluding;
        let site = self.site();
        self.steps.spawn_blocking(move || Step::Concluded(Box::new(rebuild::conclude(&over, &dir, &spec, site))));
    }

    /// The run that went on has come to this.
    fn ended(&mut self, response: Response) {
        let Some((dir, spec)) = self.current() else { return };
        self.stage = Stage::Idle;
        self.concluded(dir, spec, response);
        self.deliver();
    }

    /// A run has come to this, be it the one that went on or an earlier one.
    fn concluded(&mut self, dir: RunDir, spec: Spec, response: Response) {
        tracing::info!(
            key = spec.key, status = %response.status, error = response.error.as_ref().map(ToString::to_string),
            "{}", response.message
        );
        self.untold.push(Untold::new(dir.clone(), spec.reply_to.clone(), response.clone()));
        self.ledger.ended(spec, response);
        self.memory.ended(dir);
    }

    /// Hands the server the ends of runs that it does not have yet. Without a connection that waits for the next one.
    fn deliver(&mut self) {
        if self.untold.is_empty() || self.mail == Mail::OnItsWay || self.voice.link == Link::Down {
            return;
        }
        self.mail = Mail::OnItsWay;
        let untold = mem::take(&mut self.untold);
        let voice = self.voice.clone();
        self.steps.spawn(async move {
            match voice.deliver(&untold).await {
                Delivery::Certain => Step::Delivered(untold),
                Delivery::Unknown => Step::Lost(untold),
            }
        });
    }

    /// Tells how far the run is, to whoever asked for it.
    async fn tell_progress(&self) {
        if let (Some(current), Some(state)) = (self.ledger.current(), self.ledger.current_state(clock::now())) {
            self.voice.say(&current.spec.reply_to, &self.with_phase(state)).await;
        }
    }

    /// A state of the run with what it is at right now.
    fn with_phase(&self, state: Response) -> Response {
        match self.ledger.current() {
            Some(current) if state.status == Status::Started => {
                Response { phase: Some(self.memory.run_dir(&current.spec.key).phase()), ..state }
            }
            _ => state,
        }
    }

    /// Tells again what may have been lost with the connection: the state of the run, and how the last one ended.
    async fn repeat_state(&mut self) {
        self.tell_progress().await;
        if self.untold.is_empty()
            && let Some((spec, response)) = self.ledger.last()
            && response.at.is_some_and(|at| clock::now().duration_since(at) < REPEAT_FINAL_FOR)
        {
            self.voice.say(&spec.reply_to, response).await;
        }
        self.deliver();
    }

    /// Something happened to the connection.
    async fn bus(&mut self, event: BusEvent) {
        match event {
            BusEvent::Up => {
                tracing::info!("connected again");
                self.voice.link = Link::Up;
                self.repeat_state().await;
            }
            BusEvent::Down => {
                tracing::warn!("connection lost");
                self.voice.link = Link::Down;
            }
            // The server's configuration may be put right without this listener: it goes on with what it may do.
            BusEvent::Refused(violation) => {
                tracing::error!("{violation}: see the permissions of its user on the server");
            }
            BusEvent::SlowConsumer => tracing::error!("too many messages at once: some are lost"),
            BusEvent::Error(error) => tracing::warn!("{error}"),
        }
    }

    /// Ends: what is about to be said is said, and a run that goes on is left running.
    async fn finish(mut self) {
        while matches!(self.stage, Stage::Beginning | Stage::Concluding)
            && let Some(step) = self.steps.join_next().await
        {
            self.step(step).await;
        }
        if let Some(current) = self.ledger.current() {
            tracing::info!(key = current.spec.key, "the run goes on without this listener");
        }
        while self.mail == Mail::OnItsWay
            && let Ok(Some(step)) = timeout(DELIVER_WITHIN, self.steps.join_next()).await
        {
            self.step(step).await;
        }
        self.voice.flush().await;
        tracing::info!("stopped");
    }
}

fn heartbeat(every: Duration) -> Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
