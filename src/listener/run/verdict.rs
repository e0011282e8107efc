//! Judges a run by its exit code, its output, and the host before and after. Pure.
//!
//! There are two programs called `nixos-rebuild`. `nixos-rebuild-ng` passes on the exit codes of
//! `switch-to-configuration`; the older bash program turns them all into 1, so that only its output tells. Exit code 0
//! of either is not believed until the host runs the built system.

use super::{RunSpec, Verdict};
use crate::listener::config::UserUnits;
use crate::listener::nixos::SystemSnapshot;
use crate::listener::output::{self, BootLoader};
use crate::protocol::{Action, ErrorCode, Phase};

/// The exit code of `switch-to-configuration` when units failed.
pub(crate) const EXIT_UNITS_FAILED: i32 = 4;

/// Its exit code when the system needs a reboot; also that of `nix build` when a build failed.
const EXIT_NEEDS_REBOOT: i32 = 100;

/// The advice for a system that cannot replace the running one.
const REBOOT: &str = "deploy it with action = \"boot\", and reboot the host";

/// The exit code of a program that dies of an error, and of all failures of the bash `nixos-rebuild`.
const EXIT_DIED: i32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    Exited(i32),
    Killed(i32),
    /// A signal told the supervisor to stop, together with the program.
    Stopped(i32),
    /// The time limit was reached, and all processes were ended.
    TimedOut,
    NotStarted(String),
    /// There is nothing to activate: no such commit, or no system that this host takes.
    Refused(ErrorCode, String),
}

impl ProcessEnd {
    /// Returns every end but exit code 0 as an error.
    pub(crate) fn success(self) -> Result<(), Self> {
        if self == Self::Exited(0) { Ok(()) } else { Err(self) }
    }
}

/// A deployment before it is confirmed or rolled back.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) end: ProcessEnd,
    pub(crate) phase: Phase,
    /// The state of the host right before anything changed; if nothing did, when the run began.
    pub(crate) before: SystemSnapshot,
    pub(crate) after: SystemSnapshot,
    /// The store path of the system that the run built or fetched, if known.
    pub(crate) built: Option<String>,
    /// Whether the activation was reached, which may have touched everything. Earlier steps touch nothing.
    pub(crate) activated: bool,
    /// The end of the output.
    pub(crate) lines: Vec<String>,
}

pub(crate) fn judge(spec: &RunSpec, attempt: &Attempt) -> Verdict {
    let Attempt { end, phase, lines, .. } = attempt;
    let verdict = match end {
        ProcessEnd::Exited(0) => success(spec.action, attempt),
        // The shell's exit codes for a child that HUP, INT, KILL or TERM ended.
        ProcessEnd::Exited(code @ (129 | 130 | 137 | 143)) => interrupted(code - 128, spec.doing(*phase)),
        // A build may print anything, such as the output of an activation in a test.
        ProcessEnd::Exited(code) if !attempt.activated => build_failure(spec, *code, lines),
        ProcessEnd::Exited(code) if needs_reboot(*code, attempt) => reboot(spec.action, attempt),
        ProcessEnd::Exited(code) if is_reached(*code, attempt) => activation_failure(spec, *code, attempt),
        ProcessEnd::Exited(code) => build_failure(spec, *code, lines),
        ProcessEnd::Killed(signal) | ProcessEnd::Stopped(signal) => interrupted(*signal, spec.doing(*phase)),
        ProcessEnd::TimedOut => timed_out(spec, *phase),
        ProcessEnd::NotStarted(why) if *phase == Phase::Activate => failed(why.clone()),
        ProcessEnd::NotStarted(why) => {
            Verdict::failed(ErrorCode::BuildFailed, format!("{why}: it must be on the PATH of the listener"))
        }
        ProcessEnd::Refused(error, why) => Verdict::failed(error.clone(), why.as_str()),
    };
    let half_done =
        matches!(verdict.error, Some(ErrorCode::ActivationFailed | ErrorCode::Timeout | ErrorCode::Interrupted));
    match next_boot(attempt) {
        // With a confirmation timeout the host rolls back, and resets the profile.
        Some(boots) if half_done && spec.confirm_timeout_ms.is_none() => verdict.with(&boots),
        _ => verdict,
    }
}

