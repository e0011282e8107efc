//! The loop that serves NATS: it handles one input after another, and none of them takes long.

mod admission;
mod connection;
pub(super) mod discovery;
pub(super) mod history;
pub(super) mod inbox;
pub(super) mod metrics;
mod publisher;
mod runs;
pub(super) mod state_dir;

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

use self::admission::{Decision, Refusal, addressed, decide};
use self::discovery::{Problems, RollCalls};
use self::history::{RequestHistory, Stage};
use self::inbox::{Allowance, Inbox, Letter};
use self::metrics::Metrics;
use self::publisher::{Publisher, Trial};
use self::runs::{LOG_READERS, Step};
use self::state_dir::{RecoveredState, StateDir};
use super::ListenerError;
use super::config::Config;
use super::nixos::{Host, System, instance};
use super::run::launch::Launcher;
use super::run::{BEFORE, COMMIT, RollbackTarget, RunDir, Spec, watch as run_watch};
use super::systemd::Systemd;
use crate::bus::{Events, Lockout, Renewal};
use crate::clock;
use crate::protocol::request::is_acknowledgement;
use crate::protocol::{Commit, ErrorCode, LogRequest, Phase, ReplySubject, Request, Response, Status, SystemPath};
use crate::text::safe;

/// The heartbeat interval of a run that waits for its confirmation.
const ASK_FOR_CONFIRMATION: Duration = Duration::from_secs(2);

/// The time that a stopping listener waits for the delivery of final responses; the next one delivers them otherwise.
const DELIVER_WITHIN: Duration = Duration::from_secs(2);

/// The rate limit of answers to requests that are not run. An operator that hears nothing asks again.
const ANSWERS: (u32, Duration) = (100, Duration::from_millis(50));

/// The rate limit of log lines that others can cause.
const LINES: (u32, Duration) = (50, Duration::from_secs(5));

/// The longest reason in a rejection, in bytes.
const REASON_BYTES: usize = 1_000;

/// The rejection of a system by a host without trusted keys.
const NO_KEY: &str = "this host takes no systems that were built elsewhere: for that, its configuration names a key that signs them \
    (services.homelab-deploy.listener.systems.trustedKeys, or --system-key of the listener)";

const SHOWN_BYTES: usize = 200;

pub(super) struct Service {
    config: Config,
    publisher: Publisher,
    requests: Inbox,
    questions: Inbox,
    /// Notified when the server itself answers a message.
    echo: Arc<Notify>,
    /// The time since which the server refuses the key.
    lockout: Lockout,
    /// The trial of the permissions, while it lasts.
    trial: Option<Trial>,
    roll_calls: RollCalls,
    /// The permits of log readers.
    log_readers: Arc<Semaphore>,
    problems: Problems,
    answers: Allowance,
    lines: Allowance,
    history: RequestHistory,
    state_dir: StateDir,
    launcher: Launcher,
    host: Host,
    boot_id: Option<String>,
    /// The ended runs whose final response the server does not have yet.
    undelivered: Vec<(RunDir, Spec, Response)>,
    /// Whether a batch of them is on its way. One at a time: the next one may contain the same.
    delivering: bool,
    /// The last system that was asked for its commit, and the answer.
    revision: Option<(System, Option<Commit>)>,
    systemd: Systemd,
    metrics: watch::Sender<Metrics>,
    steps: JoinSet<Step>,
    heartbeat: Interval,
}

impl Service {
    /// Creates the service from the state on disk: it watches runs that go on, and concludes those that are over.
    pub(super) fn new(
        config: Config,
        (client, renewal): (Client, Renewal),
        RecoveredState { state_dir, history, undelivered, unfinished }: RecoveredState,
        systemd: Systemd,
        metrics: watch::Sender<Metrics>,
    ) -> Self {
        let host = Host::new(config.run.root.clone());
        let boot_id = host.boot_id();
        let instance = match &config.runtime_dir {
            // systemd empties this folder at each boot.
            Some(folder) => instance(folder, Some("")),
            None => instance(&config.state_dir, boot_id.as_deref()),
        };
        let echo = Arc::new(Notify::new());
        let mut service = Self {
            history,
            heartbeat: heartbeat(&config, Phase::Resolve),
            publisher: Publisher::new(client, renewal, &config, instance),
            requests: Inbox::new(echo.clone()),
            questions: Inbox::new(echo.clone()),
            echo,
            lockout: Lockout::default(),
            trial: None,
            roll_calls: RollCalls::default(),
            log_readers: Arc::new(Semaphore::new(LOG_READERS)),
            problems: Problems::default(),
            answers: Allowance::new(ANSWERS.0, ANSWERS.1),
            lines: Allowance::new(LINES.0, LINES.1),
            launcher: Launcher::new(config.supervisor.clone(), &host),
            host,
            boot_id,
            undelivered,
            delivering: false,
            revision: None,
            systemd,
            metrics,
            steps: JoinSet::new(),
            config,
            state_dir,
        };
        for (dir, spec) in unfinished {
            service.resume(dir, spec);
        }
        service
    }

