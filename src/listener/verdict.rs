//! How a run ended, told from its exit code, its output, and what was so on the host before and after. Pure.
//!
//! `nixos-rebuild` has two lives, `nixos-rebuild-ng` and the bash program before it: the first passes on the exit codes of
//! `switch-to-configuration`, the second makes 1 of all of them and leaves only words. Exit code 0 of either is not
//! believed until the host runs what was built.

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::output;
use super::run::Spec;
use crate::protocol::{Action, ErrorCode, Phase, Status};

/// The exit code of `switch-to-configuration` when units failed.
pub(super) const UNITS_FAILED: i32 = 4;

/// Its exit code when the system needs a reboot; that of `nix build` when a build failed, too.
const NEEDS_REBOOT: i32 = 100;

/// What the shell makes of a child that a signal ended: HUP, INT, KILL, TERM.
const ENDED_BY_SIGNAL: [i32; 4] = [129, 130, 137, 143];

/// What to do about a system that cannot take the place of the running one.
const REBOOT: &str = "deploy it with the action boot, and reboot";

/// What made a run end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The program ended by itself, with this code.
    Exited(i32),
    /// A signal ended the program.
    Killed(i32),
    /// Someone wanted the supervisor to end, by this signal, and meant the program too.
    Stopped(i32),
    /// It took too long, and was ended with all its descendants.
    TimedOut,
    /// The program could not be started, for this reason.
    NotStarted(String),
    /// It is not known which commit to deploy.
    Unresolved(ErrorCode, String),
}

/// All that a run is judged by.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// What made it end.
    pub(super) end: &'a End,
    /// What it was at.
    pub(super) phase: Phase,
    /// What was so on the host before.
    pub(super) before: &'a Facts,
    /// What was so on the host after it.
    pub(super) after: &'a Facts,
    /// The store path of what was built, where that is known.
    pub(super) built: Option<&'a str>,
    /// The cleaned lines of its output.
    pub(super) lines: &'a [String],
}

/// How a run is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `completed` or `failed`.
    pub status: Status,
    /// What kind of failure it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorCode>,
    /// The same in words.
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

/// Judges a run.
pub(super) fn judge(spec: &Spec, evidence: &Evidence<'_>) -> Verdict {
    let verdict = judge_by_itself(spec, evidence);
    match still_boots(evidence).filter(|_| verdict.error == Some(ErrorCode::ActivationFailed)) {
        // One that has to be confirmed returns, and sets the profile back.
        Some(boots) if spec.confirm_timeout_ms.is_none() => verdict.with(&boots),
        _ => verdict,
    }
}

fn judge_by_itself(spec: &Spec, evidence: &Evidence<'_>) -> Verdict {
    let Evidence { end, phase, lines, .. } = evidence;
    match end {
        End::Exited(0) => success(spec.action, evidence),
        End::Exited(code) if ENDED_BY_SIGNAL.contains(code) => Verdict::interrupted(code - 128, *phase),
        End::Exited(code) if needs_reboot(*code, *phase, lines) => reboot(spec.action, evidence),
        End::Exited(code) if was_activating(*code, *phase, lines) => activation_failure(spec.action, *code, evidence),
        End::Exited(code) => build_failure(spec, *code, lines),
        End::Killed(signal) | End::Stopped(signal) => Verdict::interrupted(*signal, *phase),
        End::TimedOut => Verdict::failed(ErrorCode::Timeout, timeout(spec.timeout_ms, evidence)),
        End::NotStarted(why) => {
            Verdict::failed(ErrorCode::BuildFailed, format!("{why}: nixos-rebuild must be on the PATH of the listener"))
        }
        End::Unresolved(error, why) => Verdict::failed(error.clone(), why.as_str()),
    }
}

impl Verdict {
    /// Done.
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

    /// Not done, for this reason.
    pub(super) fn failed(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: Status::Failed, error: Some(error), ..Self::completed(message.into()) }
    }

    /// Nobody judged it, for this reason.
    pub(super) fn lost(why: String) -> Self {
        Self::failed(ErrorCode::Interrupted, why)
    }

    fn interrupted(signal: i32, phase: Phase) -> Self {
        let message = format!("signal {signal} ended the run while {}", phase.doing());
        Self::failed(ErrorCode::Interrupted, message)
    }
}

