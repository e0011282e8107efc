//! The NixOS host, read from its files: what runs and boots next, what keeps it busy, and which machine it is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{major, minor, stat};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use uuid::Uuid;

use super::NAMESPACE;
use super::output::clean;
use crate::clock;
use crate::lookup::in_english;
use crate::process_group::output_within;
use crate::protocol::{BusyWith, Commit};

/// The folder of links that keep paths from the garbage collector.
const GC_ROOTS: &str = "/nix/var/nix/gcroots/homelab-deploy";

/// The prefix of the unit in which `nixos-rebuild` activates a system. Most releases use it alone; some append a
/// number.
pub(super) const ACTIVATION_UNIT: &str = "nixos-rebuild-switch-to-configuration";

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
    pub(super) fn from_links(host: &Host) -> Self {
        let (current, profile) = (System::at(host, "run/current-system"), Profile::of(host));
        let paths = current.as_ref().zip(profile.as_ref());
        let specialisation = paths.and_then(|(current, profile)| specialisation(host, &current.path, &profile.system));
        Self { booted: System::at(host, "run/booted-system"), current, profile, specialisation, ..Self::default() }
    }

    pub(super) async fn capture(host: &Host) -> Self {
        Self::from_links(host).with_answers(host).await
    }

    /// Adds what only programs tell.
    pub(super) async fn with_answers(self, host: &Host) -> Self {
        let revision = match &self.current {
            Some(system) => configuration_revision(host, system).await,
            None => None,
        };
        Self { revision, failed_units: failed_units(host).await, ..self }
    }

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
    output_if_ok(nixos_version, &["--configuration-revision"]).await?.trim().parse().ok()
}

