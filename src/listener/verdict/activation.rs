//! Why an activation failed, and whether what failed is held against it. Pure.

use super::success::{success, verify};
use super::units::units_that_failed;
use super::{Evidence, NEEDS_REBOOT, UNITS_FAILED, Verdict};
use crate::listener::output::{self, switch};
use crate::listener::run::{Spec, UserUnits};
use crate::protocol::{Action, ErrorCode, Phase};

/// What to do about a system that cannot take the place of the running one.
const REBOOT: &str = "deploy it with action = \"boot\", and reboot the host";

/// The exit code of a program that dies of an error. The older `nixos-rebuild` has no other one.
const DIED: i32 = 1;

/// Whether an exit code that can mean several things means that the system needs a reboot.
pub(super) fn needs_reboot(code: i32, phase: Phase, lines: &[String]) -> bool {
    let said = || lines.iter().any(|line| switch::needs_reboot(line));
    match code {
        NEEDS_REBOOT => is_reached(code, phase, lines) || said(),
        DIED => said(),
        _ => false,
    }
}

/// The system takes effect only with the next boot.
pub(super) fn reboot(action: Action, evidence: &Evidence<'_>) -> Verdict {
    let verdict = match action {
        Action::Boot => match verify(action, evidence) {
            Ok(_) => Verdict::completed("built, and takes effect with the next boot".to_owned()),
            Err(difference) => Verdict::failed(ErrorCode::VerifyFailed, difference),
        },
        _ => failed(format!("the new system takes effect only after a reboot: {REBOOT}")),
    };
    Verdict { reboot_required: Some(true), ..verdict }
}

/// Whether it was the activation that failed, also where it failed before it began to change anything.
pub(super) fn is_reached(code: i32, phase: Phase, lines: &[String]) -> bool {
    phase == Phase::Activate || code == UNITS_FAILED || lines.iter().any(|line| output::tells_failed_activation(line))
}

/// Judges an activation that ended with this code, which is not 0.
pub(super) fn failure(spec: &Spec, code: i32, evidence: &Evidence<'_>) -> Verdict {
    let lines = evidence.lines;
    if let Some(check) = switch::refusal(lines) {
        // The checks speak against this action too, so that it is no way around them.
        let advice = if spec.action == Action::Boot { String::new() } else { format!(": {REBOOT}") };
        return failed(format!("{check}{advice}"));
    }
    if switch::is_locked_out(lines) {
        return shut_out("another activation goes on, and holds the lock of switch-to-configuration", evidence);
    }
    // One that is over was cleared away before.
    if let Some(unit) = switch::taken_unit(lines) {
        let remedy = format!("`systemctl stop {unit}; systemctl reset-failed {unit}`");
        return shut_out(
            &format!("{unit} is there already: another activation goes on, or else {remedy} removes it"),
            evidence,
        );
    }
    let death = (code == DIED).then(|| switch::cause_of_death(lines)).flatten();
    let script = switch::about_boot_loader(lines).or_else(|| switch::about_failed_script(lines).map(str::to_owned));
    let failed_units = units_that_failed(evidence).unwrap_or_default();
    let units = listed("the following units failed", &failed_units);
    let users = switch::user_failures(lines);
    let of_users = listed("user units failed", &users);
    let held = of_users.clone().filter(|_| spec.user_units == UserUnits::Fail);
    let reasons: Vec<String> = [death.or(script), units, held].into_iter().flatten().collect();
    if !reasons.is_empty() {
        return Verdict { failed_units, ..failed(reasons.join("; ")) };
    }
    match of_users.or_else(|| old_failures(evidence)) {
        Some(note) => success(spec.action, evidence).with(&note),
        None => Verdict { failed_units: switch::failed_units(lines), ..failed(unexplained(code, lines)) },
    }
}

fn listed(what: &str, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
}

/// The units that are named as failed where all of them had failed before. An exit code that they explain is no failure
/// of the activation; one that nothing explains is.
fn old_failures(Evidence { before, lines, .. }: &Evidence<'_>) -> Option<String> {
    let before = before.failed_units.as_ref()?;
    let named = switch::failed_units(lines);
    let are_old = !named.is_empty() && named.iter().all(|unit| before.contains(unit));
    are_old.then(|| format!("failed before it already: {}", named.join(" ")))
}

/// Another activation went on. `nixos-rebuild` sets the profile before it finds out.
fn shut_out(why: &str, Evidence { before, after, .. }: &Evidence<'_>) -> Verdict {
    let untouched = before.profile_path() == after.profile_path();
    let error = if untouched { ErrorCode::AlreadyRunning } else { ErrorCode::ActivationFailed };
    Verdict::failed(error, why)
}

fn unexplained(code: i32, lines: &[String]) -> String {
    let line = switch::about_failed_units(lines).or_else(|| output::essential(lines));
    match line {
        Some(line) if code == UNITS_FAILED && switch::about_failed_units(lines).is_none() => {
            format!(
                "switch-to-configuration ended with code {code} and named no unit that failed; its last line: {line}"
            )
        }
        // It says what was at hand, not what went wrong.
        Some(line) if output::phase_of(line).is_some() => format!("ended with code {code} after: {line}"),
        Some(line) => line.to_owned(),
        None => format!("the activation ended with code {code}"),
    }
}

fn failed(message: String) -> Verdict {
    Verdict::failed(ErrorCode::ActivationFailed, message)
}
