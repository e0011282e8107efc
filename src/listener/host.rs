//! Facts about the host, read from its files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{major, minor, stat};
use uuid::Uuid;

use super::NAMESPACE;
use crate::clock;
use crate::protocol::BusyWith;

/// The folder of links that keep paths from the garbage collector.
const GC_ROOTS: &str = "/nix/var/nix/gcroots/homelab-deploy";

/// The prefix of the unit in which `nixos-rebuild` activates a system. Most releases use it alone; some append a
/// number.
pub(super) const ACTIVATION: &str = "nixos-rebuild-switch-to-configuration";

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
        let id = fs::read_to_string(self.root.join("etc/machine-id")).ok()?;
        let id = id.trim();
        (!id.is_empty()).then(|| Uuid::new_v5(&NAMESPACE, id.as_bytes()).to_string())
    }

    /// Returns the place of a file that has this absolute path on the host.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Keeps the garbage collector from the systems that the host may return to. Fails harmlessly without Nix.
    pub(super) fn keep(&self, current: Option<&str>, profile: Option<&str>) {
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

    pub(super) fn boot_id(&self) -> Option<String> {
        let id = fs::read_to_string(self.root.join("proc/sys/kernel/random/boot_id")).ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    pub(super) fn uptime_s(&self) -> Option<u64> {
        let uptime = fs::read_to_string(self.root.join("proc/uptime")).ok()?;
        uptime.split('.').next()?.parse().ok()
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
        let locks = fs::read_to_string(self.at("proc/locks")).unwrap_or_default();
        let id = format!("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino);
        locks.lines().any(|line| is_held(line, &id))
    }

    /// Returns the target of a link on the host.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        target.into_os_string().into_string().ok()
    }
}

/// Whether `nixos-rebuild` activates systems in units of this name.
pub(super) fn is_activation(unit: &str) -> bool {
    unit.strip_suffix(".service").is_some_and(|name| name.starts_with(ACTIVATION))
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
/// id until one of the two reboots: nothing that they could read tells them apart. Without a boot id, it is always new.
pub(super) fn instance(folder: &Path, boot: Option<&str>) -> Uuid {
    let file = folder.join("instance");
    let new = Uuid::new_v4();
    let Some(boot) = boot else { return new };
    let kept = fs::read_to_string(&file).ok();
    let kept = kept.as_deref().and_then(|text| text.split_once(' ')).filter(|(_, made_in)| *made_in == boot);
    if let Some(kept) = kept.and_then(|(instance, _)| instance.parse().ok()) {
        return kept;
    }
    let draft = folder.join("instance.new");
    let written = fs::write(&draft, format!("{new} {boot}")).and_then(|()| fs::rename(draft, file));
    if let Err(error) = written {
        tracing::warn!("cannot keep the id of this boot in {}: {error}", folder.display());
    }
    new
}

#[cfg(test)]
pub(in crate::listener) mod tests;
