//! Reads the output of git, Nix and `nixos-rebuild`. Pure.

use crate::protocol::ErrorCode;
use crate::text::safe;

/// The first words of lines that `switch-to-configuration` prints as it changes the system. The boot loader comes first.
const CHANGES: [&str; 7] = [
    "stopping the following units",
    "NOT restarting the following changed units",
    "activating the configuration",
    "setting up /etc",
    "restarting the following units",
    "reloading the following units",
    "starting the following units",
];

/// The first words of other lines of an activation.
const ACTIVATION_LINES: [&str; 3] =
    ["updating GRUB", "would activate the configuration", "would stop the following units"];

/// The bash `nixos-rebuild`'s message about a failed activation.
const SWITCHING_FAILED: &str = "error(s) occurred while switching to the new configuration";

/// git's message when a server refuses a commit by its id, as no branch or tag points at it any more.
const UNADVERTISED: &str = "Server does not allow request for unadvertised object";

/// Nix' messages about a path with an untrusted signature or the wrong content. No store path contains spaces.
const DISTRUST: [&str; 7] = [
    "not signed by any of the keys",
    "valid signature",
    "signature by a trusted key",
    "hash mismatch",
    "bad archive",
    " open archive (",
    "while decompressing",
];

/// The words before the names of failed units of the system, and of a user.
const UNITS_FAILED_PREFIX: &str = "the following units failed:";
const USER_UNITS_FAILED_PREFIX: &str = "the following user units failed:";

/// The words before the user's name when a user's activation begins.
const USER_BEGINS: &str = "reloading user units for ";

/// The message when the activation script failed, which runs once the boot loader is installed.
const ACTIVATION_FAILED: &str = "Failed to run activate script";

/// The message when the boot loader could not be installed.
const NO_BOOT_LOADER: &str = "Failed to install bootloader";

/// Part of systemd's message about a unit whose name is taken.
const TAKEN: &str = "was already loaded or has a fragment file";

/// The longest part of a line that is read, in bytes.
pub(super) const MAX_LINE_BYTES: usize = 2_048;

/// Whether an activation prints this line.
pub(super) fn begins_activation(line: &str) -> bool {
    let line = line.trim_start();
    CHANGES.iter().chain(&ACTIVATION_LINES).any(|start| line.starts_with(start))
}

pub(super) fn tells_unadvertised(lines: &[String]) -> bool {
    lines.iter().any(|line| line.contains(UNADVERTISED))
}

/// Returns git's first complaint: later ones only follow from it. Nix ends with the same line in all cases.
pub(super) fn git_complaint(lines: &[String]) -> Option<String> {
    let is_one = |line: &String| line.trim_start().starts_with("fatal: ") || line.contains(UNADVERTISED);
    let at = lines.iter().position(is_one)?;
    let line = lines.get(at)?.trim();
    let complaint = line.split_once(": ").map_or(line, |(_, text)| text);
    // ssh and the server give the reason before git does. Lines that end with `...` report progress.
    let reason = lines.get(..at)?.last().filter(|line| !line.ends_with("..."));
    Some(match reason.filter(|_| complaint.starts_with("Could not read from remote repository")) {
        Some(why) => format!("{} ({})", why.trim(), complaint.trim_end_matches('.')),
        None => complaint.to_owned(),
    })
}

/// Returns why Nix could not fetch a path: no signature or hash is right, or no cache has all of it.
pub(super) fn refused_fetch(lines: &[String]) -> (ErrorCode, String) {
    let complaints = || {
        lines.iter().map(|line| line.trim()).filter(|line| line.starts_with("error:") || line.starts_with("warning:"))
    };
    let distrust = complaints().find(|line| DISTRUST.iter().any(|words| line.contains(words)));
    if let Some(line) = distrust {
        return (ErrorCode::Untrusted, without_label(line).to_owned());
    }
    let unknown = lines.iter().skip_while(|line| !line.contains("don't know how to build these paths")).nth(1);
    let gone = complaints().find(|line| line.contains("does not exist in binary cache"));
    let why = match (gone, unknown) {
        (Some(line), _) => without_label(line).to_owned(),
        (None, Some(path)) => format!("no cache of this host has {}", path.trim()),
        (None, None) => essential(lines).unwrap_or("nix-store failed and said nothing").to_owned(),
    };
    (ErrorCode::NotAvailable, why)
}

