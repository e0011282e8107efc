//! The loop that serves NATS: it handles one input after another, and none of them takes long.

mod admission;
mod connection;
pub(super) mod discovery;
pub(super) mod history;
pub(super) mod inbox;
pub(super) mod metrics;
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

use self::admission::{Decision, addressed, decide};
use self::connection::{PermissionProbe, Publisher};
use self::discovery::{Problems, RollCalls};
use self::history::RequestHistory;
use self::inbox::{Inbox, QueuedMessage, RateLimit};
use self::metrics::Metrics;
use self::runs::{LOG_READERS, TaskDone};
use self::state_dir::{RecoveredState, StateDir};
use super::ListenerError;
use super::config::Config;
use super::nixos::{Host, System, instance};
use super::run::{BEFORE, COMMIT, CONFIRMED, RollbackTarget, RunDir, RunSpec, watch as run_watch};
use super::systemd::Systemd;
use crate::bus::{Events, Lockout, Renewal};
use crate::clock;
use crate::protocol::request::is_acknowledgement;
use crate::protocol::{
    BusyWith, Commit, ErrorCode, LogRequest, Phase, ReplySubject, Request, RequestId, Response, Status, SystemPath,
};
use crate::text::safe;

/// The heartbeat interval of a run that waits for its confirmation.
const ASK_FOR_CONFIRMATION: Duration = Duration::from_secs(2);

/// The time that a stopping listener waits for the delivery of final responses; the next one delivers them otherwise.
const DELIVER_WITHIN: Duration = Duration::from_secs(2);

/// The rate limit of answers to requests that are not run. An operator that hears nothing asks again.
const ANSWERS: (u32, Duration) = (100, Duration::from_millis(50));

/// The rate limit of log lines that others can cause.
const LINES: (u32, Duration) = (50, Duration::from_secs(5));

/// The rejection of a system by a host without trusted keys.
const NO_KEY: &str = "this host accepts no systems that were built elsewhere: its configuration trusts no key that \
                      signs them \
    (services.homelab-deploy.listener.systems.trustedKeys, or --system-key of the listener)";

const SHOWN_BYTES: usize = 200;

pub(super) struct Service {
    config: Arc<Config>,
    publisher: Publisher,
    requests: Inbox,
    questions: Inbox,
    /// Notified when the server itself answers a message.
    server_replied: Arc<Notify>,
    /// The time since which the server refuses the key.
    lockout: Lockout,
    /// The probe of the permissions, while it lasts.
    probe: Option<PermissionProbe>,
    roll_calls: RollCalls,
    log_readers: Arc<Semaphore>,
    problems: Problems,
    answers: RateLimit,
    lines: RateLimit,
    history: RequestHistory,
    state_dir: StateDir,
    host: Host,
    boot_id: Option<String>,
    /// The ended runs whose final response the server does not have yet.
    undelivered: Vec<(RunDir, RunSpec, Response)>,
    /// Whether a batch of them is on its way. One at a time: the next one may contain the same.
    delivering: bool,
    /// The last system that was asked for its commit, and the answer.
    known_revision: Option<(System, Option<Commit>)>,
    systemd: Systemd,
    metrics: watch::Sender<Metrics>,
    tasks: JoinSet<TaskDone>,
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
        let config = Arc::new(config);
        let host = Host::new(config.run.root.clone());
        let boot_id = host.boot_id();
        let instance = match &config.runtime_dir {
            // systemd empties this folder at each boot.
            Some(folder) => instance(folder, ""),
            None => instance(&config.state_dir, boot_id.as_deref().unwrap_or_default()),
        };
        let server_replied = Arc::new(Notify::new());
        let mut service = Self {
            history,
            heartbeat: heartbeat(&config, Phase::Resolve),
            publisher: Publisher::new(client, renewal, config.clone(), instance),
            requests: Inbox::new(server_replied.clone()),
            questions: Inbox::new(server_replied.clone()),
            server_replied,
            lockout: Lockout::default(),
            probe: None,
            roll_calls: RollCalls::default(),
            log_readers: Arc::new(Semaphore::new(LOG_READERS)),
            problems: Problems::default(),
            answers: RateLimit::new(ANSWERS),
            lines: RateLimit::new(LINES),
            host,
            boot_id,
            undelivered,
            delivering: false,
            known_revision: None,
            systemd,
            metrics,
            tasks: JoinSet::new(),
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
        let server_replied = self.server_replied.clone();
        self.subscribe_to_requests().await?;
        while let Some(probe) = &mut self.probe {
            tokio::select! {
                () = sleep_until(probe.over_at) => self.end_probe(),
                () = server_replied.notified() => probe.read(),
                Some(event) = events.recv() => self.on_bus_event(event).await?,
            }
        }
        self.subscribe_to_questions().await?;
        self.problems.look_for_programs(&self.config.run.flake);
        self.ask_flake(Duration::ZERO);
        // Waiting operators may have missed what happened while no listener ran.
        self.report_progress().await;
        self.deliver();
        self.update_status();
        self.systemd.ready();
        let end = loop {
            let probe_over = self.probe.as_ref().map_or_else(Instant::now, |probe| probe.over_at);
            tokio::select! {
                Some(message) = self.requests.messages.recv() => self.on_request(&message).await,
                Some(message) = self.questions.messages.recv() => self.on_roll_call(message).await,
                Some(done) = self.tasks.join_next() => self.on_task_done(done).await,
                _ = self.heartbeat.tick(), if self.history.current_is(Status::Started) => self.report_progress().await,
                () = self.systemd.beat_due() => self.systemd.beat(),
                Some(event) = events.recv() => if let Err(error) = self.on_bus_event(event).await {
                    break Err(error);
                },
                () = server_replied.notified() => if let Some(probe) = &mut self.probe {
                    probe.read();
                },
                () = sleep_until(probe_over), if self.probe.is_some() => self.end_probe(),
                () = &mut stop => break Ok(()),
            }
            self.update_status();
        };
        self.finish().await;
        end
    }

