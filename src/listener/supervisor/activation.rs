//! The activation that a run started in a unit of its own, out of reach of signals to the run's processes.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::process::Command;

use super::log::Log;
use super::process::in_descendants;
use crate::listener::host::{ACTIVATION, Host, is_activation};
use crate::listener::output::built_system;
use crate::listener::snapshot::ask;
use crate::listener::verdict::End;
use crate::process_group::output_within;
use crate::protocol::Phase;

/// What the journal marks the lines with that say that a unit is being stopped; see `journalctl --catalog`.
const IS_STOPPED: &str = "MESSAGE_ID=de5b426a63be47a7b6ac3eaac82e2f6f";

/// How much of what an activation says is read from the journal, in lines.
const LINES: &str = "--lines=5000";

/// How long systemd may take to see the end of processes that it has killed.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// An activation of this run, as it was called for.
#[derive(Debug)]
pub(super) struct Activation {
    unit: String,
    /// The system that it is to, where that is said.
    system: Option<String>,
}

/// The activation that a descendant of this process waits for: others activate in units of that name, too.
pub(super) fn awaited() -> Option<Activation> {
    in_descendants(awaited_by)
}

/// The same, cheap enough to be called often: nearly always there is no such unit at all.
pub(super) fn seen() -> Option<Activation> {
    if Host::new("/".into()).has_activation_unit() { awaited() } else { None }
}

/// The system that the run was seen to switch to, or that `nixos-rebuild` names in the end.
pub(super) fn switched_to(activation: Option<&Activation>, log: &Log) -> Option<String> {
    let seen = activation.and_then(|activation| activation.system.clone());
    seen.or_else(|| built_system(&log.lines()).map(str::to_owned))
}

/// The activation that the process with this command line waits for. Each of its words ends with NUL.
fn awaited_by(command_line: &[u8]) -> Option<Activation> {
    let words = command_line.split(|&byte| byte == 0).map(|word| std::str::from_utf8(word).unwrap_or_default());
    let mut words = words.peekable();
    let program = Path::new(words.next()?).file_name()?.to_str()?;
    if !["systemd-run", "systemctl"].contains(&program) {
        return None;
    }
    let mut names = words.clone().map(|word| word.rsplit('=').next().unwrap_or(word)).map(full_name);
    let system = words.find_map(|word| word.strip_suffix("/bin/switch-to-configuration"));
    Some(Activation { unit: names.find(|name| is_activation(name))?, system: system.map(str::to_owned) })
}

/// The name of a unit as systemd has it, where it may be written without its kind.
fn full_name(name: &str) -> String {
    if name.ends_with(".service") { name.to_owned() } else { format!("{name}.service") }
}

/// The unit that `nixos-rebuild` names when it says which of its commands failed.
fn named(output: &str) -> Option<String> {
    let (_, after) = output.rsplit_once(&format!("--unit={ACTIVATION}"))?;
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(after.len());
    Some(full_name(&format!("{ACTIVATION}{}", after.get(..end)?)))
}

/// Ends it: asks, waits for at most this long, and then forces it.
pub(super) async fn stop(Activation { unit, .. }: &Activation, grace: Duration) {
    let systemctl = async |words: &[&str], limit| output_within(Command::new("systemctl").args(words), limit).await;
    // What cannot be stopped is left: the run has ended for all that, and says what it was at.
    if systemctl(&["stop", unit], grace).await.is_err() {
        systemctl(&["kill", "--signal=KILL", unit], KILLED_WITHIN).await.ok();
        // Returns at once when the unit has gone, and its end is what the result of the run waits for.
        systemctl(&["stop", unit], KILLED_WITHIN).await.ok();
    }
}

/// Removes the units of activations that are over, and that systemd has kept: none can begin under a name that is taken.
pub(super) async fn clear_away() {
    let pattern = format!("{ACTIVATION}*");
    let listing = ["list-units", "--all", "--plain", "--no-legend", "--no-pager", "--full", &pattern];
    for unit in left_over(&output("systemctl", &listing).await) {
        output("systemctl", &["stop", unit]).await;
        output("systemctl", &["reset-failed", unit]).await;
    }
}

/// The units in which nothing goes on: each line has the unit, whether it is loaded, its state, and that in detail.
fn left_over(listing: &str) -> Vec<&str> {
    let units = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let unit = words.next().filter(|unit| is_activation(unit))?;
        let (state, detail) = (words.nth(1)?, words.next()?);
        (["failed", "inactive"].contains(&state) || detail == "exited").then_some(unit)
    });
    units.collect()
}

/// The end of a program that was begun then, once what its activation said is with the program's own words. It is another
/// one if the program takes an activation that was broken off for one that is done: when its unit is stopped, by a
/// shutdown or by hand, that counts as a clean end, and `nixos-rebuild` exits with 0.
pub(super) async fn settled(activation: Option<&Activation>, log: &mut Log, end: End, began: Timestamp) -> End {
    if !matches!(end, End::Exited(_) | End::Killed(_) | End::TimedOut) {
        return end;
    }
    let broken_off = End::Killed(Signal::TERM.as_raw());
    if end == End::Exited(0) && output("systemctl", &["is-system-running"]).await == "stopping" {
        return broken_off;
    }
    let unit = activation.map(|activation| activation.unit.clone()).or_else(|| named(&log.tail()));
    // To the millisecond: a run right before this one may have had to be stopped.
    let since = format!("--since=@{}.{:03}", began.as_second(), began.as_millisecond().rem_euclid(1_000));
    let journal = async |unit: &str, kind: &str| {
        output("journalctl", &["--quiet", "--output=cat", LINES, &since, "--unit", unit, kind]).await
    };
    // What is on its way to the journal is to be found, too.
    output("journalctl", &["--sync"]).await;
    if let Some(unit) = &unit {
        // Some releases give the activation no pipe to them, and what it says goes to the journal.
        let said = journal(unit, "_TRANSPORT=stdout").await;
        if !said.is_empty() {
            log.reach(Phase::Activate);
            log.write(format!("{said}\n").as_bytes());
        }
    }
    // One that was over before it was seen had any of these names.
    let unit = unit.unwrap_or_else(|| format!("{ACTIVATION}*"));
    let was_stopped = end == End::Exited(0) && !journal(&unit, IS_STOPPED).await.is_empty();
    if was_stopped { broken_off } else { end }
}

/// What a program prints, without the line breaks around it; nothing where it cannot be run.
async fn output(program: &str, arguments: &[&str]) -> String {
    let output = ask(program, arguments).await;
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
