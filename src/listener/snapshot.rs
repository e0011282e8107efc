//! The parts of the host's state that a run may change. Captured before a run, to roll back to and to compare with afterwards.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::host::{Host, is_activation};
use super::output::clean;
use crate::lookup::in_plain_words;
use crate::process_group::output_within;
use crate::protocol::Commit;

/// The time limit for asking a program. A missing answer does not stop a deployment.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The arguments that list units that have failed, and those that wait for a restart.
const LIST: [&str; 6] =
    ["list-units", "--state=failed,auto-restart,auto-restart-queued", "--plain", "--no-legend", "--no-pager", "--full"];

/// The arguments that show how units ended that wait for a restart.
const SHOW: [&str; 3] = ["show", "--property=Id,Result,ExecMainStatus", "--"];

/// The profile whose current generation boots next.
pub(super) const PROFILE: &str = "/nix/var/nix/profiles/system";

/// A system, with the parts that only a reboot can replace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub path: String,
    /// The kernel, the initial ramdisk and the kernel modules.
    pub kernel: [Option<String>; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    pub system: System,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemSnapshot {
    pub current: Option<System>,
    pub booted: Option<System>,
    pub profile: Option<Profile>,
    /// The commit of the current system, if its configuration says it.
    pub revision: Option<Commit>,
    /// The name of the current specialisation, if it belongs to the profile's system.
    pub specialisation: Option<String>,
    pub failed_units: Option<BTreeSet<String>>,
}

impl SystemSnapshot {
    /// Reads the links of the host.
    pub(super) fn seen(host: &Host) -> Self {
        let (current, profile) = (System::at(host, "run/current-system"), Profile::of(host));
        let paths = current.as_ref().zip(profile.as_ref());
        let specialisation = paths.and_then(|(current, profile)| specialisation(host, &current.path, &profile.system));
        Self { booted: System::at(host, "run/booted-system"), current, profile, specialisation, ..Self::default() }
    }

    /// Reads the links, and asks programs for the rest.
    pub(super) async fn learned(host: &Host) -> Self {
        Self::seen(host).completed(host).await
    }

    pub(super) async fn completed(self, host: &Host) -> Self {
        let revision = match &self.current {
            Some(system) => configuration_revision(host, system).await,
            None => None,
        };
        Self { revision, failed_units: failed_units(host).await, ..self }
    }

    /// Whether the links show that the host is NixOS.
    pub(super) const fn is_nixos(&self) -> bool {
        self.current.is_some() || self.profile.is_some()
    }

    /// Whether another system runs than was booted; `None` if there are no such links.
    pub(super) fn booted_system_differs(&self) -> Option<bool> {
        Some(self.booted.as_ref()?.path != self.current.as_ref()?.path)
    }

    /// Whether the next boot starts another system than the current one, or another kernel, initrd or kernel modules
    /// than the last boot. `None` without a system profile.
    pub(super) fn reboot_required(&self) -> Option<bool> {
        let (next, booted) = (&self.profile.as_ref()?.system, self.booted.as_ref()?);
        Some(next.path != self.current_path()? || next.kernel != booted.kernel)
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.profile.as_ref()?.generation
    }

    pub(super) fn current_path(&self) -> Option<&str> {
        self.current.as_ref().map(|system| system.path.as_str())
    }

    pub(super) fn profile_path(&self) -> Option<&str> {
        self.profile.as_ref().map(|profile| profile.system.path.as_str())
    }
}

impl System {
    /// Reads the system that a link of the host points at.
    fn at(host: &Host, link: &str) -> Option<Self> {
        let path = host.link(link)?;
        let part = |name| host.link(&format!("{path}/{name}"));
        Some(Self { kernel: ["kernel", "initrd", "kernel-modules"].map(part), path })
    }
}

impl Profile {
    /// Reads the profile: a link to `system-42-link`, beside it, which points at the system.
    fn of(host: &Host) -> Option<Self> {
        let generation = host.link(PROFILE)?;
        let beside = Path::new(PROFILE).with_file_name(&generation);
        let number = generation.rsplit('/').next()?.strip_prefix("system-").and_then(|name| name.strip_suffix("-link"));
        let generation = number.and_then(|number| number.parse().ok());
        Some(Self { generation, system: System::at(host, beside.to_str()?)? })
    }
}

/// Returns the name of the current specialisation of this system.
fn specialisation(host: &Host, current: &str, System { path, .. }: &System) -> Option<String> {
    let specialisations = fs::read_dir(host.at(path).join("specialisation")).ok()?;
    let mut names = specialisations.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let runs = |name: &String| host.link(&format!("{path}/specialisation/{name}")).as_deref() == Some(current);
    names.find(runs).as_deref().map(clean)
}

/// Returns the commit of a system whose flake sets `system.configurationRevision`. The system's own program is asked,
/// as the place where it keeps the commit has changed over time.
pub(super) async fn configuration_revision(host: &Host, system: &System) -> Option<Commit> {
    let nixos_version = host.at(&system.path).join("sw/bin/nixos-version");
    answer(nixos_version, &["--configuration-revision"]).await?.trim().parse().ok()
}

/// Returns the failed units; `None` without systemd.
async fn failed_units(host: &Host) -> Option<BTreeSet<String>> {
    if !host.has_systemd() {
        return None;
    }
    let (mut failed, waiting) = listed(&answer("systemctl", &LIST).await?);
    if !waiting.is_empty() {
        // With `Restart=always` a unit may wait although it succeeded.
        let waiting: Vec<&str> = waiting.iter().map(String::as_str).collect();
        let shown = answer("systemctl", &[&SHOW[..], &waiting].concat()).await;
        // A unit of unknown state counts as failed, as it is not `active` either.
        failed.extend(
            shown.map_or_else(|| waiting.iter().map(|&unit| unit.to_owned()).collect(), |text| ended_badly(&text)),
        );
    }
    Some(failed)
}

/// Returns failed units and those that wait for a restart. A line has the unit, load state, state, substate and text.
fn listed(listing: &str) -> (BTreeSet<String>, Vec<String>) {
    let (mut failed, mut waiting) = (BTreeSet::new(), Vec::new());
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        // A failed activation unit says no more than the exit code.
        let Some(unit) = words.next().filter(|unit| !is_activation(unit)) else { continue };
        if words.nth(1) == Some("failed") {
            failed.insert(unit.to_owned());
        } else {
            waiting.push(unit.to_owned());
        }
    }
    (failed, waiting)
}

