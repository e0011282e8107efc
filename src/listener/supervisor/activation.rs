//! The activation unit that `nixos-rebuild` starts, which signals to the run's processes do not reach.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::process::Command;

use crate::listener::nixos::{ACTIVATION_UNIT, is_activation, run_program};
use crate::listener::output::built_system;
use crate::listener::run::OutputLog;
use crate::listener::run::verdict::ProcessEnd;
use crate::process_group::output_within;
use crate::protocol::Phase;

/// The journal's mark of messages about a unit that is being stopped; see `journalctl --catalog`.
const IS_STOPPED: &str = "MESSAGE_ID=de5b426a63be47a7b6ac3eaac82e2f6f";

/// The most lines of an activation that are read from the journal.
const LINES: &str = "--lines=5000";

/// The time that systemd may take to see the end of processes that it has killed.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// An activation of this run.
#[derive(Debug)]
pub(super) struct Activation {
    unit: String,
    /// The system to activate, if the command line names it.
    system: Option<String>,
}

/// Returns the system that the run was seen to switch to, or that `nixos-rebuild` names at its end.
pub(super) fn switched_to(activation: Option<&Activation>, log: &OutputLog) -> Option<String> {
    let seen = activation.and_then(|activation| activation.system.clone());
    seen.or_else(|| built_system(&log.lines()).map(str::to_owned))
}

/// Returns the activation that the process with this command line waits for. Each word ends with NUL.
pub(super) fn awaited_by(command_line: &[u8]) -> Option<Activation> {
    let mut words = command_line.split(|&byte| byte == 0).map(|word| std::str::from_utf8(word).unwrap_or_default());
    let program = Path::new(words.next()?).file_name()?.to_str()?;
    if !["systemd-run", "systemctl"].contains(&program) {
        return None;
    }
    let mut names = words.clone().map(|word| word.rsplit('=').next().unwrap_or(word)).map(full_name);
    let system = words.find_map(|word| word.strip_suffix("/bin/switch-to-configuration"));
    Some(Activation { unit: names.find(|name| is_activation(name))?, system: system.map(str::to_owned) })
}

/// Completes the name of a unit whose type may be omitted.
fn full_name(name: &str) -> String {
    if name.ends_with(".service") { name.to_owned() } else { format!("{name}.service") }
}

/// Returns the unit in `nixos-rebuild`'s message about a failed command.
fn named(output: &str) -> Option<String> {
    let (_, after) = output.rsplit_once(&format!("--unit={ACTIVATION_UNIT}"))?;
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(after.len());
    Some(full_name(&format!("{ACTIVATION_UNIT}{}", after.get(..end)?)))
}

/// Stops the unit, and kills it after the grace period.
pub(super) async fn stop(Activation { unit, .. }: &Activation, grace: Duration) {
    let systemctl = async |words: &[&str], limit| output_within(Command::new("systemctl").args(words), limit).await;
    // If it cannot be stopped, it is left: the run has ended anyway, and reports its phase.
    if systemctl(&["stop", unit], grace).await.is_err() {
        systemctl(&["kill", "--signal=KILL", unit], KILLED_WITHIN).await.ok();
        // Returns at once if the unit is gone. The result of the run must not come before its end.
        systemctl(&["stop", unit], KILLED_WITHIN).await.ok();
    }
}

/// Removes units of earlier activations that systemd has kept: no activation can begin under a taken name.
pub(super) async fn clear_away() {
    let pattern = format!("{ACTIVATION_UNIT}*");
    let listing = ["list-units", "--all", "--plain", "--no-legend", "--no-pager", "--full", &pattern];
    for unit in left_over(&output("systemctl", &listing).await) {
        output("systemctl", &["stop", unit]).await;
        output("systemctl", &["reset-failed", unit]).await;
    }
}

/// Returns the units in which nothing runs. A line has the unit, its load state, its state and its substate.
fn left_over(listing: &str) -> Vec<&str> {
    let units = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let unit = words.next().filter(|unit| is_activation(unit))?;
        let (state, detail) = (words.nth(1)?, words.next()?);
        (["failed", "inactive"].contains(&state) || detail == "exited").then_some(unit)
    });
    units.collect()
}