fn interrupted(signal: i32, doing: &str) -> Verdict {
    Verdict::failed(ErrorCode::Interrupted, format!("signal {signal} ended the run while {doing}"))
}

fn timed_out(spec: &RunSpec, phase: Phase) -> Verdict {
    let (limit, doing) = (spec.settings.timeout.as_secs(), spec.doing(phase));
    let half_done = if phase == Phase::Activate { "; the system may be half switched" } else { "" };
    Verdict::failed(ErrorCode::Timeout, format!("not finished after {limit} s, and stopped while {doing}{half_done}"))
}

pub(crate) fn may_have_changed(verdict: &Verdict, attempt: &Attempt) -> bool {
    let Attempt { phase, before, after, activated, lines, .. } = attempt;
    let moved = before.current_path() != after.current_path() || before.profile_path() != after.profile_path();
    let judged = matches!(verdict.error, Some(ErrorCode::ActivationFailed | ErrorCode::VerifyFailed));
    let began = *phase == Phase::Activate || judged;
    // Nothing moves before the boot loader is installed.
    *activated && (moved || began && output::boot_loader(lines) != Some(BootLoader::Old))
}

fn success(action: Action, attempt: &Attempt) -> Verdict {
    let notes = match verify(action, attempt) {
        Ok(notes) => notes,
        Err(difference) => return Verdict::failed(ErrorCode::VerifyFailed, difference),
    };
    let failed_units = units_that_failed(attempt).unwrap_or_default();
    let since = (!failed_units.is_empty()).then(|| format!("failed since: {}", failed_units.join(" ")));
    let message = [Some(done(action, &attempt.after)), left_specialisation(action, attempt), notes, since];
    let message = message.into_iter().flatten().collect::<Vec<_>>().join("; ");
    Verdict { reboot_required: takes_effect_later(action, &attempt.after), failed_units, ..Verdict::completed(message) }
}

fn done(action: Action, after: &SystemSnapshot) -> String {
    match (action, after.generation()) {
        (Action::Switch, Some(generation)) => format!("switched to generation {generation}"),
        (Action::Boot, Some(generation)) => format!("generation {generation} is the one for the next boot"),
        (Action::Switch | Action::Boot | Action::DryActivate, _) => format!("{action} completed"),
        (Action::Test, _) => "activated until the next boot".to_owned(),
        (Action::Fetch, _) => "fetched".to_owned(),
    }
}

/// Describes the specialisation that ran before a switch, which always activates the system itself.
fn left_specialisation(action: Action, Attempt { before, after, .. }: &Attempt) -> Option<String> {
    let specialisation = before.specialisation.as_ref().filter(|_| after.specialisation.is_none())?;
    action.activates().then(|| format!("the specialisation {specialisation} ran before, and does not any more"))
}

/// Compares the host with the built system. A difference is an error; a missing comparison at most a note.
///
/// The built system is the one that `nixos-rebuild-ng` names at its end, or the target of the link `result`. If neither
/// is known, the profile tells after `switch` and `boot`: both programs set it first. A host without a profile and a
/// current system is not NixOS, and is not compared.
fn verify(action: Action, Attempt { before, after, built, .. }: &Attempt) -> Result<Option<String>, String> {
    if !(before.is_nixos() || after.is_nixos()) {
        return Ok(None);
    }
    let (built, profile) = (built.as_deref(), after.profile_path());
    if action.sets_next_boot() {
        let profile = profile.ok_or("there is no system profile after the run")?;
        if let Some(built) = built.filter(|&built| built != profile) {
            return Err(format!("{built} was built, and the system profile points at {profile}"));
        }
    }
    if !action.activates() {
        return Ok(None);
    }
    let activated = built.or(profile.filter(|_| action.sets_next_boot()));
    match (activated, after.current_path()) {
        (Some(activated), Some(current)) if activated == current => Ok(None),
        (_, None) => Err("/run/current-system is gone after the run".to_owned()),
        (Some(activated), Some(current)) => Err(format!("{activated} was built, and /run/current-system is {current}")),
        (None, current) if current != before.current_path() => Ok(None),
        (None, Some(_)) => {
            Ok(Some("what ran before runs, and it is not known whether that is what was built".to_owned()))
        }
    }
}

