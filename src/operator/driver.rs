//! The one loop that drives a rollout's machine: it carries out the machine's effects and feeds it the next input.

mod recorder;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout_at};

use self::recorder::Recorder;
pub use self::recorder::Reporter;
use super::fleet::{Fleet, FleetEvent, LogView, Outbound};
use super::journal::Journal;
use super::programs::{HookRunner, Summarize, run_check};
use crate::bus::Violation;
use crate::clock;
use crate::protocol::RolloutReport;
use crate::rollout::{Confirmation, Effect, Event, EventKind, Input, Interrupt, Machine, Summary, WaveIndex};

const TICK: Duration = Duration::from_secs(1);

/// How many inputs the machine handles before their effects are carried out together. Their events share one sync.
const BATCH: usize = 64;

/// How long the end of a rollout waits for the rest of the logs that are shown.
const READ_LOGS_WITHIN: Duration = Duration::from_secs(2);

/// How long the server may take to prove that the connection works in both directions, before a silent host is given
/// up. A connection that hangs is noticed within this time.
const PROOF_WITHIN: Duration = Duration::from_secs(10);

/// Whether the server has proved that the connection works, since the machine wanted to give up silent hosts.
#[derive(Debug, Clone, Copy)]
enum Proof {
    Unasked,
    /// The proof was requested and is awaited until this time.
    Asked(Instant),
    Given,
}

/// Drives one rollout's machine: owns its channels, its journal, its displays and its hooks.
pub struct Driver<'a> {
    fleet: Fleet,
    recorder: Recorder<'a>,
    interrupts: mpsc::Receiver<Interrupt>,
    confirm: Confirm<'a>,
    hooks: HookRunner,
    logs: Option<LogView>,
    tasks: JoinSet<Input>,
    began: Instant,
    /// The error after which the rollout records nothing more.
    journal_error: Option<io::Error>,
}

pub type Confirm<'a> = Box<dyn FnMut(&Summary, WaveIndex) -> Pin<Box<dyn Future<Output = Confirmation> + Send>> + 'a>;

#[derive(Debug, Error, Diagnostic)]
pub enum DriveError {
    #[error("{0}")]
    #[diagnostic(help(
        "use the key of an operator of this tier: its permissions in the server's configuration say where it may \
         publish. Deployments that were requested before continue; `homelab-deploy hosts` shows their state"
    ))]
    Refused(Violation),
    /// The journal could not be written, so no further request was sent.
    #[error("the journal cannot be written any more: {0}")]
    #[diagnostic(help(
        "no further host was sent a request, and those in flight were awaited; make room on the disk, then resume it"
    ))]
    Journal(#[source] io::Error),
    #[error("the connection to NATS ended unexpectedly")]
    Gone,
}

impl<'a> Driver<'a> {
    /// The journal makes the rollout resumable: a request is sent only after it was recorded. A display that fails is
    /// dropped; the rollout continues.
    pub fn new(
        fleet: Fleet,
        journal: Option<Journal>,
        reporters: Vec<Box<dyn Reporter + 'a>>,
        interrupts: mpsc::Receiver<Interrupt>,
        confirm: Confirm<'a>,
        summarize: Summarize,
    ) -> Self {
        let (recorder, hooks, tasks) = (Recorder::new(journal, reporters), HookRunner::new(summarize), JoinSet::new());
        Self {
            fleet,
            recorder,
            interrupts,
            confirm,
            hooks,
            logs: None,
            tasks,
            began: Instant::now(),
            journal_error: None,
        }
    }

    #[must_use]
    pub fn watching(self, logs: Option<LogView>) -> Self {
        Self { logs, ..self }
    }

    pub async fn run(mut self, machine: &mut Machine) -> Result<(), DriveError> {
        self.began = Instant::now();
        let ended = self.run_to_end(machine).await;
        self.read_logs_to_their_ends().await;
        self.hooks.finish(machine.state());
        self.await_hooks(machine).await;
        // Events from before an error may be unwritten. An error of this sync is no worse than that one.
        self.recorder.sync().ok();
        ended
    }

