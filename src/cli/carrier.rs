//! Carrying out a rollout that is settled, on record and in front of the operator's eyes: `deploy` and `apply` are the same
//! from here on.

use std::sync::Arc;

use miette::Diagnostic;
use thiserror::Error;
use tokio::task::JoinSet;

use super::display::Display;
use super::exit::{CommandError, Exit};
use super::operator::{Audience, DisplayArgs, OperatorArgs};
use super::state::StateArgs;
use super::{confirm, interrupts, out};
use crate::bus::Bus;
use crate::clock;
use crate::operator::journal::Journal;
use crate::operator::{Drive, DriveError, Fleet, FleetTask};
use crate::report::{self, Document, Liveness};
use crate::rollout::{Machine, Outcome, PREPARED, Rollout, Summary};

pub(super) struct Carrier<'a> {
    pub(super) operator: &'a OperatorArgs,
    pub(super) state: &'a StateArgs,
    pub(super) display: &'a DisplayArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("the journal does not say what the rollout is about")]
#[diagnostic(help("it ended before anything was recorded, and so nothing was sent: start anew"))]
pub(super) struct NothingRecorded;

/// What a hook reads on its standard input: what `report --format json` prints.
fn for_hooks(summary: &Summary) -> String {
    let liveness = if summary.outcome.is_some() { Liveness::Over } else { Liveness::Running };
    Document::of(summary, liveness, clock::now()).map_or_else(String::new, |document| format!("{}\n", document.json()))
}

impl Carrier<'_> {
    /// Begins a rollout, and carries it out until it has ended. Nothing is sent that could not be recorded.
    pub(super) async fn begin(&self, bus: Bus, rollout: Rollout) -> Result<Machine, CommandError> {
        let journal = self.state.journals().create(rollout.id).map_err(|error| Exit::Precondition.with(error))?;
        let machine = Machine::new(Arc::new(rollout), clock::now(), PREPARED);
        self.carry_out(bus, machine, Summary::default(), journal).await
    }

    /// Goes on with a rollout where its record ends, and carries it out until it has ended.
    pub(super) async fn resume(&self, bus: Bus, recorded: Summary, journal: Journal) -> Result<Machine, CommandError> {
        let machine = Machine::resume(recorded.clone(), clock::now(), PREPARED);
        let machine = machine.ok_or_else(|| Exit::Precondition.with(NothingRecorded))?;
        self.carry_out(bus, machine, recorded, journal).await
    }

    /// `recorded` is what the rollout had come to before.
    async fn carry_out(
        &self,
        bus: Bus,
        mut machine: Machine,
        recorded: Summary,
        journal: Journal,
    ) -> Result<Machine, CommandError> {
        let rollout = machine.rollout();
        let precondition = |error| Exit::Precondition.with(error);
        let link =
            FleetTask::subscribe(bus, rollout, self.operator.discovery(self.state)).await.map_err(precondition)?;
        let link = link.watching(rollout, self.display.watch());
        let (interrupts, _listening) = interrupts::listen(self.state.journals().stop_file(rollout.id))?;
        let (fleet, end) = Fleet::channels();
        let mut messages = JoinSet::new();
        messages.spawn(link.serve(end));
        let display = Display::start(self.display.reporter(), recorded);
        let confirm = confirm::wave(self.display.audience(), display.shown());
        let drive = Drive::new(fleet, Some(journal), vec![Box::new(display)], interrupts, confirm, for_hooks);
        let drive = drive.watching(self.display.watch());
        let ended = drive.run(&mut machine).await;
        // The drive has let go of its ends of the channels; what it published last is flushed before the command ends.
        messages.join_all().await;
        match ended {
            Ok(()) => Ok(machine),
            Err(error) => Err(self.stopped(machine.state(), error)),
        }
    }

    /// Says what became of a rollout that has ended, and what to do about it.
    pub(super) fn conclude(&self, state: &Summary) -> Exit {
        self.recap(state);
        state.outcome.map_or(Exit::Failed, Exit::from)
    }

    /// A rollout that could not be driven to its end may have reached hosts before.
    fn stopped(&self, state: &Summary, error: DriveError) -> CommandError {
        if state.hosts.iter().all(|host| host.request.is_none()) {
            return Exit::Precondition.with(error);
        }
        self.recap(state);
        Exit::Failed.with(error)
    }

    fn recap(&self, state: &Summary) {
        let Some(rollout) = state.rollout.as_deref().filter(|_| self.display.audience() == Audience::Person) else {
            return;
        };
        out::note(&report::recap(state, self.display.style(), out::room()));
        if state.outcome != Some(Outcome::Succeeded) {
            let id = rollout.id.short();
            // Who has deployed in one line does so once more.
            if rollout.source.is_some() {
                out::note(&format!("  resume:   homelab-deploy apply --resume {id}"));
            }
            out::note(&format!("  details:  homelab-deploy status {id}"));
        }
    }
}