/// Returns the store path that `nixos-rebuild-ng` prints at its end. The bash program prints none.
pub(super) fn built_system(lines: &[String]) -> Option<&str> {
    let named = lines.iter().rev().find_map(|line| line.strip_prefix("Done. The new configuration is "));
    named.filter(|path| path.starts_with("/nix/store/"))
}

/// Whether `nixos-rebuild` says in this line that `switch-to-configuration` failed.
pub(super) fn tells_failed_activation(line: &str) -> bool {
    line.contains(SWITCHING_FAILED)
        || line.contains("switch-to-configuration") && line.contains("returned non-zero exit status")
        || changed_nothing(line)
}

/// Returns the line with the cause: the first failed build, since later errors only follow from it; else the last
/// error, which Nix prints after the trace that leads to it; else the last line.
pub(super) fn essential(lines: &[String]) -> Option<&str> {
    let mut errors = lines.iter().map(|line| line.trim()).filter(|line| tells_something(line));
    let builds = ["error: builder for ", "error: Cannot build ", "error: hash mismatch "];
    let failed_build = errors.clone().find(|line| builds.iter().any(|start| line.starts_with(start)));
    let mut others = lines.iter().map(|line| line.trim()).filter(|line| !only_repeats(line));
    failed_build.or_else(|| errors.next_back()).or_else(|| others.next_back()).map(without_label)
}

fn tells_something(line: &str) -> bool {
    line.strip_prefix("error:").is_some_and(|text| !text.trim().is_empty()) && !only_repeats(line)
}

/// Whether `nixos-rebuild` only says in this line that one of its commands failed.
fn only_repeats(line: &str) -> bool {
    without_label(line).starts_with("Command '") || without_label(line).starts_with(SWITCHING_FAILED)
}

/// Removes the label, which repeats the status.
fn without_label(line: &str) -> &str {
    let text = line.strip_prefix("error:").or_else(|| line.strip_prefix("warning:"));
    text.unwrap_or(line).trim()
}

/// Returns the output's lines, safe to show and send: without terminal sequences, secrets in URLs and empty lines.
pub(super) fn clean_lines(output: &str) -> Vec<String> {
    // Progress displays overwrite their line with a carriage return: only the last version counts.
    let shown = output.lines().map(|line| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default());
    shown.map(clean).filter(|line| !line.trim().is_empty()).collect()
}

/// Makes one line safe to show and send.
pub(super) fn clean(line: &str) -> String {
    let mut plain = without_passwords(&safe(line));
    plain.truncate(plain.floor_char_boundary(MAX_LINE_BYTES));
    plain.truncate(plain.trim_end().len());
    plain
}

/// Removes the credentials of URLs: git repeats the whole URL when it cannot reach it.
fn without_passwords(line: &str) -> String {
    let mut parts = line.split("://");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c == '/' || c.is_whitespace() || matches!(c, '\'' | '"')).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        plain.push_str("://");
        plain.push_str(authority.rsplit('@').next().unwrap_or_default());
        plain.push_str(rest);
    }
    plain
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BootLoader {
    /// It starts the new system.
    New,
    /// It starts the old system: the activation ended before the boot loader was installed.
    Old,
}

pub(super) fn about_failed_units(lines: &[String]) -> Option<&str> {
    lines.iter().rev().find(|line| line.contains(UNITS_FAILED_PREFIX)).map(|line| without_label(line))
}

pub(super) fn failed_units(lines: &[String]) -> Vec<String> {
    names_after(UNITS_FAILED_PREFIX, about_failed_units(lines).unwrap_or_default())
}

