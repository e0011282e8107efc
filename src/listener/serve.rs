//! The loop that serves NATS: one input after another, and nothing in between that takes long.

mod course;

use std::pin::Pin;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};

use self::course::{Mail, Stage, Step};
use super::admission::{Decision, Refusal, decide};
use super::busy;
use super::host::Host;
use super::launch::Launcher;
use super::ledger::Ledger;
use super::memory::{Memory, Recalled, Untold};
use super::rebuild;
use super::report::Reporter;
use super::run::{ReturnTo, Spec};
use super::signs::Signs;
use super::voice::{Link, Voice};
use super::{Config, ListenerError};
use crate::bus::BusEvent;
use crate::clock;
use crate::protocol::message::MAX_REQUEST_BYTES;
use crate::protocol::{DiscoveryRequest, ErrorCode, Phase, ReplySubject, Request, Response, Status, Subject};

/// How old a final may be to be told again after the connection was lost.
const REPEAT_FINAL_FOR: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// How often a run is told of that waits to be confirmed.
const ASK_FOR_CONFIRMATION: Duration = Duration::from_secs(2);

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
    signs: Signs,
    stage: Stage,
    steps: JoinSet<Step>,
    heartbeat: Interval,
}

/// What was found on disk.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) memory: Memory,
    pub(super) ledger: Ledger,
    pub(super) recalled: Recalled,
}

/// What the loop waits for.
enum Input {
    Deploy(Message),
    Discover(Message),
    Step(Result<Step, JoinError>),
    Heartbeat,
    Pulse,
    Bus(BusEvent),
    Stop,
}

