//! Carrying out a rollout that is settled, on record and in front of the operator's eyes: `deploy` and `apply` are the same
//! from here on.

use std::sync::Arc;

use super::confirm;
use super::exit::{CommandError, Exit};
use super::operator::{DisplayArgs, OperatorArgs};
use super::session::{Record, Session};
use super::state::StateArgs;
use crate::bus::Bus;
use crate::clock;
use crate::operator::Progress;
use crate::operator::journal::Journal;
use crate::rollout::{Machine, Rollout, Summary};

/// What a rollout is carried out with.
pub(super) struct Carrier<'a> {
    pub(super) operator: &'a OperatorArgs,
    pub(super) state: &'a StateArgs,
    pub(super) display: &'a DisplayArgs,
}

impl Carrier<'_> {
    /// Begins a rollout. Nothing is sent that could not be recorded.
    pub(super) async fn begin(&self, bus: Bus, rollout: Arc<Rollout>) -> Result<Progress, CommandError> {
        let journal = self.state.journals().create(rollout.id).map_err(|error| Exit::Precondition.because(error))?;
        let machine = Machine::new(Arc::clone(&rollout), clock::now());
        self.drive(bus, &rollout, machine, Summary::default(), journal).await
    }

    /// Goes on where the record of a rollout ends.
    pub(super) async fn go_on(
        &self,
        rollout: Arc<Rollout>,
        summary: Summary,
        journal: Journal,
    ) -> Result<Progress, CommandError> {
        let bus = self.operator.connect().await?;
        let machine = Machine::resume(Arc::clone(&rollout), &summary, clock::now());
        self.drive(bus, &rollout, machine, summary, journal).await
    }

    async fn drive(
        &self,
        bus: Bus,
        rollout: &Rollout,
        mut machine: Machine,
        summary: Summary,
        journal: Journal,
    ) -> Result<Progress, CommandError> {
        let session = Session {
            bus,
            rollout,
            discovery: self.operator.discovery(self.state),
            reporter: self.display.reporter(),
            confirm: confirm::wave(self.display.audience()),
            record: Record { summary, journal, stop_file: self.state.journals().stop_file(rollout.id) },
        };
        let progress = session.drive(&mut machine).await;
        // The command is at its end: taking a large fleet apart host by host would only hold that up.
        std::mem::forget(machine);
        progress
    }
}
