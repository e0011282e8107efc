//! How a run ended, told from its exit code, its output, and what was so on the host before and after. Pure.
//!
//! `nixos-rebuild` has two lives, `nixos-rebuild-ng` and the bash program before it: the first passes on the exit codes of
//! `switch-to-configuration`, the second makes 1 of all of them and leaves only words. Exit code 0 of either is not
//! believed until the host runs what was built.

mod activation;
mod build;
mod next_boot;
mod success;

use serde::{Deserialize, Serialize};

use super::output::switch::{self, BootLoader};
use super::run::Spec;
use super::snapshot::SystemSnapshot;
use crate::protocol::{ErrorCode, Phase, Status};

/// The exit code of `switch-to-configuration` when units failed.
pub(super) const UNITS_FAILED: i32 = 4;

/// Its exit code when the system needs a reboot; that of `nix build` when a build failed, too.
const NEEDS_REBOOT: i32 = 100;

/// What the shell makes of a child that a signal ended: HUP, INT, KILL, TERM.
const ENDED_BY_SIGNAL: [i32; 4] = [129, 130, 137, 143];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The program ended by itself, with this code.
    Exited(i32),
    Killed(i32),
    /// Someone wanted the supervisor to end, by this signal, and meant the program too.
    Stopped(i32),
    /// It took too long, and was ended with all its descendants.
    TimedOut,
    /// The program could not be started, for this reason.
    NotStarted(String),
    /// There is nothing that could be activated: no such commit, or no system that this host takes.
    Refused(ErrorCode, String),
}

/// All that a run is judged by.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) end: &'a End,
    pub(super) phase: Phase,
    /// What was so on the host before.
    pub(super) before: &'a SystemSnapshot,
    /// What was so on the host after it.
    pub(super) after: &'a SystemSnapshot,
    /// The store path of what was built, where that is known.
    pub(super) built: Option<&'a str>,
    pub(super) lines: &'a [String],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `completed` or `failed`.
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorCode>,
    pub message: String,
    /// Whether what was deployed takes effect only after a reboot; unknown where nothing can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_required: Option<bool>,
    /// The units that failed because of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_units: Vec<String>,
    /// Whether the host returned to what it ran before; `false` when it tried and could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<bool>,
}

pub(super) fn judge(spec: &Spec, evidence: &Evidence<'_>) -> Verdict {
    let verdict = judge_by_itself(spec, evidence);
    let half_done =
        matches!(verdict.error, Some(ErrorCode::ActivationFailed | ErrorCode::Timeout | ErrorCode::Interrupted));
    match next_boot::after(evidence).filter(|_| half_done) {
        // One that has to be confirmed returns, and sets the profile back.
        Some(boots) if spec.confirm_timeout_ms.is_none() => verdict.with(&boots),
        _ => verdict,
    }
}

fn judge_by_itself(spec: &Spec, evidence: &Evidence<'_>) -> Verdict {
    let Evidence { end, phase, lines, .. } = evidence;
    match end {
        End::Exited(0) => success::success(spec.action, evidence),
        End::Exited(code) if ENDED_BY_SIGNAL.contains(code) => Verdict::interrupted(code - 128, spec.doing(*phase)),
        End::Exited(code) if activation::needs_reboot(*code, *phase, lines) => {
            activation::reboot(spec.action, evidence)
        }
        End::Exited(code) if activation::is_reached(*code, *phase, lines) => activation::failure(spec, *code, evidence),
        End::Exited(code) => build::failure(spec, *code, lines),
        End::Killed(signal) | End::Stopped(signal) => Verdict::interrupted(*signal, spec.doing(*phase)),
        End::TimedOut => Verdict::failed(ErrorCode::Timeout, timeout(spec, evidence)),
        End::NotStarted(why) if *phase == Phase::Activate => Verdict::failed(ErrorCode::ActivationFailed, why.as_str()),
        End::NotStarted(why) => {
            Verdict::failed(ErrorCode::BuildFailed, format!("{why}: it must be on the PATH of the listener"))
        }
        End::Refused(error, why) => Verdict::failed(error.clone(), why.as_str()),
    }
}

impl Verdict {
    pub(super) fn completed(message: String) -> Self {
        let (error, reboot_required, rolled_back) = (None, None, None);
        Self { status: Status::Completed, error, message, reboot_required, failed_units: Vec::new(), rolled_back }
    }

    /// The same, and something more to say of it.
    pub(super) fn with(mut self, addition: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(addition);
        self
    }

    pub(super) fn failed(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: Status::Failed, error: Some(error), ..Self::completed(message.into()) }
    }

    pub(super) fn lost(why: String) -> Self {
        Self::failed(ErrorCode::Interrupted, why)
    }

    fn interrupted(signal: i32, doing: &str) -> Self {
        Self::failed(ErrorCode::Interrupted, format!("signal {signal} ended the run while {doing}"))
    }
}

/// Whether a run that did not do what was asked may still have changed the host.
pub(super) fn left_traces(verdict: &Verdict, Evidence { phase, before, after, lines, .. }: &Evidence<'_>) -> bool {
    let moved = before.current_path() != after.current_path() || before.profile_path() != after.profile_path();
    let judged = matches!(verdict.error, Some(ErrorCode::ActivationFailed | ErrorCode::VerifyFailed));
    let began = *phase == Phase::Activate || judged;
    // Nothing moves before the boot loader is told.
    moved || began && switch::boot_loader(lines) != Some(BootLoader::Old)
}

fn timeout(spec: &Spec, Evidence { phase, .. }: &Evidence<'_>) -> String {
    let limit = spec.timeout_ms / 1_000;
    let half_done = match phase {
        Phase::Activate => "; the system may be half switched",
        _ => "",
    };
    format!("not over after {limit} s, and ended while {}{half_done}", spec.doing(*phase))
}

#[cfg(test)]
mod tests;
