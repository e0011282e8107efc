//! Handles two machines with one name, as a cloned machine has: what one reports is not true of the other.

use std::time::Duration;

use super::Machine;
use crate::rollout::event::{EventKind, FailureReason, HostOutcome, SkipReason, UnexpectedResponse};
use crate::rollout::summary::{HostProgress, HostState};

impl Machine {
    /// Fails a host that turned out to be two machines, whatever either of them reports. If the host had completed, its
    /// wave may be over; then the rollout ends with the current wave.
    pub(super) fn fail_as_two_machines(&mut self, now: Duration, index: usize) {
        let HostProgress { name: host, state, .. } = self.host(index).clone();
        self.record(
            now,
            EventKind::UnexpectedResponse { host: host.clone(), anomaly: UnexpectedResponse::TwoMachines },
        );
        match state {
            HostState::Final(HostOutcome::Completed) if self.range().contains(&index) => {
                if let Some(cause) = self.too_many_failures() {
                    self.fail_wave(now, SkipReason::WaveHalted, cause);
                }
            }
            HostState::Final(HostOutcome::Completed) => {
                self.fail_wave(now, SkipReason::EarlierWave, FailureReason::TwoMachines { host });
            }
            HostState::Pending | HostState::Final(_) => {}
            _ => self.settle(now, index, HostOutcome::Failed, None),
        }
    }

    /// Makes the current wave fail and send nothing more.
    fn fail_wave(&mut self, now: Duration, skip: SkipReason, cause: FailureReason) {
        if self.progress.halted.is_none() && self.is_running() {
            self.halt(now, skip, cause.clone());
        }
        self.progress.failure.get_or_insert(cause);
    }
}