/// Whether a part of the deployment waits for the next boot.
fn takes_effect_later(action: Action, after: &SystemSnapshot) -> Option<bool> {
    match action {
        Action::Switch | Action::Test => Some(after.current.as_ref()?.kernel != after.booted.as_ref()?.kernel),
        Action::Boot => after.reboot_required(),
        Action::DryActivate | Action::Fetch => None,
    }
}

/// Returns the units that have failed now and had not before; `None` without systemd.
fn units_that_failed(Attempt { before, after, lines, .. }: &Attempt) -> Option<Vec<String>> {
    let (before, mut now) = (before.failed_units.as_ref()?, after.failed_units.clone()?);
    // The list lacks units that are just being restarted, and those whose dependencies failed.
    now.extend(output::failed_units(lines));
    now.extend(output::failed_jobs(lines));
    Some(now.difference(before).cloned().collect())
}

/// Whether an ambiguous exit code means that the system needs a reboot.
fn needs_reboot(code: i32, attempt: &Attempt) -> bool {
    let said = || attempt.lines.iter().any(|line| output::needs_reboot(line));
    match code {
        EXIT_NEEDS_REBOOT => is_reached(code, attempt) || said(),
        EXIT_DIED => said(),
        _ => false,
    }
}

/// Judges a system that takes effect only with the next boot.
fn reboot(action: Action, attempt: &Attempt) -> Verdict {
    let verdict = match action {
        Action::Boot => success(action, attempt),
        _ => failed(format!("the new system takes effect only after a reboot: {REBOOT}")),
    };
    Verdict { reboot_required: Some(true), ..verdict }
}

/// Whether the activation failed, even before it changed anything. If the output does not tell, the moved profile does.
fn is_reached(code: i32, Attempt { phase, before, after, built, lines, .. }: &Attempt) -> bool {
    let built = built.as_deref();
    let boots_next = built.is_some() && after.profile_path() == built && before.profile_path() != built;
    *phase == Phase::Activate
        || code == EXIT_UNITS_FAILED
        || boots_next
        || lines.iter().any(|line| output::tells_failed_activation(line))
}

/// Judges an activation that ended with this code, which is not 0.
fn activation_failure(spec: &RunSpec, code: i32, attempt: &Attempt) -> Verdict {
    let lines = &attempt.lines;
    if let Some(check) = output::refusal(lines) {
        // The checks refuse `boot` as well, so it is no way around them.
        let advice = if spec.action == Action::Boot { String::new() } else { format!(": {REBOOT}") };
        return failed(format!("{check}{advice}"));
    }
    if let Some(line) = output::about_another_activation(lines) {
        // `nixos-rebuild` sets the profile before it notices.
        let is_untouched = attempt.before.profile_path() == attempt.after.profile_path();
        let error = if is_untouched { ErrorCode::AlreadyRunning } else { ErrorCode::ActivationFailed };
        let remedy = output::taken_unit(line)
            .map(|unit| format!("; if none is, `systemctl stop {unit}; systemctl reset-failed {unit}` helps"));
        let (line, remedy) = (line.trim_end_matches('.'), remedy.unwrap_or_default());
        return Verdict::failed(error, format!("another activation is in progress: {line}{remedy}"));
    }
    let death = (code == EXIT_DIED).then(|| output::cause_of_death(lines)).flatten();
    let script = output::about_boot_loader(lines).or_else(|| output::about_failed_script(lines).map(str::to_owned));
    let failed_units = units_that_failed(attempt).unwrap_or_default();
    let units = listed("the following units failed", &failed_units);
    let users = output::user_failures(lines);
    let of_users = listed("user units failed", &users);
    let held = of_users.clone().filter(|_| spec.settings.user_units == UserUnits::Fail);
    let reasons: Vec<String> = [death.or(script), units, held].into_iter().flatten().collect();
    if !reasons.is_empty() {
        return Verdict { failed_units, ..failed(reasons.join("; ")) };
    }
    match of_users.or_else(|| old_failures(attempt)) {
        Some(note) => success(spec.action, attempt).with(&note),
        None => Verdict { failed_units: output::failed_units(lines), ..failed(unexplained(code, lines)) },
    }
}