/// Adds the activation's output to the log, and returns the end of the program that began at `began`. If the
/// activation's unit was stopped, by a shutdown or by hand, `nixos-rebuild` exits with 0; the returned end is another
/// one.
pub(super) async fn actual_end(
    activation: Option<&Activation>,
    log: &mut OutputLog,
    end: ProcessEnd,
    began: Timestamp,
) -> ProcessEnd {
    if !matches!(end, ProcessEnd::Exited(_) | ProcessEnd::Killed(_) | ProcessEnd::TimedOut) {
        return end;
    }
    let broken_off = ProcessEnd::Killed(Signal::TERM.as_raw());
    if end == ProcessEnd::Exited(0) && output("systemctl", &["is-system-running"]).await == "stopping" {
        return broken_off;
    }
    let unit = activation.map(|activation| activation.unit.clone()).or_else(|| named(&log.tail()));
    // To the millisecond: a run right before this one may have been stopped.
    let since = format!("--since=@{}.{:03}", began.as_second(), began.as_millisecond().rem_euclid(1_000));
    let journal = async |unit: &str, kind: &str| {
        output("journalctl", &["--quiet", "--output=cat", LINES, &since, "--unit", unit, kind]).await
    };
    // Messages on their way to the journal have to be found, too.
    output("journalctl", &["--sync"]).await;
    if let Some(unit) = &unit {
        // Some releases run the activation without a pipe, and its output goes to the journal.
        let said = journal(unit, "_TRANSPORT=stdout").await;
        if !said.is_empty() {
            log.reach(Phase::Activate);
            log.write(format!("{said}\n").as_bytes());
        }
    }
    // An activation that ended before it was seen may have any of these names.
    let unit = unit.unwrap_or_else(|| format!("{ACTIVATION_UNIT}*"));
    let was_stopped = end == ProcessEnd::Exited(0) && !journal(&unit, IS_STOPPED).await.is_empty();
    if was_stopped { broken_off } else { end }
}

/// Returns the output of a program without the surrounding line breaks; empty if the program cannot be run.
async fn output(program: &str, arguments: &[&str]) -> String {
    let output = run_program(program, arguments).await;
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim_matches('\n').to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_an_activation_is_told_from_who_mentions_it() {
        let line =
            |words: &[&str]| words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        let awaited = |words: &[&str]| awaited_by(&line(words)).map(|activation| activation.unit).unwrap_or_default();
        let fixed = "--unit=nixos-rebuild-switch-to-configuration";
        assert_eq!(awaited(&["systemd-run", "--pipe", fixed, "/x"]), "nixos-rebuild-switch-to-configuration.service");
        let numbered = "--unit=nixos-rebuild-switch-to-configuration-9767bc07";
        let number = "nixos-rebuild-switch-to-configuration-9767bc07.service";
        assert_eq!(awaited(&["/run/current-system/sw/bin/systemd-run", "--wait", numbered, "/x"]), number);
        assert_eq!(awaited(&["systemctl", "start", "--wait", number]), number);
        assert_eq!(awaited(&["systemd-run", "-u", "nixos-rebuild-switch-to-configuration-9767bc07", "/x"]), number);
        assert_eq!(awaited(&["grep", "nixos-rebuild-switch-to-configuration"]), "");
        assert_eq!(awaited(&["systemd-run", "--unit=homelab-deploy-run-1", "/x"]), "");
        assert_eq!(awaited(&[]), "");
        let to = line(&["systemd-run", fixed, "env", "-i", "/nix/store/x/bin/switch-to-configuration", "switch"]);
        assert_eq!(awaited_by(&to).unwrap().system.unwrap(), "/nix/store/x");
    }

    #[test]
    fn the_unit_is_named_with_the_command_that_failed() {
        let as_text = "Command 'systemd-run -E X --wait --unit=nixos-rebuild-switch-to-configuration-9767bc07 /x switch' returned non-zero exit status 1.";
        assert_eq!(named(as_text).unwrap(), "nixos-rebuild-switch-to-configuration-9767bc07.service");
        let as_list = "Command '['systemd-run', '--unit=nixos-rebuild-switch-to-configuration', '/x']' returned non-zero exit status 1.";
        assert_eq!(named(as_list).unwrap(), "nixos-rebuild-switch-to-configuration.service");
        assert_eq!(named("nothing"), None);
    }

    #[test]
    fn units_in_which_nothing_goes_on_are_left_over() {
        let unit = "nixos-rebuild-switch-to-configuration";
        let listing = format!(
            "{unit}.service loaded active running x\n{unit}-1.service loaded failed failed x\n\
             {unit}-2.service loaded active exited x\n{unit}-3.service loaded activating start x\n\
             {unit}-4.service loaded inactive dead x\nother.service loaded failed failed x\n"
        );
        assert_eq!(left_over(&listing), ["-1", "-2", "-4"].map(|number| format!("{unit}{number}.service")));
    }
}
