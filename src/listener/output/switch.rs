//! Reads the output of `switch-to-configuration`, the program that activates a system. Pure.

use super::{phase_of, without_label};

/// The words before the names of failed units of the system, and of a user.
const UNITS_FAILED: &str = "the following units failed:";
const USER_UNITS_FAILED: &str = "the following user units failed:";

/// The words before the user's name when a user's activation begins, and when it failed.
const USER_BEGINS: &str = "reloading user units for ";
const USER_FAILED: &str = "user activation for ";

/// The user's unit that runs the user's activation. If it cannot be started, it looks like a unit of the system.
const USER_ACTIVATION: &str = "nixos-activation.service";

const LOCKED: &str = "Could not acquire lock";

/// Part of the pre-switch check's message about changes that a running system cannot take.
const CRITICAL: &str = "changes to critical components of the system";

/// The message when the boot loader could not be installed.
const NO_BOOT_LOADER: &str = "Failed to install bootloader";

/// Part of systemd's message about a unit whose name is taken.
const TAKEN: &str = " was already loaded or has a fragment file";

/// Lines that come after the boot loader was installed for the new system.
const AFTER_THE_BOOT_LOADER: [&str; 9] = [
    "stopping the following units",
    "NOT restarting the following changed units",
    "activating the configuration",
    "Failed to run activate script",
    "setting up /etc",
    "reloading user units for ",
    "reloading the following units",
    "restarting the following units",
    "starting the following units",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::listener) enum BootLoader {
    /// It starts the new system.
    New,
    /// It starts the old system: the activation ended before the boot loader was installed.
    Old,
}

pub(in crate::listener) fn about_failed_units(lines: &[String]) -> Option<&str> {
    lines.iter().rev().find(|line| line.contains(UNITS_FAILED)).map(|line| without_label(line))
}

pub(in crate::listener) fn failed_units(lines: &[String]) -> Vec<String> {
    names_after(UNITS_FAILED, about_failed_units(lines).unwrap_or_default())
}

