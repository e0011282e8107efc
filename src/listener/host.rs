//! What can be told of the host by looking at its files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{major, minor, stat};
use uuid::Uuid;

use super::NAMESPACE;
use crate::clock;
use crate::protocol::BusyWith;

/// What the garbage collector spares.
const GC_ROOTS: &str = "/nix/var/nix/gcroots/homelab-deploy";

/// How the name of the unit begins in which `nixos-rebuild` activates a system. Most releases use no more than that; some
/// append a number of the activation.
pub(super) const ACTIVATION: &str = "nixos-rebuild-switch-to-configuration";

#[derive(Debug, Clone)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose file system begins here; `/` for the own one.
    pub(super) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Tells machines apart that go by the same name. The machine id itself is not to leave the machine, see
    /// machine-id(5), so this is a hash of it.
    pub(super) fn machine(&self) -> Option<String> {
        let id = fs::read_to_string(self.root.join("etc/machine-id")).ok()?;
        let id = id.trim();
        (!id.is_empty()).then(|| Uuid::new_v5(&NAMESPACE, id.as_bytes()).to_string())
    }

    /// The place of a file that the host knows by this absolute path.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Keeps the garbage collector from what the host may have to return to: what ran, and what was to boot. A failure
    /// changes nothing for now, and does not exist where there is no Nix.
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

    /// The link that keeps the garbage collector from the system that was fetched last.
    pub(super) fn fetched_root(&self) -> PathBuf {
        self.gc_roots().join("fetched")
    }

    fn gc_roots(&self) -> PathBuf {
        let roots = self.at(GC_ROOTS);
        fs::create_dir(&roots).ok();
        roots
    }

    /// Whether units are to be had: whether systemd is the first process of the host.
    pub(super) fn has_systemd(&self) -> bool {
        self.at("run/systemd/system").is_dir()
    }

    /// Tells each boot of the machine from all others.
    pub(super) fn boot_id(&self) -> Option<String> {
        let id = fs::read_to_string(self.root.join("proc/sys/kernel/random/boot_id")).ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    /// Since when the machine is up, in seconds.
    pub(super) fn uptime_s(&self) -> Option<u64> {
        let uptime = fs::read_to_string(self.root.join("proc/uptime")).ok()?;
        uptime.split('.').next()?.parse().ok()
    }

    /// What keeps the host busy that no request began: an activation, whatever started it.
    ///
    /// It is looked at and not tried. Who takes the lock of an activation for but a moment makes one fail that begins in
    /// that moment, since it does not wait for the lock.
    pub(super) fn activation(&self) -> Option<BusyWith> {
        let unit_since = self.activation_groups().filter_map(|group| populated_since(&group)).min();
        let since = unit_since.or_else(|| self.has_activation_lock().then(clock::now))?;
        Some(BusyWith { id: "nixos-rebuild".to_owned(), operator: None, since })
    }

    /// Whether there is a unit in which `nixos-rebuild` activates, or may have.
    pub(super) fn has_activation_unit(&self) -> bool {
        self.activation_groups().next().is_some()
    }

    /// The control groups of such units, which need no question to systemd.
    fn activation_groups(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let groups = fs::read_dir(self.at("sys/fs/cgroup/system.slice")).into_iter().flatten().flatten();
        groups.filter(|group| group.file_name().to_str().is_some_and(is_activation)).map(|group| group.path())
    }

    /// Whether some process has the lock that `switch-to-configuration` takes, in a unit or not.
    fn has_activation_lock(&self) -> bool {
        let Ok(file) = stat(self.at("run/nixos/switch-to-configuration.lock")) else { return false };
        let locks = fs::read_to_string(self.at("proc/locks")).unwrap_or_default();
        let id = format!("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino);
        locks.lines().any(|line| is_held(line, &id))
    }

    /// Where a link of the host leads.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        target.into_os_string().into_string().ok()
    }
}

/// Whether a unit of this name is one in which `nixos-rebuild` activates a system.
pub(super) fn is_activation(unit: &str) -> bool {
    unit.strip_suffix(".service").is_some_and(|name| name.starts_with(ACTIVATION))
}

/// Since when a control group has processes.
fn populated_since(group: &Path) -> Option<Timestamp> {
    let events = fs::read_to_string(group.join("cgroup.events")).ok()?;
    if !events.lines().any(|line| line == "populated 1") {
        return None;
    }
    let began = fs::metadata(group).ok().and_then(|group| Timestamp::from_second(group.mtime()).ok());
    Some(began.unwrap_or_else(clock::now))
}

/// Reads a line of `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 00:1a:567 0 EOF`. One that waits begins with `->`.
fn is_held(line: &str, file: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next() != Some("->") && words.any(|word| word == file)
}

/// The random id that tells machines apart that go by the same name, kept in this folder.
///
/// A cloned machine has the machine id of its original, and its state folder. So the id is made anew in each boot. It stays
/// the same when the listener is restarted, which every deployment may do. A machine that is cloned while it runs shares it
/// until one of the two is booted: nothing that the two could read tells them apart.
///
/// With the id goes the boot in which it was made; one that is not known is never the same.
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
