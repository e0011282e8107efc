//! The ways in which an operator stops a rollout.

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
use crate::rollout::Interrupt;

/// How often it is looked for the wish of another process that this rollout stops.
const STOP_FILE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Error, Diagnostic)]
#[error("cannot listen for signals: {0}")]
struct SignalError(#[source] io::Error);

/// Listens for what stops a rollout, for as long as the tasks are kept: signals, and a file that another process makes.
pub(super) fn listen(stop_file: PathBuf) -> Result<(mpsc::Receiver<Interrupt>, JoinSet<()>), CommandError> {
    let (sender, interrupts) = mpsc::channel(4);
    let mut tasks = JoinSet::new();
    tasks.spawn(hear_signals(Signals::new()?, sender.clone()));
    tasks.spawn(watch_for(stop_file, sender));
    Ok((interrupts, tasks))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, CommandError> {
        let on = |kind| signal(kind).map_err(|error| Exit::Precondition.with(SignalError(error)));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

/// Passes on the wish to stop: the first Ctrl-C waits for the hosts in flight, the second leaves at once. SIGTERM asks for an
/// orderly end, and so does SIGHUP: hosts that nobody confirms any more would return, although they are well.
async fn hear_signals(mut signals: Signals, interrupts: mpsc::Sender<Interrupt>) {
    let mut on_interrupt = Interrupt::Drain;
    loop {
        let how = tokio::select! {
            _ = signals.interrupt.recv() => std::mem::replace(&mut on_interrupt, Interrupt::Abort),
            _ = signals.terminate.recv() => Interrupt::Drain,
            _ = signals.hangup.recv() => Interrupt::Drain,
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
