//! Driving an executor in front of the operator's eyes.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::exit::{CommandError, Exit};
use crate::bus::Bus;
use crate::operator::drive::Confirm;
use crate::operator::journal::Journal;
use crate::operator::{Discovery, Drive, Fleet, Link, Progress};
use crate::protocol::{RolloutId, Tier};
use crate::report::Reporter;
use crate::rollout::{Interrupt, Machine, Summary};

/// How often it is looked for the wish of another process that this rollout stops.
const STOP_FILE_EVERY: Duration = Duration::from_secs(1);

/// What an executor is driven with.
pub(super) struct Session<'a> {
    pub(super) bus: Bus,
    pub(super) rollout: RolloutId,
    /// The tiers of its hosts.
    pub(super) tiers: BTreeSet<Tier>,
    pub(super) discovery: Discovery,
    pub(super) reporter: Box<dyn Reporter>,
    pub(super) confirm: Confirm<'a>,
    pub(super) record: Record,
}

/// The record of a rollout, as far as a session needs it.
pub(super) struct Record {
    /// What it tells of before.
    pub(super) summary: Summary,
    /// Where it goes on.
    pub(super) journal: Journal,
    /// When this file appears, the rollout is to stop.
    pub(super) stop_file: PathBuf,
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot listen for signals: {0}")]
struct SignalError(#[source] io::Error);

impl Session<'_> {
    /// Drives an executor to its end.
    pub(super) async fn drive(self, machine: &mut Machine) -> Result<Progress, CommandError> {
        let precondition = |error| Exit::Precondition.because(error);
        let link = Link::subscribe(self.bus, self.rollout, self.tiers, self.discovery).await.map_err(precondition)?;
        let (fleet, end) = Fleet::channels();
        let mut messages = JoinSet::new();
        messages.spawn(link.serve(end));

        let (interrupt, interrupts) = mpsc::channel(4);
        let mut wishes = JoinSet::new();
        wishes.spawn(hear_signals(Signals::new()?, interrupt.clone()));
        let Record { summary, journal, stop_file } = self.record;
        wishes.spawn(watch_for(stop_file, interrupt));

        let reporters = vec![self.reporter];
        let drive = Drive { fleet, summary, journal: Some(journal), reporters, interrupts, confirm: self.confirm };
        let result = drive.run(machine).await.map_err(|error| Exit::Precondition.because(error));
        // The drive has let go of its ends of the channels; what it published last is flushed before the command ends.
        messages.join_all().await;
        result
    }
}

/// The signals by which an operator stops a command.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, CommandError> {
        let on = |kind| signal(kind).map_err(|error| Exit::Precondition.because(SignalError(error)));
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }
}

/// Passes on the wish to stop: the first Ctrl-C waits for the hosts in flight, the second leaves at once. Whoever sends
/// SIGTERM wants an orderly end.
async fn hear_signals(mut signals: Signals, interrupts: mpsc::Sender<Interrupt>) {
    let mut on_interrupt = Interrupt::Drain;
    loop {
        let how = tokio::select! {
            _ = signals.interrupt.recv() => std::mem::replace(&mut on_interrupt, Interrupt::Abort),
            _ = signals.terminate.recv() => Interrupt::Drain,
        };
        if interrupts.send(how).await.is_err() {
            return;
        }
    }
}

/// Passes on the wish of `homelab-deploy abort`, which may come from another session or after this one's terminal is gone.
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