/// Returns the units that did not end well, from blocks of properties in any order.
fn ended_badly(shown: &str) -> BTreeSet<String> {
    let blocks = shown.split("\n\n").map(|block| {
        let value = |name| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        (value("Id"), value("Result"), value("ExecMainStatus"))
    });
    let bad = blocks.filter(|(_, result, status)| *result != Some("success") || *status != Some("0"));
    bad.filter_map(|(unit, _, _)| unit.map(str::to_owned)).collect()
}

/// Returns the output and the exit status of a program that answers in time.
pub(super) async fn ask(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(program);
    in_plain_words(command.as_std_mut());
    output_within(command.args(arguments), ANSWER_WITHIN).await.ok()
}

pub(super) async fn answer(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = ask(program, arguments).await.filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::host::tests::{make_system, point};
    use crate::testing::make_program;

    const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

    #[tokio::test]
    async fn a_system_says_which_commit_it_is_of_if_it_knows() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let path = make_system(root, "a-nixos", "linux");
        point(root, "run/current-system", &path);
        let host = Host::new(root.to_owned());
        assert_eq!(SystemSnapshot::learned(&host).await.revision, None);

        let program = host.at(&path).join("sw/bin/nixos-version");
        let says = |script: &str| {
            make_program(&program, &format!("[ \"$1\" = --configuration-revision ] || exit 9\n{script}"));
        };
        says(&format!("echo {COMMIT}"));
        assert_eq!(SystemSnapshot::learned(&host).await.revision.unwrap().as_str(), COMMIT);
        says(&format!("echo {COMMIT}-dirty"));
        assert_eq!(SystemSnapshot::learned(&host).await.revision, None);
        says("echo configuration revision is unknown >&2; exit 1");
        assert_eq!(SystemSnapshot::learned(&host).await.revision, None);
    }

    #[test]
    fn facts_of_another_version_are_read() {
        let facts: SystemSnapshot = serde_json::from_str(r#"{"later": true}"#).unwrap();
        assert_eq!((facts.is_nixos(), facts), (false, SystemSnapshot::default()));
    }

    #[test]
    fn units_are_the_first_words_of_a_listing() {
        let listing = "unbound.service loaded failed failed Unbound DNS resolver\n\
                       tunnel.service  loaded activating auto-restart SSH tunnel\n\
                       nixos-rebuild-switch-to-configuration.service loaded failed failed x\n\
                       nixos-rebuild-switch-to-configuration-0123abcd.service loaded failed failed x\n\n";
        let (failed, waiting) = listed(listing);
        assert_eq!(
            (failed.into_iter().collect::<Vec<_>>(), waiting),
            (vec!["unbound.service".to_owned()], vec!["tunnel.service".to_owned()])
        );
        assert!(listed("").0.is_empty());
    }

    #[test]
    fn a_unit_between_two_starts_has_failed_only_if_it_ended_badly() {
        let block =
            |unit: &str, result: &str, status: i32| format!("ExecMainStatus={status}\nResult={result}\nId={unit}\n");
        let shown = [
            block("poll.service", "success", 0),
            block("tunnel.service", "exit-code", 255),
            block("late.service", "timeout", 0),
            block("java.service", "success", 143),
        ];
        assert_eq!(
            ended_badly(&shown.join("\n")).into_iter().collect::<Vec<_>>(),
            ["java.service", "late.service", "tunnel.service"]
        );
        assert!(ended_badly("").is_empty());
    }
}