/// Returns the failed units; `None` without systemd.
async fn failed_units(host: &Host) -> Option<BTreeSet<String>> {
    if !host.has_systemd() {
        return None;
    }
    let (mut failed, waiting) = listed(&output_if_ok("systemctl", &LIST).await?);
    if !waiting.is_empty() {
        // With `Restart=always` a unit may wait although it succeeded.
        let arguments: Vec<&str> = SHOW.into_iter().chain(waiting.iter().map(String::as_str)).collect();
        match output_if_ok("systemctl", &arguments).await {
            Some(shown) => failed.extend(ended_badly(&shown)),
            // A unit of unknown state counts as failed, as it is not `active` either.
            None => failed.extend(waiting),
        }
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
pub(super) async fn run_program(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(program);
    in_english(command.as_std_mut());
    output_within(command.args(arguments), ANSWER_WITHIN).await.ok()
}

pub(super) async fn output_if_ok(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = run_program(program, arguments).await.filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[derive(Debug, Clone)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns an id that tells machines of one name apart: a hash of the machine id, which is secret, see
    /// machine-id(5).
    pub(super) fn machine(&self) -> Option<String> {
        Some(Uuid::new_v5(&NAMESPACE, self.read("etc/machine-id")?.as_bytes()).to_string())
    }

    pub(super) fn boot_id(&self) -> Option<String> {
        self.read("proc/sys/kernel/random/boot_id")
    }

    pub(super) fn uptime_s(&self) -> Option<u64> {
        self.read("proc/uptime")?.split('.').next()?.parse().ok()
    }

    /// Reads a file of the host; `None` if it has no text.
    fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.at(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Returns the place of a file that has this absolute path on the host.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Keeps the garbage collector from the systems that the host may return to. Fails harmlessly without Nix.
    pub(super) fn protect_from_gc(&self, current: Option<&str>, profile: Option<&str>) {
        let roots = self.gc_roots();
        for (name, path) in [("current", current), ("profile", profile)] {
            if let Some(path) = path {
                let (root, new) = (roots.join(name), roots.join(format!("{name}.new")));
                fs::remove_file(&new).ok();
                symlink(path, &new).and_then(|()| fs::rename(new, root)).ok();
            }
        }
    }

    /// Returns the link that keeps the garbage collector from the system that was fetched last.
    pub(super) fn fetched_root(&self) -> PathBuf {
        self.gc_roots().join("fetched")
    }

    fn gc_roots(&self) -> PathBuf {
        let roots = self.at(GC_ROOTS);
        fs::create_dir(&roots).ok();
        roots
    }

    /// Whether systemd is the host's init, so that runs can be units.
    pub(super) fn has_systemd(&self) -> bool {
        self.at("run/systemd/system").is_dir()
    }

    /// Returns what keeps the host busy other than a request: an activation, however it was started.
    ///
    /// The lock of `switch-to-configuration` is only looked up in `/proc/locks`. Taking it, even for a moment, would
    /// make an activation fail that begins at that moment, as it does not wait for the lock.
    pub(super) fn activation(&self) -> Option<BusyWith> {
        let unit_since = self.activation_groups().filter_map(|group| populated_since(&group)).min();
        let since = unit_since.or_else(|| self.has_activation_lock().then(clock::now))?;
        Some(BusyWith { id: "nixos-rebuild".to_owned(), operator: None, since })
    }

    pub(super) fn has_activation_unit(&self) -> bool {
        self.activation_groups().next().is_some()
    }

    /// Returns the control groups of activation units, without asking systemd.
    fn activation_groups(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let groups = fs::read_dir(self.at("sys/fs/cgroup/system.slice")).into_iter().flatten().flatten();
        groups.filter(|group| group.file_name().to_str().is_some_and(is_activation)).map(|group| group.path())
    }

    /// Whether a process holds the lock of `switch-to-configuration`, in a unit or not.
    fn has_activation_lock(&self) -> bool {
        let Ok(file) = stat(self.at("run/nixos/switch-to-configuration.lock")) else { return false };
        let locks = self.read("proc/locks").unwrap_or_default();
        let id = format!("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino);
        locks.lines().any(|line| is_held(line, &id))
    }

    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        target.into_os_string().into_string().ok()
    }
}

/// Whether `nixos-rebuild` activates systems in units of this name.
pub(super) fn is_activation(unit: &str) -> bool {
    unit.strip_suffix(".service").is_some_and(|name| name.starts_with(ACTIVATION_UNIT))
}

/// Returns the time since which a control group has processes.
fn populated_since(group: &Path) -> Option<Timestamp> {
    let events = fs::read_to_string(group.join("cgroup.events")).ok()?;
    if !events.lines().any(|line| line == "populated 1") {
        return None;
    }
    let began = fs::metadata(group).ok().and_then(|group| Timestamp::from_second(group.mtime()).ok());
    Some(began.unwrap_or_else(clock::now))
}

/// Whether a line of `/proc/locks`, as `1: FLOCK  ADVISORY  WRITE 1234 00:1a:567 0 EOF`, is a lock of this file that is
/// held, and not one that is waited for (`->`).
fn is_held(line: &str, file: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next() != Some("->") && words.any(|word| word == file)
}

/// Returns the random id that tells machines of the same name apart, kept in this folder together with its boot.
///
/// A cloned machine has the machine id and the state folder of its original, so the id is made anew in each boot. It
/// survives restarts of the listener, which any deployment may cause. A machine that is cloned while it runs shares its
/// id until one of the two reboots: nothing that they could read tells them apart.
pub(super) fn instance(folder: &Path, boot: &str) -> Uuid {
    let file = folder.join("instance");
    let new = Uuid::new_v4();
    let kept = fs::read_to_string(&file).ok();
    let kept = kept.as_deref().and_then(|text| text.split_once(' ')).filter(|(_, made_in)| *made_in == boot);
    if let Some(kept) = kept.and_then(|(instance, _)| instance.parse().ok()) {
        return kept;
    }
    let draft = folder.join("instance.new");
    let written = fs::write(&draft, format!("{new} {boot}")).and_then(|()| fs::rename(draft, file));
    if let Err(error) = written {
        tracing::warn!("cannot store the id of this boot in {}: {error}", folder.display());
    }
    new
}

#[cfg(test)]
pub(crate) mod tests;
