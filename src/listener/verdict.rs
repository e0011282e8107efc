//! How a run ended, told from its result and its output. Pure.

use super::run::{End, RunResult, Spec};
use crate::protocol::{Action, ErrorCode, HostName, Phase, Revision, Status};

/// The exit code of `switch-to-configuration` when units failed.
const UNITS_FAILED: i32 = 4;

/// Its exit code when the system needs a reboot; that of `nix build` when a build failed, too.
const NEEDS_REBOOT: i32 = 100;

/// What the shell makes of a child that a signal ended: HUP, INT, KILL, TERM.
const ENDED_BY_SIGNAL: [i32; 4] = [129, 130, 137, 143];

/// How a run is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) error: Option<ErrorCode>,
    pub(super) message: String,
    pub(super) reboot_required: Option<bool>,
}

/// Judges a run by its result, if it left one, and by the cleaned lines of its output.
pub(super) fn judge(spec: &Spec, host: &HostName, result: Option<&RunResult>, lines: &[String]) -> Verdict {
    let Some(RunResult { end, phase, generation, .. }) = result else {
        return Verdict::failed(
            ErrorCode::Interrupted,
            "the host rebooted or the run was ended from outside, and left no result",
        );
    };
    match end {
        End::Exited(0) => Verdict::completed(success(spec.action, *generation)),
        End::Exited(NEEDS_REBOOT) if wants_reboot(*phase, lines) => reboot(spec.action),
        End::Exited(code) if ENDED_BY_SIGNAL.contains(code) => Verdict::interrupted(code - 128, *phase),
        End::Exited(code) if *phase == Phase::Activate || *code == UNITS_FAILED => {
            Verdict::failed(ErrorCode::ActivationFailed, activation_failure(*code, lines))
        }
        End::Exited(code) => build_failure(&spec.revision, host, *code, lines),
        End::Killed(signal) => Verdict::interrupted(*signal, *phase),
        End::TimedOut => Verdict::failed(ErrorCode::Timeout, timeout(spec.timeout_ms, *phase)),
        End::NotStarted(why) => {
            Verdict::failed(ErrorCode::BuildFailed, format!("{why}: nixos-rebuild must be on the PATH of the listener"))
        }
    }
}

impl Verdict {
    fn completed(message: String) -> Self {
        Self { status: Status::Completed, error: None, message, reboot_required: None }
    }

    /// Not done, for this reason.
    pub(super) fn failed(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: Status::Failed, error: Some(error), message: message.into(), reboot_required: None }
    }

    fn interrupted(signal: i32, phase: Phase) -> Self {
        let message = format!("signal {signal} ended the run while {}", phase.doing());
        Self::failed(ErrorCode::Interrupted, message)
    }
}

fn success(action: Action, generation: Option<u64>) -> String {
    match (action, generation) {
        (Action::Switch, Some(generation)) => format!("switched to generation {generation}"),
        (Action::Boot, Some(generation)) => format!("generation {generation} is the one for the next boot"),
        (Action::Switch | Action::Boot | Action::DryActivate, _) => format!("{action} completed"),
        (Action::Test, _) => "activated until the next boot".to_owned(),
    }
}

/// Whether the exit code that can mean two things means that the system needs a reboot.
fn wants_reboot(phase: Phase, lines: &[String]) -> bool {
    phase == Phase::Activate || lines.iter().any(|line| line.contains("until you reboot"))
}

fn reboot(action: Action) -> Verdict {
    let verdict = match action {
        Action::Boot => Verdict::completed("built, and takes effect with the next boot".to_owned()),
        _ => Verdict::failed(
            ErrorCode::ActivationFailed,
            "the new system takes effect only after a reboot: deploy it with the action boot, and reboot",
        ),
    };
    Verdict { reboot_required: Some(true), ..verdict }
}

fn activation_failure(code: i32, lines: &[String]) -> String {
    let about_units = lines.iter().rev().find(|line| line.contains("the following units failed"));
    let line = about_units.map(String::as_str).or_else(|| essential(lines));
    match line {
        Some(line) => without_label(line).to_owned(),
        None => format!("the activation ended with code {code}"),
    }
}

fn timeout(timeout_ms: u64, phase: Phase) -> String {
    let limit = timeout_ms / 1_000;
    let half_done = match phase {
        Phase::Activate => "; the system may be half switched",
        _ => "",
    };
    format!("not over after {limit} s, and ended while {}{half_done}", phase.doing())
}

/// Why nothing was activated.
fn build_failure(revision: &Revision, host: &HostName, code: i32, lines: &[String]) -> Verdict {
    // Nix ends with one and the same line whether the branch is missing or the server: git's first complaint tells.
    if let Some(complaint) = lines.iter().find_map(|line| line.trim_start().strip_prefix("fatal: ")) {
        return if complaint.contains("couldn't find remote ref") || complaint.contains("not our ref") {
            Verdict::failed(ErrorCode::InvalidRevision, no_such_revision(revision))
        } else {
            Verdict::failed(ErrorCode::BuildFailed, format!("git: {complaint}"))
        };
    }
    let not_there = |line: &String| line.contains("does not provide attribute") && line.contains("nixosConfigurations");
    if lines.iter().any(not_there) {
        let message = format!("{host} is not in nixosConfigurations of the flake at {revision}");
        return Verdict::failed(ErrorCode::BuildFailed, message);
    }
    let message = match essential(lines) {
        Some(line) => without_label(line).to_owned(),
        None => format!("nixos-rebuild ended with code {code} and said nothing"),
    };
    Verdict::failed(ErrorCode::BuildFailed, message)
}

fn no_such_revision(revision: &Revision) -> String {
    let hint = if revision.looks_like_short_commit() {
        "; if it is the beginning of a commit, give all 40 digits"
    } else {
        ""
    };
    format!("{revision} is no branch, tag or commit that the server of the flake has{hint}")
}

/// The line that says what went wrong: the first failed build, since all errors after it only follow from it; else the
/// last error, which is what Nix says after the trace that leads to it; else the last line.
fn essential(lines: &[String]) -> Option<&str> {
    let mut errors = lines.iter().map(|line| line.trim()).filter(|line| tells_something(line));
    let builds = ["error: builder for ", "error: Cannot build ", "error: hash mismatch "];
    let failed_build = errors.clone().find(|line| builds.iter().any(|start| line.starts_with(start)));
    failed_build.or_else(|| errors.next_back()).or_else(|| lines.last().map(|line| line.trim()))
}

/// Whether a line is an error with a text, and not only `nixos-rebuild` saying that one of its commands had one.
fn tells_something(line: &str) -> bool {
    line.strip_prefix("error:")
        .is_some_and(|text| !text.trim().is_empty() && !text.trim_start().starts_with("Command '"))
}

/// Without the word that the status already says.
fn without_label(line: &str) -> &str {
    let text = line.strip_prefix("error:").or_else(|| line.strip_prefix("warning:"));
    text.unwrap_or(line).trim()
}

#[cfg(test)]
mod tests;