    /// Reports the state of the listener to systemd and Prometheus.
    fn update_status(&mut self) {
        let connected = self.publisher.connected;
        self.metrics.send_if_modified(|metrics| mem::replace(&mut metrics.connected, connected) != connected);
        let doing = match &self.history.current {
            Some(current) => format!("{} of {}", current.spec.action, current.spec.revision),
            None => "waiting for requests".to_owned(),
        };
        self.systemd.status(if connected { doing } else { format!("{doing}; not connected to NATS, trying again") });
    }

    async fn on_request(&mut self, message: &QueuedMessage) {
        let host = (self.config.tier, &self.config.run.host);
        let request = Request::parse(&message.payload);
        if let Ok(Request { expires_at: Some(at), .. }) = &request {
            self.problems.compare_clocks(*at, clock::now());
        }
        let request = addressed(request, host, self.publisher.permissions, &self.history);
        match decide(request, clock::now(), &self.history, || self.busy_elsewhere()) {
            Decision::Accept(request) => self.accept(request).await,
            Decision::Answer { .. } if !self.answers.take() => {}
            Decision::Answer { reply_to, state } => {
                if self.lines.take() {
                    tracing::info!("asked again on {}: {}", for_log(reply_to.as_str()), state.status);
                }
                self.publisher.respond(&reply_to, &self.with_phase(state)).await;
            }
            Decision::Confirm { reply_to, state } => self.confirm(&reply_to, state).await,
            Decision::Reject { reply_to, state } => self.reject(&reply_to, state).await,
            Decision::Drop(_) if is_acknowledgement(&message.payload) => {}
            Decision::Drop(why) => match LogRequest::parse(&message.payload) {
                Some(question) => self.give_log(&message.subject, question),
                None => self.warn_limited(|| format!("dropped a message on {}: {}", message.subject, for_log(&why))),
            },
        }
    }

    /// Returns what keeps the host busy other than a run that the history knows.
    fn busy_elsewhere(&self) -> Option<BusyWith> {
        self.state_dir.damaged_holder(&self.history).or_else(|| self.host.activation())
    }

    /// Logs a warning that others can cause as often as they like.
    fn warn_limited(&mut self, line: impl FnOnce() -> String) {
        if self.lines.take() {
            tracing::warn!("{}", line());
        }
    }