/// `nixos-rebuild` says that all went well.
fn success(action: Action, evidence: &Evidence<'_>) -> Verdict {
    let notes = match verify(action, evidence) {
        Ok(notes) => notes,
        Err(difference) => return Verdict::failed(ErrorCode::VerifyFailed, difference),
    };
    let failed_units = units_that_failed(evidence).unwrap_or_default();
    let since = (!failed_units.is_empty()).then(|| format!("failed since: {}", failed_units.join(" ")));
    let message =
        [Some(done(action, evidence.after)), notes, since].into_iter().flatten().collect::<Vec<_>>().join("; ");
    Verdict { reboot_required: takes_effect_later(action, evidence.after), failed_units, ..Verdict::completed(message) }
}

fn done(action: Action, after: &Facts) -> String {
    match (action, after.generation()) {
        (Action::Switch, Some(generation)) => format!("switched to generation {generation}"),
        (Action::Boot, Some(generation)) => format!("generation {generation} is the one for the next boot"),
        (Action::Switch | Action::Boot | Action::DryActivate, _) => format!("{action} completed"),
        (Action::Test, _) => "activated until the next boot".to_owned(),
    }
}

/// Compares what is so on the host with what was built. A difference is an error; that nothing could be compared is at
/// most a note, for which no deployment fails.
///
/// What was built is what `nixos-rebuild-ng` names in the end, or what Nix says when it is asked. Where neither is known,
/// the profile tells after `switch` and `boot`: both programs set it to what was built before anything else. A host
/// that has neither a profile nor a running system is no NixOS, and has nothing to compare.
fn verify(action: Action, Evidence { before, after, built, .. }: &Evidence<'_>) -> Result<Option<String>, String> {
    if action == Action::DryActivate || !(before.is_nixos() || after.is_nixos()) {
        return Ok(None);
    }
    let profile = after.profile_path();
    if matches!(action, Action::Switch | Action::Boot) {
        let profile = profile.ok_or("there is no system profile after it")?;
        if let Some(built) = built.filter(|&built| built != profile) {
            return Err(format!("{built} was built, and the system profile points at {profile}"));
        }
    }
    let activated = match action {
        Action::Switch => built.or(profile),
        Action::Test => *built,
        Action::Boot | Action::DryActivate => return Ok(None),
    };
    match (activated, after.current_path()) {
        (Some(activated), Some(current)) if activated == current => Ok(None),
        (_, None) => Err("/run/current-system is gone after it".to_owned()),
        (Some(activated), Some(current)) => Err(format!("{activated} was built, and /run/current-system is {current}")),
        (None, current) if current != before.current_path() => Ok(None),
        (None, Some(_)) => {
            Ok(Some("what ran before runs, and it is not known whether that is what was built".to_owned()))
        }
    }
}

/// Whether something of what was deployed waits for the next boot.
fn takes_effect_later(action: Action, after: &Facts) -> Option<bool> {
    let booted = after.booted.as_ref()?;
    match action {
        Action::Switch | Action::Test => Some(after.current.as_ref()?.kernel != booted.kernel),
        Action::Boot => {
            let next = &after.profile.as_ref()?.system;
            Some(after.current_path() != Some(&next.path) || next.kernel != booted.kernel)
        }
        Action::DryActivate => None,
    }
}

/// The units that have failed now and had not before; unknown where there is no systemd to ask.
fn units_that_failed(Evidence { before, after, lines, .. }: &Evidence<'_>) -> Option<Vec<String>> {
    let (before, mut now) = (before.failed_units.as_ref()?, after.failed_units.clone()?);
    // One that is being started once more at the very moment is not on the list.
    now.extend(output::failed_units(lines));
    Some(now.difference(before).cloned().collect())
}

/// Whether an exit code that can mean several things means that the system needs a reboot.
fn needs_reboot(code: i32, phase: Phase, lines: &[String]) -> bool {
    let said = || lines.iter().any(|line| line.contains("until you reboot"));
    match code {
        NEEDS_REBOOT => was_activating(code, phase, lines) || said(),
        1 => said(),
        _ => false,
    }
}

fn reboot(action: Action, evidence: &Evidence<'_>) -> Verdict {
    let verdict = match action {
        Action::Boot => match verify(action, evidence) {
            Ok(_) => Verdict::completed("built, and takes effect with the next boot".to_owned()),
            Err(difference) => Verdict::failed(ErrorCode::VerifyFailed, difference),
        },
        _ => not_activated(format!("the new system takes effect only after a reboot: {REBOOT}")),
    };
    Verdict { reboot_required: Some(true), ..verdict }
}

