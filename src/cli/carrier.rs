//! Carries out a prepared rollout, recorded and displayed. `deploy` and `apply` share this code.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::connection::OperatorArgs;
use super::context::StateArgs;
use super::display::{Audience, Display, DisplayArgs};
use super::exit::{CommandError, Exit};
use super::{confirm, out};
use crate::bus::Bus;
use crate::clock;
use crate::operator::journal::Journal;
use crate::operator::{DriveError, Driver, Fleet, FleetTask};
use crate::report::{Document, Liveness};
use crate::rollout::{Interrupt, MAX_PREPARED, Machine, Outcome, Rollout, Summary};

pub(super) struct Carrier<'a> {
    pub(super) operator: &'a OperatorArgs,
    pub(super) state: &'a StateArgs,
    pub(super) display: &'a DisplayArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("the journal does not say what the rollout is about")]
#[diagnostic(help("it ended before anything was recorded, and so nothing was sent: start anew"))]
pub(super) struct NothingRecorded;

/// Returns what a hook reads on its standard input: the JSON that `report --format json` prints.
fn for_hooks(summary: &Summary) -> String {
    let liveness = if summary.outcome.is_some() { Liveness::Over } else { Liveness::Running };
    Document::of(summary, liveness, clock::now()).map_or_else(String::new, |document| format!("{}\n", document.json()))
}

impl Carrier<'_> {
    /// Starts a rollout and carries it out to its end. Nothing is sent that could not be recorded.
    pub(super) async fn begin(&self, bus: Bus, rollout: Rollout) -> Result<Machine, CommandError> {
        let journal = self.state.journals().create(rollout.id)?;
        let machine = Machine::new(Arc::new(rollout), clock::now(), MAX_PREPARED);
        self.carry_out(bus, machine, Summary::default(), journal).await
    }

    /// Resumes a rollout where its journal ends, and carries it out to its end.
    pub(super) async fn resume(&self, bus: Bus, recorded: Summary, journal: Journal) -> Result<Machine, CommandError> {
        let machine = Machine::resume(recorded.clone(), clock::now(), MAX_PREPARED).ok_or(NothingRecorded)?;
        self.carry_out(bus, machine, recorded, journal).await
    }

    /// Carries the rollout out. `recorded` is its state before this process.
    async fn carry_out(
        &self,
        bus: Bus,
        mut machine: Machine,
        recorded: Summary,
        journal: Journal,
    ) -> Result<Machine, CommandError> {
        let rollout = machine.rollout();
        let link = FleetTask::subscribe(bus, rollout, self.operator.discovery(self.state)).await?;
        let link = link.watching(rollout, self.display.watch());
        let (interrupts, _listening) = listen_for_interrupts(self.state.journals().stop_file(rollout.id))?;
        let (fleet, end) = Fleet::channels();
        let mut messages = JoinSet::new();
        messages.spawn(link.serve(end));
        let display = Display::start(self.display, recorded);
        let confirm = confirm::wave(self.display.audience(), display.shown());
        let drive = Driver::new(fleet, Some(journal), vec![Box::new(display)], interrupts, confirm, for_hooks);
        let drive = drive.watching(self.display.watch());
        let ended = drive.run(&mut machine).await;
        // The driver has dropped its channels, so the fleet task ends. It flushes the last messages before that.
        messages.join_all().await;
        match ended {
            Ok(()) => Ok(machine),
            Err(error) => Err(self.stopped(machine.state(), error)),
        }
    }

    /// Shows how a rollout ended and what to do next, and returns the exit code.
    pub(super) fn conclude(&self, state: &Summary) -> Exit {
        self.recap(state);
        state.outcome.map_or(Exit::Failed, Exit::from)
    }

    /// Returns the error of a rollout that could not be driven to its end. Requests may have reached hosts before.
    fn stopped(&self, state: &Summary, error: DriveError) -> CommandError {
        if state.hosts.iter().all(|host| host.request.is_none()) {
            return error.into();
        }
        self.recap(state);
        Exit::Failed.with(error)
    }

    fn recap(&self, state: &Summary) {
        self.display.recap(state);
        let is_shown = self.display.audience() == Audience::Person && state.outcome != Some(Outcome::Succeeded);
        if let Some(rollout) = state.rollout.as_deref().filter(|_| is_shown) {
            out::note(&format!("  details:  homelab-deploy status {}", rollout.id.short()));
        }
    }
}

/// How often to look for the stop file, by which another process stops this rollout.
const STOP_FILE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Error, Diagnostic)]
#[error("cannot listen for signals: {0}")]
struct SignalError(#[source] io::Error);

/// Listens for what stops a rollout, until the tasks are dropped: signals, and a file that another process creates.
fn listen_for_interrupts(stop_file: PathBuf) -> Result<(mpsc::Receiver<Interrupt>, JoinSet<()>), SignalError> {
    let (sender, interrupts) = mpsc::channel(4);
    let mut tasks = JoinSet::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        tasks.spawn(hear_signal(kind, signal(kind).map_err(SignalError)?, sender.clone()));
    }
    tasks.spawn(watch_for(stop_file, sender));
    Ok((interrupts, tasks))
}

/// Forwards a signal as an interrupt: the first Ctrl-C waits for the hosts in flight, the second leaves at once.
/// SIGTERM and SIGHUP wait as well: hosts whose activation nobody confirms would roll back, although they are healthy.
async fn hear_signal(kind: SignalKind, mut signal: Signal, interrupts: mpsc::Sender<Interrupt>) {
    let mut how = Interrupt::Drain;
    while signal.recv().await.is_some() && interrupts.send(how).await.is_ok() {
        if kind == SignalKind::interrupt() {
            how = Interrupt::Abort;
        }
    }
}

/// Forwards the stop file of `homelab-deploy abort`, which may run in another session or after this terminal is gone.
async fn watch_for(stop_file: PathBuf, interrupts: mpsc::Sender<Interrupt>) {
    let mut looks = interval(STOP_FILE_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if std::fs::remove_file(&stop_file).is_ok() && interrupts.send(Interrupt::Drain).await.is_err() {
            return;
        }
    }
}