fn names_after(words: &str, line: &str) -> Vec<String> {
    let names = line.split_once(words).map(|(_, names)| names).unwrap_or_default();
    names.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns the units whose systemd job failed. If only a dependency failed, the list of failed units lacks them. The unit
/// of a user's activation only looks like one of the system.
pub(super) fn failed_jobs(lines: &[String]) -> Vec<String> {
    let units = lines.iter().filter_map(|line| job_in(line)).filter(|&unit| unit != "nixos-activation.service");
    units.map(str::to_owned).collect()
}

/// Returns the unit in a line like `Failed to start dns.service`, which a colon and a reason may follow.
fn job_in(line: &str) -> Option<&str> {
    let (verb, rest) = line.strip_prefix("Failed to ")?.split_once(' ')?;
    let unit = rest.split_once(": ").map_or(rest, |(unit, _)| unit);
    let is_unit = unit.contains('.') && !unit.contains(char::is_whitespace);
    (is_unit && ["start", "restart", "reload", "stop"].contains(&verb)).then_some(unit)
}

/// Returns the failures of users' services: `dbus.service of alice`, or `the activation of alice` if no unit is named.
pub(super) fn user_failures(lines: &[String]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut units = Vec::new();
    for line in lines {
        if line.starts_with(USER_BEGINS) {
            units.clear();
        } else if line.contains(USER_UNITS_FAILED_PREFIX) {
            units = names_after(USER_UNITS_FAILED_PREFIX, line);
        } else if let Some(user) = user_in(line) {
            if units.is_empty() {
                units.push("the activation".to_owned());
            }
            failures.extend(units.drain(..).map(|unit| format!("{unit} of {user}")));
        }
    }
    // The line that names the user may be lost.
    failures.extend(units);
    failures
}

/// Returns the user in a line like `warning: user activation for alice failed`.
fn user_in(line: &str) -> Option<&str> {
    without_label(line).strip_prefix("user activation for ")?.strip_suffix(" failed")
}

/// Returns the line about a failed activation script. The exit code does not show it if units failed too.
pub(super) fn about_failed_script(lines: &[String]) -> Option<&str> {
    let tells = |line: &&String| {
        line.starts_with("Activation script snippet ") && line.contains(" failed")
            || line.starts_with(ACTIVATION_FAILED)
    };
    lines.iter().find(tells).map(String::as_str)
}

/// Returns that the boot loader could not be installed, with its last words: usually a full disk.
pub(super) fn about_boot_loader(lines: &[String]) -> Option<String> {
    let failed = lines.iter().position(|line| line.starts_with(NO_BOOT_LOADER))?;
    let why = lines.get(..failed).unwrap_or_default().last().filter(|line| !begins_activation(line));
    Some(why.map_or_else(|| NO_BOOT_LOADER.to_owned(), |why| format!("{NO_BOOT_LOADER}: {}", why.trim())))
}

/// Returns the error that ended the program, and its causes in order. Errors of its processes for users do not count.
pub(super) fn cause_of_death(lines: &[String]) -> Option<String> {
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

/// Returns the line about another activation, which keeps this one from beginning.
pub(super) fn about_another_activation(lines: &[String]) -> Option<&str> {
    lines.iter().map(|line| without_label(line)).find(|line| locks_out(line))
}

/// Whether the lock of `switch-to-configuration` or the name of the activation's unit is taken.
fn locks_out(line: &str) -> bool {
    without_label(line) == "Could not acquire lock" || line.contains(TAKEN)
}

/// Returns the unit in this line whose name is taken, if it is about one.
pub(super) fn taken_unit(line: &str) -> Option<&str> {
    line.split_once(TAKEN)?.0.split_whitespace().next_back()
}

/// Whether a check that precedes all changes prints this line.
pub(super) fn refuses(line: &str) -> bool {
    line.starts_with("Pre-switch check") || line.contains("changes to critical components of the system")
}

/// Returns why a system refuses to replace the running one.
pub(super) fn refusal(lines: &[String]) -> Option<String> {
    let said = lines.get(lines.iter().position(|line| refuses(line))?..)?;
    let changes: Vec<&str> = said.iter().map(|line| line.trim()).filter(|line| line.contains(" -> ")).collect();
    if changes.is_empty() {
        return said.first().cloned();
    }
    Some(format!("critical components of the system would change ({})", changes.join(", ")))
}

/// Whether this line says that the activation ended before it changed anything.
pub(super) fn changed_nothing(line: &str) -> bool {
    refuses(line) || locks_out(line)
}

/// Whether this line says that the system can only be booted, such as when its `init` differs.
pub(super) fn needs_reboot(line: &str) -> bool {
    line.contains("until you reboot")
}

/// Returns the system that the boot loader starts, if the output tells.
pub(super) fn boot_loader(lines: &[String]) -> Option<BootLoader> {
    let is_before = |line: &String| changed_nothing(line) || line.starts_with(NO_BOOT_LOADER);
    let is_after = |line: &String| {
        CHANGES.iter().chain(&[ACTIVATION_FAILED, USER_BEGINS]).any(|start| line.starts_with(start))
            || line.contains(UNITS_FAILED_PREFIX)
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
mod tests;
