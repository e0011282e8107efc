//! Two machines that go by one name, as a cloned one does: what one of them says is not true of the other.

use std::time::Duration;

use super::{Machine, Stage, State};
use crate::rollout::event::{Anomaly, Cause, EventKind, HostOutcome, SkipCause};

impl Machine {
    /// A host turns out to be two machines. It has failed, whatever either of them said or will say.
    pub(super) fn contest(&mut self, now: Duration, index: usize) {
        let host = self.frozen(index).hostname.clone();
        self.report(now, EventKind::Anomaly { host, anomaly: Anomaly::TwoMachines });
        match self.host(index).state {
            State::InFlight(_) | State::Waiting { .. } => self.settle(now, index, HostOutcome::Failed, None),
            State::Final(HostOutcome::Completed) => self.take_back(now, index),
            State::Pending | State::Final(_) => {}
        }
    }

    /// A host had completed, as far as one of its machines can say. Its wave may be over: then the rollout ends with the one
    /// that runs.
    fn take_back(&mut self, now: Duration, index: usize) {
        self.host_mut(index).state = State::Final(HostOutcome::Failed);
        self.completed.retain(|completed| *completed != index);
        if !self.range().contains(&index) {
            return self.doom(
                now,
                SkipCause::EarlierWave,
                Cause::TwoMachines { host: self.frozen(index).hostname.clone() },
            );
        }
        let max_failures = self.wave().limits.max_failures;
        self.tally.completed -= 1;
        self.tally.failures += 1;
        let failures = self.tally.failures;
        if failures > max_failures {
            self.doom(now, SkipCause::WaveHalted, Cause::TooManyFailures { failures, max_failures });
        }
    }

    /// The current wave fails, and sends nothing more.
    fn doom(&mut self, now: Duration, skip: SkipCause, cause: Cause) {
        if self.tally.halted.is_none() && matches!(self.stage, Stage::Running) {
            self.halt(now, skip, cause.clone());
        }
        self.tally.doomed.get_or_insert(cause);
    }
}