/// Whether it was the activation that failed, also where it failed before it began to change anything.
fn was_activating(code: i32, phase: Phase, lines: &[String]) -> bool {
    phase == Phase::Activate || code == UNITS_FAILED || lines.iter().any(|line| output::tells_failed_activation(line))
}

fn activation_failure(action: Action, code: i32, evidence: &Evidence<'_>) -> Verdict {
    let lines = evidence.lines;
    if let Some(check) = output::refusal(lines) {
        return not_activated(format!("{check}: {REBOOT}"));
    }
    let named = output::failed_units(lines);
    // The code for units stands for a failed activation script as well, when both fail.
    let nothing_but_units = (code == UNITS_FAILED || !named.is_empty()) && output::about_failed_script(lines).is_none();
    match units_that_failed(evidence) {
        Some(units) if units.is_empty() && nothing_but_units => old_failures(action, evidence),
        Some(units) if !units.is_empty() => {
            let message = format!("the following units failed: {}", units.join(", "));
            Verdict { failed_units: units, ..not_activated(message) }
        }
        Some(_) | None => {
            let line = output::about_failed_units(lines).or_else(|| output::about_failed_script(lines));
            let line = line.or_else(|| output::essential(lines));
            let message = match line {
                // It says what was at hand, not what went wrong.
                Some(line) if output::phase_of(line).is_some() => format!("ended with code {code} after: {line}"),
                Some(line) => line.to_owned(),
                None => format!("the activation ended with code {code}"),
            };
            Verdict { failed_units: named, ..not_activated(message) }
        }
    }
}

/// Units have failed, none of them because of this run.
fn old_failures(action: Action, evidence: &Evidence<'_>) -> Verdict {
    let verdict = success(action, evidence);
    let named = output::failed_units(evidence.lines);
    let note = if named.is_empty() {
        output::essential(evidence.lines).unwrap_or("no unit failed because of it").to_owned()
    } else {
        format!("failed before it already: {}", named.join(" "))
    };
    verdict.with(&note)
}

fn not_activated(message: String) -> Verdict {
    Verdict::failed(ErrorCode::ActivationFailed, message)
}

/// Whether the profile points at the new system although it does not run: then it is what the next boot starts.
fn still_boots(Evidence { before, after, .. }: &Evidence<'_>) -> Option<String> {
    let generation = after.generation().filter(|_| before.profile_path() != after.profile_path())?;
    Some(format!("generation {generation} is the one for the next boot all the same"))
}

/// Whether a run that did not do what was asked may have changed the host all the same.
pub(super) fn left_traces(verdict: &Verdict, Evidence { phase, before, after, .. }: &Evidence<'_>) -> bool {
    let moved = before.current_path() != after.current_path() || before.profile_path() != after.profile_path();
    *phase == Phase::Activate
        || moved
        || matches!(verdict.error, Some(ErrorCode::ActivationFailed | ErrorCode::VerifyFailed))
}

fn timeout(timeout_ms: u64, Evidence { phase, .. }: &Evidence<'_>) -> String {
    let limit = timeout_ms / 1_000;
    let half_done = match phase {
        Phase::Activate => "; the system may be half switched",
        _ => "",
    };
    format!("not over after {limit} s, and ended while {}{half_done}", phase.doing())
}

/// Why nothing was activated.
fn build_failure(spec: &Spec, code: i32, lines: &[String]) -> Verdict {
    let Spec { revision, host, .. } = spec;
    // Nix ends with one and the same line whether the commit is missing or the server: git's first complaint tells.
    if let Some(complaint) = lines.iter().find_map(|line| line.trim_start().strip_prefix("fatal: ")) {
        return if complaint.contains("couldn't find remote ref") || complaint.contains("not our ref") {
            let message = format!("{revision} is no branch, tag or commit that the server of the flake has");
            Verdict::failed(ErrorCode::InvalidRevision, message)
        } else {
            Verdict::failed(ErrorCode::BuildFailed, format!("git: {complaint}"))
        };
    }
    let not_there = |line: &String| line.contains("does not provide attribute") && line.contains("nixosConfigurations");
    if lines.iter().any(not_there) {
        let message = format!("{host} is not in nixosConfigurations of the flake at {revision}");
        return Verdict::failed(ErrorCode::BuildFailed, message);
    }
    let message = match output::essential(lines) {
        Some(line) => line.to_owned(),
        None => format!("nixos-rebuild ended with code {code} and said nothing"),
    };
    Verdict::failed(ErrorCode::BuildFailed, message)
}

#[cfg(test)]
mod tests;