fn listed(what: &str, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
}

/// Returns a note if all named units had failed before. They explain the exit code, which is then no failure.
fn old_failures(Attempt { before, lines, .. }: &Attempt) -> Option<String> {
    let before = before.failed_units.as_ref()?;
    let named = output::failed_units(lines);
    let are_old = !named.is_empty() && named.iter().all(|unit| before.contains(unit));
    are_old.then(|| format!("had failed before: {}", named.join(" ")))
}

fn unexplained(code: i32, lines: &[String]) -> String {
    let line = output::about_failed_units(lines).or_else(|| output::essential(lines));
    match line {
        Some(line) if code == EXIT_UNITS_FAILED && output::about_failed_units(lines).is_none() => {
            format!(
                "switch-to-configuration ended with code {code} and named no unit that failed; its last line: {line}"
            )
        }
        // A line about progress is not the cause.
        Some(line) if output::begins_activation(line) => format!("ended with code {code} after: {line}"),
        Some(line) => line.to_owned(),
        None => format!("the activation ended with code {code}"),
    }
}

fn failed(message: String) -> Verdict {
    Verdict::failed(ErrorCode::ActivationFailed, message)
}

fn build_failure(spec: &RunSpec, code: i32, lines: &[String]) -> Verdict {
    let revision = &spec.revision;
    if let Some(complaint) = output::git_complaint(lines) {
        return if complaint.contains("couldn't find remote ref") || complaint.contains("not our ref") {
            let message = format!("{revision} is no branch, tag or commit that the server of the flake has");
            Verdict::failed(ErrorCode::InvalidRevision, message)
        } else {
            Verdict::failed(ErrorCode::BuildFailed, format!("git: {complaint}"))
        };
    }
    let not_there = |line: &String| line.contains("does not provide attribute") && line.contains("nixosConfigurations");
    let message = if lines.iter().any(not_there) {
        format!("{} is not in nixosConfigurations of the flake at {revision}", spec.settings.configuration())
    } else if let Some(line) = output::essential(lines) {
        line.to_owned()
    } else {
        format!("nixos-rebuild ended with code {code} and said nothing")
    };
    Verdict::failed(ErrorCode::BuildFailed, message)
}

/// Describes which system the next boot starts after a failure; `None` if the profile is unchanged.
///
/// `nixos-rebuild` sets the profile first; `switch-to-configuration` installs the boot loader later, after its lock and
/// its checks. Until then the host boots the old system.
fn next_boot(attempt: &Attempt) -> Option<String> {
    let Attempt { before, after, built, .. } = attempt;
    let moved = before.profile_path() != after.profile_path();
    // This run's output says nothing about a profile that somebody else set.
    let ours = built.as_deref().is_none_or(|built| after.profile_path() == Some(built));
    let generation = after.generation().filter(|_| moved && ours)?;
    let profile = format!("the profile points at generation {generation}");
    Some(match boot_loader(attempt) {
        Some(BootLoader::New) => format!("the next boot starts generation {generation}"),
        Some(BootLoader::Old) => {
            let old = match before.generation() {
                Some(old) if before.profile_path() != after.current_path() => format!("generation {old}"),
                _ => "what runs now".to_owned(),
            };
            format!("{profile}, the boot loader does not: a reboot starts {old}")
        }
        None => format!("{profile}, and it is not known whether the boot loader does"),
    })
}

/// Some exit codes come only after the boot loader was installed.
fn boot_loader(Attempt { end, lines, .. }: &Attempt) -> Option<BootLoader> {
    let by_code = matches!(end, ProcessEnd::Exited(EXIT_UNITS_FAILED | EXIT_NEEDS_REBOOT)).then_some(BootLoader::New);
    output::boot_loader(lines).or(by_code)
}

#[cfg(test)]
mod tests;