    pub(super) async fn serve(
        mut self,
        mut events: Events,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ListenerError> {
        let echo = self.echo.clone();
        self.subscribe_to_requests().await?;
        while let Some(trial) = &mut self.trial {
            tokio::select! {
                () = sleep_until(trial.over_at) => self.end_trial(),
                () = echo.notified() => trial.read(),
                Some(event) = events.recv() => self.handle_bus(event).await?,
            }
        }
        self.subscribe_to_questions().await?;
        self.problems.look_for_programs(&self.config.run.flake);
        self.ask_flake(Duration::ZERO);
        // Waiting operators may have missed what happened while no listener ran.
        self.report_progress().await;
        self.deliver();
        self.report_state();
        self.systemd.ready();
        let end = loop {
            let trial_over = self.trial.as_ref().map_or_else(Instant::now, |trial| trial.over_at);
            tokio::select! {
                Some(letter) = self.requests.letters.recv() => self.handle_request(&letter).await,
                Some(letter) = self.questions.letters.recv() => self.answer_roll_call(letter).await,
                Some(done) = self.steps.join_next() => self.handle_step(done).await,
                _ = self.heartbeat.tick(), if self.history.stage() == Some(Stage::Running) => self.report_progress().await,
                () = self.systemd.beat_due() => self.systemd.beat(),
                Some(event) = events.recv() => if let Err(error) = self.handle_bus(event).await {
                    break Err(error);
                },
                () = echo.notified() => if let Some(trial) = &mut self.trial {
                    trial.read();
                },
                () = sleep_until(trial_over), if self.trial.is_some() => self.end_trial(),
                () = &mut stop => break Ok(()),
            }
            self.report_state();
        };
        self.finish().await;
        end
    }

    /// Reports the state of the listener to systemd and Prometheus.
    fn report_state(&mut self) {
        let connected = self.publisher.connected;
        self.metrics.send_if_modified(|metrics| mem::replace(&mut metrics.connected, connected) != connected);
        let doing = match &self.history.current {
            Some(current) => format!("{} of {}", current.spec.action, current.spec.revision),
            None => "waiting for requests".to_owned(),
        };
        self.systemd.status(if connected { doing } else { format!("{doing}; not connected to NATS, trying again") });
    }

    async fn handle_request(&mut self, letter: &Letter) {
        let host = (self.config.tier, &self.config.run.host);
        let request = Request::parse(&letter.payload);
        if let Ok(Request { expires_at: Some(at), .. }) = &request {
            self.problems.compare_clocks(*at, clock::now());
        }
        let request = addressed(request, host, self.publisher.rights, &self.history);
        let elsewhere = || self.state_dir.damaged_holder().or_else(|| self.host.activation());
        match decide(request, clock::now(), &self.history, elsewhere) {
            Decision::Accept(request) => self.accept(request).await,
            Decision::Answer { reply_to, state } => {
                if self.answers.take().is_some() {
                    if self.lines.take().is_some() {
                        tracing::info!("asked again on {}: {}", shown(reply_to.as_str()), state.status);
                    }
                    let state = self.with_phase(state);
                    self.publisher.respond(&reply_to, &state).await;
                }
            }
            Decision::Confirm { key, reply_to, state } => self.confirm(&key, &reply_to, state).await,
            Decision::Reject(refusal) => self.reject(refusal).await,
            Decision::Drop(_) if is_acknowledgement(&letter.payload) => {}
            Decision::Drop(why) => match LogRequest::parse(&letter.payload) {
                Some(question) => self.give_log(&letter.subject, question),
                None => self.complain(|| format!("a message on {} is dropped: {}", letter.subject, shown(&why))),
            },
        }
    }

    /// Logs a warning that others can cause as often as they like.
    fn complain(&mut self, line: impl FnOnce() -> String) {
        match self.lines.take() {
            Some(0) => tracing::warn!("{}", line()),
            Some(more) => tracing::warn!("{} ({more} more lines like this were left out)", line()),
            None => {}
        }
    }

    async fn accept(&mut self, request: Request) {
        let who = |text: &Option<String>| text.as_deref().map(shown);
        tracing::info!(
            key = shown(request.key()), action = %request.action, revision = %shown(request.revision.as_str()),
            system = request.system.as_ref().map(SystemPath::as_str),
            operator = who(&request.operator), rollout = who(&request.rollout), wave = who(&request.wave), "accepted"
        );
        let (reply_to, id) = (request.reply_to.clone(), request.id.clone());
        let spec = match self.spec(request) {
            Ok(spec) => Spec { number: self.state_dir.next_number(), ..spec },
            Err((error, message)) => {
                return self.reject(Refusal { reply_to, id, error, message, holder: None }).await;
            }
        };
        self.history.accepted(spec.clone());
        // Before anything slow, so that the operator knows at once that the host has the request.
        self.report_progress().await;
        let (launcher, dir) = (self.launcher.clone(), self.state_dir.run_dir(&spec.key));
        self.steps.spawn_blocking(move || Step::Run(run_watch::begin(&launcher, &dir, &spec)));
    }

    /// Returns the run that a request asks for, or why it is refused.
    fn spec(&self, request: Request) -> Result<Spec, (ErrorCode, String)> {
        let returns = request.returns.clone();
        let spec = Spec { boot_id: self.boot_id.clone(), ..Spec::new(request, &self.config.run, clock::now()) };
        let Some(run) = returns else {
            let is_from_anybody = spec.system.is_some() && spec.settings.system_keys.is_empty();
            return if is_from_anybody { Err((ErrorCode::Untrusted, NO_KEY.to_owned())) } else { Ok(spec) };
        };
        let cannot = |why: String| (ErrorCode::InvalidRequest, format!("cannot return: {why}"));
        let (action, end) = self.history.returnable(run.as_str()).map_err(cannot)?;
        let facts = self.state_dir.run_dir(run.as_str()).get(BEFORE);
        let facts = facts.ok_or_else(|| cannot(format!("what ran before {run} is not on record")))?;
        let revision = facts.revision.clone().or_else(|| end.previous_revision.clone());
        let return_to =
            Some(Box::new(RollbackTarget { run: run.to_string(), facts, revision, made: end.system.clone() }));
        Ok(Spec { action, return_to, ..spec })
    }

    /// Records the operator's confirmation that it heard from the host after the activation.
    async fn confirm(&mut self, key: &str, reply_to: &ReplySubject, state: Response) {
        let dir = self.state_dir.run_dir(key);
        if dir.phase() == Phase::Confirm && !dir.is_confirmed() {
            tracing::info!(key = shown(key), "confirmed");
            if let Err(error) = dir.write_confirmed() {
                tracing::error!(key, "cannot note that it is confirmed: {error}");
            }
        }
        let state = self.with_phase(state);
        self.publisher.respond(reply_to, &state).await;
    }

    async fn reject(&mut self, refusal: Refusal) {
        if self.answers.take().is_none() {
            return;
        }
        let (refused, error, why) = (shown(refusal.key()), &refusal.error, shown(&refusal.message));
        self.complain(|| format!("{refused} is rejected: {error}: {why}"));
        let key = refusal.key().to_owned();
        let mut message = refusal.message;
        // The message may repeat parts of the request.
        message.truncate(message.floor_char_boundary(REASON_BYTES));
        let response = Response {
            error: Some(refusal.error),
            id: refusal.id,
            at: Some(clock::now()),
            holder: refusal.holder.map(Box::new),
            ..Response::new(self.config.run.host.clone(), Status::Rejected, message)
        };
        self.publisher.respond(&refusal.reply_to, &response).await;
        self.history.rejected(key, response);
    }

    /// Reports the progress of the current run to its operator.
    async fn report_progress(&self) {
        if let (Some(current), Some(state)) = (&self.history.current, self.history.current_state(clock::now())) {
            self.publisher.respond(&current.spec.reply_to, &self.with_phase(state)).await;
        }
    }

    /// Adds the phase of the current run, and its commit once it is known.
    fn with_phase(&self, state: Response) -> Response {
        match &self.history.current {
            Some(current) if state.status == Status::Started => {
                let dir = self.state_dir.run_dir(&current.spec.key);
                let phase = match dir.phase() {
                    // The operator answers this phase with a confirmation; one is enough.
                    Phase::Confirm if dir.is_confirmed() => Phase::Verify,
                    phase => phase,
                };
                Response { phase: Some(phase), revision: dir.get(COMMIT).or(state.revision), ..state }
            }
            _ => state,
        }
    }

    /// Stops: flushes what is about to be published, and leaves a run to its supervisor.
    async fn finish(mut self) {
        self.systemd.stopping();
        while matches!(self.history.stage(), Some(Stage::Beginning | Stage::Concluding))
            && let Some(step) = self.steps.join_next().await
        {
            self.handle_step(step).await;
        }
        if let Some(current) = &self.history.current {
            tracing::info!(key = current.spec.key, "the run goes on without this listener");
        }
        while self.delivering
            && let Ok(Some(step)) = timeout(DELIVER_WITHIN, self.steps.join_next()).await
        {
            self.handle_step(step).await;
        }
        self.state_dir.copy_all();
        self.publisher.flush().await;
        tracing::info!("stopped");
    }
}

/// Cleans and shortens a text of others for the log.
fn shown(text: &str) -> String {
    let mut shown = safe(text);
    shown.truncate(shown.floor_char_boundary(SHOWN_BYTES));
    shown
}

/// Returns the heartbeat for this phase: an unconfirmed run has little time.
fn heartbeat(config: &Config, phase: Phase) -> Interval {
    let most = if phase == Phase::Confirm { ASK_FOR_CONFIRMATION } else { Duration::MAX };
    let every = config.heartbeat.min(most);
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