impl Service {
    /// A service that knows what was found on disk; runs that go on are watched, those that are over concluded.
    pub(super) fn new(config: Config, client: Client, past: Past, signs: Signs) -> Self {
        let Past { memory, ledger, recalled } = past;
        let mut service = Self {
            ledger,
            reporter: Reporter::new(&config),
            heartbeat: heartbeat(config.heartbeat),
            voice: Voice::new(client, config.discover_subject.clone()),
            launcher: Launcher::new(config.supervisor.clone(), &config.root),
            boot_id: Host::new(config.root.clone()).boot_id(),
            untold: recalled.untold,
            mail: Mail::Idle,
            signs,
            stage: Stage::Idle,
            steps: JoinSet::new(),
            config,
            memory,
        };
        for (dir, spec) in recalled.unfinished {
            service.take_up(dir, spec);
        }
        service
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
        self.signs.show(&self.ledger, self.voice.link);
        self.signs.pulse.up();
        loop {
            let input = tokio::select! {
                Some(message) = deploys.next() => Input::Deploy(message),
                Some(message) = discovery.next() => Input::Discover(message),
                Some(over) = self.steps.join_next() => Input::Step(over),
                _ = self.heartbeat.tick(), if self.stage == Stage::Running => Input::Heartbeat,
                () = self.signs.pulse.due() => Input::Pulse,
                Some(event) = events.recv() => Input::Bus(event),
                () = &mut stop => Input::Stop,
            };
            match input {
                Input::Deploy(message) => self.deploy(&message).await,
                Input::Discover(message) => self.discover(&message).await,
                Input::Step(over) => self.step(over).await,
                Input::Heartbeat => self.tell_progress().await,
                Input::Pulse => self.signs.pulse.beat(),
                Input::Bus(event) => self.bus(event).await,
                Input::Stop => break,
            }
            self.signs.show(&self.ledger, self.voice.link);
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
        let elsewhere = || self.memory.damaged_holder().or_else(|| busy::activation(&self.config.root));
        match decide(Request::parse(&message.payload), clock::now(), &self.ledger, elsewhere) {
            Decision::Accept(request) => self.accept(request).await,
            Decision::Answer { reply_to, state } => {
                tracing::info!(%reply_to, status = %state.status, "asked again");
                let state = self.with_phase(state);
                self.voice.say(&reply_to, &state).await;
            }
            Decision::Confirm { key, reply_to, state } => self.confirm(&key, &reply_to, state).await,
            Decision::Reject(refusal) => self.reject(refusal).await,
            Decision::Drop(why) => tracing::warn!(subject = %message.subject, "message dropped: {why}"),
        }
    }

    async fn accept(&mut self, request: Request) {
        tracing::info!(
            key = request.key(), action = %request.action, revision = %request.revision,
            operator = request.operator, rollout = request.rollout, wave = request.wave, "accepted"
        );
        let (reply_to, id) = (request.reply_to.clone(), request.id.clone());
        let spec = match self.spec(request) {
            Ok(spec) => Spec { number: self.memory.next_number(), ..spec },
            Err(why) => {
                let message = format!("cannot return: {why}");
                return self
                    .reject(Refusal { reply_to, id, error: ErrorCode::InvalidRequest, message, holder: None })
                    .await;
            }
        };
        self.ledger.accepted(spec.clone());
        // Before anything that takes time: whoever waits shall know at once that it is heard.
        self.tell_progress().await;
        self.stage = Stage::Beginning;
        let (launcher, dir) = (self.launcher.clone(), self.memory.run_dir(&spec.key));
        self.steps.spawn_blocking(move || Step::Begun(rebuild::begin(&launcher, &dir, &spec)));
    }

    /// What a request comes down to here. An error is why there is nothing to return to.
    fn spec(&self, request: Request) -> Result<Spec, String> {
        let returns = request.returns.clone();
        let spec = Spec { boot_id: self.boot_id.clone(), ..Spec::new(request, &self.config, clock::now()) };
        let Some(run) = returns else { return Ok(spec) };
        let (action, end) = self.ledger.returnable(run.as_str())?;
        let facts = self.memory.run_dir(run.as_str()).before();
        let facts = facts.ok_or_else(|| format!("what ran before {run} is not on record"))?;
        let revision = facts.revision.clone().or_else(|| end.previous_revision.clone());
        let return_to = Some(Box::new(ReturnTo { run: run.to_string(), facts, revision, made: end.system.clone() }));
        Ok(Spec { action, return_to, ..spec })
    }

    /// Someone heard from the host after its activation, and says so.
    async fn confirm(&mut self, key: &str, reply_to: &ReplySubject, state: Response) {
        let dir = self.memory.run_dir(key);
        if dir.phase() == Phase::Confirm {
            tracing::info!(key, "confirmed");
            if let Err(error) = dir.write_confirmed() {
                tracing::error!(key, "cannot note that it is confirmed: {error}");
            }
        }
        let state = self.with_phase(state);
        self.voice.say(reply_to, &state).await;
    }

    async fn reject(&mut self, refusal: Refusal) {
        tracing::warn!(key = refusal.key(), error = %refusal.error, "rejected: {}", refusal.message);
        let key = refusal.key().to_owned();
        let response = Response {
            error: Some(refusal.error),
            id: refusal.id,
            at: Some(clock::now()),
            holder: refusal.holder.map(Box::new),
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
        match DiscoveryRequest::parse(&message.payload) {
            Ok(request) if request.tier.is_none_or(|tier| tier == self.config.tier) => {
                let answer = self.reporter.answer(&self.ledger).await;
                self.voice.publish(&request.reply_to, answer.to_bytes()).await;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("roll call dropped: {error}"),
        }
    }

    /// Tells how far the run is, to whoever asked for it.
    async fn tell_progress(&self) {
        if let (Some(current), Some(state)) = (self.ledger.current(), self.ledger.current_state(clock::now())) {
            self.voice.say(&current.spec.reply_to, &self.with_phase(state)).await;
        }
    }

    /// A state of the run with what it is at right now, and the commit as soon as it is known.
    fn with_phase(&self, state: Response) -> Response {
        match self.ledger.current() {
            Some(current) if state.status == Status::Started => {
                let dir = self.memory.run_dir(&current.spec.key);
                let phase = match dir.phase() {
                    // Whoever is told of this phase confirms, and is answered: once is enough.
                    Phase::Confirm if dir.is_confirmed() => Phase::Verify,
                    phase => phase,
                };
                Response { phase: Some(phase), revision: dir.commit().or(state.revision), ..state }
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
        self.signs.pulse.stopping();
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
        self.memory.settle();
        self.voice.flush().await;
        tracing::info!("stopped");
    }
}

/// How often a run is told of that is at this: one that waits to be confirmed has little time.
fn pace(config: &Config, phase: Phase) -> Duration {
    if phase == Phase::Confirm { config.heartbeat.min(ASK_FOR_CONFIRMATION) } else { config.heartbeat }
}

fn heartbeat(every: Duration) -> Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