    async fn accept(&mut self, request: Request) {
        let who = |text: &Option<String>| text.as_deref().map(for_log);
        tracing::info!(
            key = for_log(request.key()), action = %request.action, revision = %for_log(request.revision.as_str()),
            system = request.system.as_ref().map(SystemPath::as_str),
            operator = who(&request.operator), rollout = who(&request.rollout), wave = who(&request.wave), "accepted"
        );
        let (reply_to, id) = (request.reply_to.clone(), request.id.clone());
        let spec = match self.run_spec(request) {
            Ok(spec) => RunSpec { number: self.state_dir.next_number(), ..spec },
            Err((error, why)) => {
                return self.reject(&reply_to, self.history.rejection(id, error, &why, clock::now())).await;
            }
        };
        self.history.accepted(spec.clone());
        // Before anything slow, so that the operator knows at once that the host has the request.
        self.report_progress().await;
        let (config, dir) = (self.config.clone(), self.state_dir.run_dir(&spec.key));
        self.tasks.spawn_blocking(move || TaskDone::Run(run_watch::begin(&config.supervisor, &dir, &spec)));
    }

    /// Returns the run that a request asks for, or why it is refused.
    fn run_spec(&self, request: Request) -> Result<RunSpec, (ErrorCode, String)> {
        let returns = request.returns.clone();
        let spec = RunSpec { boot_id: self.boot_id.clone(), ..RunSpec::new(request, &self.config.run, clock::now()) };
        let Some(run) = returns else {
            let is_from_anybody = spec.system.is_some() && spec.settings.system_keys.is_empty();
            return if is_from_anybody { Err((ErrorCode::Untrusted, NO_KEY.to_owned())) } else { Ok(spec) };
        };
        let invalid = |why: String| (ErrorCode::InvalidRequest, why);
        let (action, end) = self.history.returnable(run.as_str()).map_err(invalid)?;
        let snapshot = self.state_dir.run_dir(run.as_str()).get(BEFORE);
        let snapshot = snapshot
            .ok_or_else(|| invalid(format!("cannot roll back: there is no record of what ran before {run}")))?;
        let revision = snapshot.revision.clone().or_else(|| end.previous_revision.clone());
        let rollback_to = Some(Box::new(RollbackTarget {
            run: run.to_string(),
            snapshot,
            revision,
            built_system: end.system.clone(),
        }));
        Ok(RunSpec { action, rollback_to, ..spec })
    }

    /// Records the operator's confirmation that it heard from the host after the activation.
    async fn confirm(&mut self, reply_to: &ReplySubject, state: Response) {
        if let Some((dir, spec)) = self.current()
            && dir.phase() == Phase::Confirm
            && !dir.has(CONFIRMED)
        {
            tracing::info!(key = spec.key, "confirmed");
            if let Err(error) = dir.write_volatile(CONFIRMED, &()) {
                tracing::error!(key = spec.key, "cannot record the confirmation: {error}");
            }
        }
        self.publisher.respond(reply_to, &self.with_phase(state)).await;
    }

    async fn reject(&mut self, reply_to: &ReplySubject, rejection: Response) {
        if !self.answers.take() {
            return;
        }
        let key = rejection.id.as_ref().map_or(reply_to.as_str(), RequestId::as_str).to_owned();
        let error = rejection.error.as_ref().map_or("", ErrorCode::as_str);
        self.warn_limited(|| format!("{} is rejected: {error}: {}", for_log(&key), for_log(&rejection.message)));
        self.publisher.respond(reply_to, &rejection).await;
        self.history.rejected(key, rejection);
    }

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
                    Phase::Confirm if dir.has(CONFIRMED) => Phase::Verify,
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
        while self.history.current_is(Status::Accepted)
            && let Some(step) = self.tasks.join_next().await
        {
            self.on_task_done(step).await;
        }
        if let Some(current) = &self.history.current {
            tracing::info!(key = current.spec.key, "the run continues without this listener");
        }
        while self.delivering
            && let Ok(Some(step)) = timeout(DELIVER_WITHIN, self.tasks.join_next()).await
        {
            self.on_task_done(step).await;
        }
        self.state_dir.copy_all(&self.history);
        self.publisher.flush().await;
        tracing::info!("stopped");
    }
}

/// Cleans and shortens a text of others for the log.
fn for_log(text: &str) -> String {
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