fn names_after(words: &str, line: &str) -> Vec<String> {
    let names = line.split_once(words).map(|(_, names)| names).unwrap_or_default();
    names.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns the units whose systemd job failed. If only a dependency failed, the list of failed units lacks them.
pub(in crate::listener) fn failed_jobs(lines: &[String]) -> Vec<String> {
    lines.iter().filter_map(|line| job_in(line)).filter(|&unit| unit != USER_ACTIVATION).map(str::to_owned).collect()
}

/// Returns the unit in a line like `Failed to start dns.service`, which a colon and a reason may follow.
fn job_in(line: &str) -> Option<&str> {
    let (verb, rest) = line.strip_prefix("Failed to ")?.split_once(' ')?;
    let unit = rest.split_once(": ").map_or(rest, |(unit, _)| unit);
    let is_unit = unit.contains('.') && !unit.contains(char::is_whitespace);
    (is_unit && ["start", "restart", "reload", "stop"].contains(&verb)).then_some(unit)
}

/// Returns the failures of users' services: `dbus.service of alice`, or `the activation of alice` if no unit is named.
pub(in crate::listener) fn user_failures(lines: &[String]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut units = Vec::new();
    for line in lines {
        if line.starts_with(USER_BEGINS) {
            units.clear();
        } else if line.contains(USER_UNITS_FAILED) {
            units = names_after(USER_UNITS_FAILED, line);
        } else if let Some(user) = user_in(line) {
            let named = units.drain(..).map(|unit| format!("{unit} of {user}"));
            let before = failures.len();
            failures.extend(named);
            if failures.len() == before {
                failures.push(format!("the activation of {user}"));
            }
        }
    }
    // The line that names the user may be lost.
    failures.extend(units);
    failures
}

/// Returns the user in a line like `warning: user activation for alice failed`.
fn user_in(line: &str) -> Option<&str> {
    without_label(line).strip_prefix(USER_FAILED)?.strip_suffix(" failed")
}

/// Returns the line about a failed activation script. The exit code does not show it if units failed too.
pub(in crate::listener) fn about_failed_script(lines: &[String]) -> Option<&str> {
    let tells = |line: &&String| {
        line.starts_with("Activation script snippet ") && line.contains(" failed")
            || line.starts_with("Failed to run activate script")
    };
    lines.iter().find(tells).map(String::as_str)
}

/// Returns that the boot loader could not be installed, with its last words: usually a full disk.
pub(in crate::listener) fn about_boot_loader(lines: &[String]) -> Option<String> {
    let failed = lines.iter().position(|line| line.starts_with(NO_BOOT_LOADER))?;
    let why = lines.get(..failed).unwrap_or_default().last().filter(|line| phase_of(line).is_none());
    Some(why.map_or_else(|| NO_BOOT_LOADER.to_owned(), |why| format!("{NO_BOOT_LOADER}: {}", why.trim())))
}

/// Returns the error that ended the program, and its causes in order. Errors of its processes for users do not count.
pub(in crate::listener) fn cause_of_death(lines: &[String]) -> Option<String> {
    let after_users = lines.iter().rposition(|line| user_in(line).is_some()).map_or(0, |last| last + 1);
    let lines = lines.get(after_users..).unwrap_or_default();
    let dies = lines.iter().rposition(|line| line.starts_with("Error: "))?;
    let mut said = lines.get(dies..).unwrap_or_default().iter().map(String::as_str);
    let what = said.next()?.strip_prefix("Error: ")?.trim();
    let mut parts = vec![what];
    let mut causes = said.skip_while(|line| line.starts_with(' ')).peekable();
    if causes.next_if(|line| line.trim() == "Caused by:").is_some() {
        parts.extend(causes.take_while(|line| line.starts_with(' ')).map(without_number));
    }
    Some(parts.join(": "))
}

fn without_number(line: &str) -> &str {
    let cause = line.trim();
    match cause.split_once(": ") {
        Some((number, cause)) if number.bytes().all(|byte| byte.is_ascii_digit()) => cause,
        _ => cause,
    }
}

pub(in crate::listener) fn is_locked_out(lines: &[String]) -> bool {
    lines.iter().any(|line| without_label(line) == LOCKED)
}

/// Returns the name of the activation's unit, if another unit has taken it.
pub(in crate::listener) fn taken_unit(lines: &[String]) -> Option<&str> {
    let before = lines.iter().find_map(|line| line.split_once(TAKEN))?.0;
    before.split_whitespace().next_back()
}

/// Whether a check that precedes all changes prints this line.
pub(in crate::listener) fn refuses(line: &str) -> bool {
    line.starts_with("Pre-switch check") || line.contains(CRITICAL)
}

/// Returns why a system refuses to replace the running one.
pub(in crate::listener) fn refusal(lines: &[String]) -> Option<String> {
    let refusing = lines.iter().position(|line| refuses(line))?;
    let said = lines.get(refusing..).unwrap_or_default();
    let changes = said.iter().map(|line| line.trim()).take_while(|line| !line.starts_with("Switching into"));
    let changes: Vec<&str> = changes.filter(|line| line.contains(" -> ")).collect();
    if changes.is_empty() {
        return said.iter().find(|line| line.starts_with("Pre-switch check")).or(said.first()).cloned();
    }
    Some(format!("critical components of the system would change ({})", changes.join(", ")))
}

/// Whether this line says that the activation ended before it changed anything.
pub(in crate::listener) fn changed_nothing(line: &str) -> bool {
    refuses(line) || without_label(line) == LOCKED || line.contains(TAKEN)
}

/// Whether this line says that the system can only be booted, such as when its `init` differs.
pub(in crate::listener) fn needs_reboot(line: &str) -> bool {
    line.contains("until you reboot")
}

/// Returns the system that the boot loader starts, if the output tells.
pub(in crate::listener) fn boot_loader(lines: &[String]) -> Option<BootLoader> {
    let is_before = |line: &String| changed_nothing(line) || line.starts_with(NO_BOOT_LOADER);
    let is_after = |line: &String| {
        AFTER_THE_BOOT_LOADER.iter().any(|start| line.starts_with(start))
            || line.contains(UNITS_FAILED)
            || needs_reboot(line)
    };
    match (lines.iter().any(is_before), lines.iter().any(is_after)) {
        (true, false) => Some(BootLoader::Old),
        (false, true) => Some(BootLoader::New),
        // Both happen only if other programs print such lines, too.
        (true, true) | (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::output::clean_lines;

    #[test]
    fn units_are_told_from_jobs_users_and_swaps() {
        let lines = clean_lines(
            "Failed to start dns.service\nFailed to restart web.service: Unit web.service is masked.\n\
             Failed to reload user unit dbus-broker.service\nFailed to restart nixos-activation.service: x\n\
             Failed to stop swapping to /dev/sda2: x\nFailed to run activate script\n\
             nginx: Failed to start other.service\nwarning: the following units failed: a.service, b.mount\n",
        );
        assert_eq!(failed_jobs(&lines), ["dns.service", "web.service"]);
        assert_eq!(failed_units(&lines), ["a.service", "b.mount"]);
    }

    #[test]
    fn the_failures_of_users_are_theirs() {
        let failures = |output: &str| user_failures(&clean_lines(output)).join(", ");
        let alice = "reloading user units for alice...\nwarning: the following user units failed: a.service, b.service\n\
                     See `systemctl --user status a.service b.service` for details.\nwarning: user activation for alice failed\n";
        let bob = "reloading user units for bob...\nError: Failed to open dbus connection\nwarning: user activation for bob failed\n";
        insta::assert_snapshot!(failures(alice), @"a.service of alice, b.service of alice");
        insta::assert_snapshot!(failures(&format!("{alice}{bob}")), @"a.service of alice, b.service of alice, the activation of bob");
        insta::assert_snapshot!(failures(&format!("{bob}{alice}")), @"the activation of bob, a.service of alice, b.service of alice");
        insta::assert_snapshot!(failures("warning: the following user units failed: a.service"), @"a.service");
        insta::assert_snapshot!(failures("reloading user units for alice...\nwarning: the following units failed: a.service"), @"");
    }

    #[test]
    fn a_death_has_all_its_causes() {
        let died = |output: &str| cause_of_death(&clean_lines(output)).unwrap_or_default();
        insta::assert_snapshot!(died("Error: Failed to reset failed units\n\nCaused by:\n    Connection timed out\n"), @"Failed to reset failed units: Connection timed out");
        insta::assert_snapshot!(died("x\nError: Failed to read unit\n\nCaused by:\n    0: Failed to open /etc/x\n    1: No such file or directory (os error 2)\nCommand 'x' returned non-zero exit status 1."), @"Failed to read unit: Failed to open /etc/x: No such file or directory (os error 2)");
        insta::assert_snapshot!(died("Error: invalid action x\nnext"), @"invalid action x");
        // The death of a user's process does not count.
        insta::assert_snapshot!(died("Error: Failed to open dbus connection\n\nCaused by:\n    x\nwarning: user activation for bob failed\n"), @"");
    }

    #[test]
    fn the_boot_loader_is_known_by_what_came_behind_it() {
        let known = |output: &str| boot_loader(&clean_lines(output));
        assert_eq!(known("updating GRUB 2 menu..."), None);
        assert_eq!(known("updating GRUB 2 menu...\nstopping the following units: x"), Some(BootLoader::New));
        assert_eq!(known("Pre-switch checks failed"), Some(BootLoader::Old));
        assert_eq!(known("cp: No space left on device\nFailed to install bootloader"), Some(BootLoader::Old));
        assert_eq!(known("error: Could not acquire lock"), Some(BootLoader::Old));
        assert_eq!(known("Error: Failed to parse os-release"), None);
    }

    #[test]
    fn a_unit_that_is_taken_is_named() {
        let line = "Failed to start transient service unit: Unit nixos-rebuild-switch-to-configuration.service was already loaded or has a fragment file.";
        assert_eq!(taken_unit(&clean_lines(line)), Some("nixos-rebuild-switch-to-configuration.service"));
    }
}