    /// Shows the last lines of the logs, if the operator watches all of them.
    async fn read_logs_to_their_ends(&mut self) {
        if self.logs != Some(LogView::Whole) || self.fleet.outbound.try_send(Outbound::FinishLogs).is_err() {
            return;
        }
        let until = Instant::now() + READ_LOGS_WITHIN;
        while let Ok(Some(event)) = timeout_at(until, self.fleet.events.recv()).await {
            match event {
                FleetEvent::Log { host, lines } => self.recorder.log(&host, &lines),
                FleetEvent::LogsRead => return,
                FleetEvent::Input(_) | FleetEvent::Refused(_) | FleetEvent::Proved => {}
            }
        }
    }

    async fn await_hooks(&mut self, machine: &Machine) {
        while self.hooks.is_busy() {
            tokio::select! {
                failure = self.hooks.next_failure() => {
                    failure.map(|failure| self.warn(machine, failure).ok());
                }
                Some(_) = self.interrupts.recv() => return,
            }
        }
    }

    fn warn(&mut self, machine: &Machine, kind: EventKind) -> io::Result<()> {
        self.recorder.record(&Event { at: clock::now(), kind }, machine.state())
    }

    async fn run_to_end(&mut self, machine: &mut Machine) -> Result<(), DriveError> {
        let began = self.began;
        let mut ticks = interval_at(began + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = Vec::with_capacity(BATCH);
        // Proves that the hosts are silent and not the connection.
        let mut proof = Proof::Unasked;
        loop {
            if let Err(error) = self.carry_out(machine) {
                self.lose_journal(machine, error);
                continue;
            }
            if machine.outcome().is_some() {
                return self.journal_error.take().map_or(Ok(()), |error| Err(DriveError::Journal(error)));
            }
            let deadline = machine.deadline().map(|deadline| began + deadline);
            let wake_at = deadline.map(|deadline| match proof {
                Proof::Unasked => deadline,
                Proof::Asked(until) => until,
                Proof::Given => Instant::now(),
            });
            tokio::select! {
                biased;
                Some(how) = self.interrupts.recv() => self.feed(machine, Input::Interrupt(how)),
                count = self.fleet.events.recv_many(&mut events, BATCH) => {
                    if count == 0 {
                        return Err(DriveError::Gone);
                    }
                    let now = self.now(machine);
                    for event in events.drain(..) {
                        match event {
                            FleetEvent::Input(input) => machine.handle(now, input),
                            FleetEvent::Proved if matches!(proof, Proof::Asked(_)) => proof = Proof::Given,
                            FleetEvent::Refused(violation) => return Err(DriveError::Refused(violation)),
                            FleetEvent::Log { host, lines } => self.recorder.log(&host, &lines),
                            FleetEvent::Proved | FleetEvent::LogsRead => {}
                        }
                    }
                }
                Some(done) = self.tasks.join_next() => {
                    let input = done.unwrap_or_else(|error| Input::CheckDone(Err(format!("it panicked: {error}"))));
                    self.feed(machine, input);
                }
                Some(failure) = self.hooks.next_failure(), if self.hooks.is_busy() => {
                    if let Err(error) = self.warn(machine, failure) {
                        self.lose_journal(machine, error);
                    }
                }
                () = sleep_until(wake_at.unwrap_or(began)), if wake_at.is_some() => {
                    let now = self.now(machine);
                    if matches!(proof, Proof::Unasked) && machine.gives_up(now) {
                        proof = Proof::Asked(Instant::now() + PROOF_WITHIN);
                        self.fleet.outbound.try_send(Outbound::Prove).ok();
                    } else {
                        proof = Proof::Unasked;
                        machine.handle_deadline(now);
                    }
                }
                () = sleep_until(self.recorder.due.unwrap_or(began)), if self.recorder.due.is_some() => {}
                _ = ticks.tick() => {
                    if let Err(error) = self.recorder.tick(clock::now(), machine.state()) {
                        self.lose_journal(machine, error);
                    }
                }
                // Sends the prepared requests before the machine prepares more of them, to keep few in memory.
                () = all_received(&self.fleet.outbound), if machine.has_more() => {
                    let now = self.now(machine);
                    machine.advance(now);
                }
            }
        }
    }

    /// Sets the machine's clock. Returns the time since the rollout began, without the computer's sleep.
    fn now(&self, machine: &mut Machine) -> Duration {
        let now = self.began.elapsed();
        machine.set_clock(now, clock::now());
        now
    }

    fn feed(&self, machine: &mut Machine, input: Input) {
        let now = self.now(machine);
        machine.handle(now, input);
    }

    /// Drains the rollout: without a journal nothing further is sent, but the hosts in flight are still awaited.
    fn lose_journal(&mut self, machine: &mut Machine, error: io::Error) {
        self.recorder.journal = None;
        self.journal_error.get_or_insert(error);
        self.feed(machine, Input::Interrupt(Interrupt::Drain));
    }

    /// Carries out all effects of the machine. Events are recorded before any message is sent, and none is sent if the
    /// journal fails. A confirmation among them is not lost: a host that nobody confirms asks for it again.
    fn carry_out(&mut self, machine: &mut Machine) -> io::Result<()> {
        let mut messages = Vec::new();
        while let Some(effect) = machine.poll_effect() {
            match effect {
                Effect::Report(event) => {
                    self.recorder.record(&event, machine.state())?;
                    self.hooks.on_event(&event, machine.state());
                    messages.extend(announcement(&event, machine.state()).map(Outbound::Announce));
                }
                // A host that never got its request would take this status query for the request itself.
                Effect::Send(_) | Effect::AskState(_) if self.journal_error.is_some() => {}
                Effect::Send(dispatch) | Effect::AskState(dispatch) | Effect::Confirm(dispatch) => {
                    messages.push(Outbound::Publish(dispatch));
                }
                Effect::CallRoll => messages.push(Outbound::CallRoll),
                Effect::Ask(wave) => {
                    // Shows the events that led to the question before the question.
                    self.recorder.sync()?;
                    let answer = (self.confirm)(machine.state(), wave);
                    self.tasks.spawn(async { Input::Confirmation(answer.await) });
                }
                Effect::RunCheck(wave) => {
                    if let Some(rollout) = machine.state().rollout.clone() {
                        self.tasks.spawn(async move { Input::CheckDone(run_check(&rollout, wave).await) });
                    }
                }
            }
        }
        // A request is on disk before its host receives it.
        if !messages.is_empty() || machine.outcome().is_some() {
            self.recorder.sync()?;
        } else if self.recorder.is_due() {
            self.recorder.write()?;
        }
        for message in messages {
            // If the fleet task is gone, so are its events, which ends the rollout.
            self.fleet.outbound.try_send(message).ok();
        }
        Ok(())
    }
}

async fn all_received(outbound: &mpsc::Sender<Outbound>) {
    outbound.reserve_many(outbound.max_capacity()).await.ok();
}

/// Returns the reports for other operators, one for each tier: an operator who may hear only one tier learns nothing of
/// the waves and names of another.
fn announcement(event: &Event, summary: &Summary) -> Option<Vec<RolloutReport>> {
    let (EventKind::WaveStarted { wave }, Some(rollout)) = (&event.kind, &summary.rollout) else {
        return None;
    };
    // A deployment to a single host blocks only that host, and the host's listener handles that.
    if rollout.source.is_none() && summary.hosts.len() == 1 {
        return None;
    }
    let reports = rollout.plan.tiers().into_iter().map(|tier| {
        let waves = rollout.plan.waves.iter().map(|wave| wave.hosts.iter().any(|host| host.tier == tier));
        let waves: Vec<bool> = waves.collect();
        let count = |waves: &[bool]| waves.iter().filter(|has_tier| **has_tier).count();
        RolloutReport {
            id: rollout.id,
            name: rollout.name().to_owned(),
            operator: rollout.operator.clone(),
            tiers: vec![tier],
            wave: count(waves.get(..=wave.0).unwrap_or(&waves)),
            waves: count(&waves),
            since: summary.began_at.unwrap_or(event.at),
        }
    });
    Some(reports.collect())
}

#[cfg(test)]
mod tests;
