//! What keeps a host busy that no request began: somebody who runs `nixos-rebuild` by hand.
//!
//! It is looked at and not tried. Who takes the lock of an activation for but a moment makes one fail that begins in
//! that moment, since it does not wait for the lock.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{major, minor, stat};

use crate::clock;
use crate::protocol::BusyWith;

/// What holds the host, by what it is called for others.
const HOLDER: &str = "nixos-rebuild";

/// How the name of the unit begins in which `nixos-rebuild` activates a system. Most releases use no more than that; some
/// append a number of the activation.
pub(super) const ACTIVATION: &str = "nixos-rebuild-switch-to-configuration";

/// Whether a unit of this name is one in which `nixos-rebuild` activates a system.
pub(super) fn is_activation(unit: &str) -> bool {
    unit.strip_suffix(".service").is_some_and(|name| name.starts_with(ACTIVATION))
}

/// The activation that runs on the host whose file system begins at `root`, whatever started it.
pub(super) fn activation(root: &Path) -> Option<BusyWith> {
    let since = unit_runs_since(root).or_else(|| is_locked(root).then(clock::now))?;
    Some(BusyWith { id: HOLDER.to_owned(), operator: None, since })
}

/// Since when there are processes in a unit in which `nixos-rebuild` activates; by its control group, which needs no
/// question to systemd.
fn unit_runs_since(root: &Path) -> Option<Timestamp> {
    activation_groups(root).filter_map(|group| populated_since(&group)).min()
}

/// Whether there is a unit in which `nixos-rebuild` activates, or may have.
pub(super) fn has_activation_unit(root: &Path) -> bool {
    activation_groups(root).next().is_some()
}

fn activation_groups(root: &Path) -> impl Iterator<Item = PathBuf> {
    let groups = fs::read_dir(root.join("sys/fs/cgroup/system.slice")).into_iter().flatten().flatten();
    groups.filter(|group| group.file_name().to_str().is_some_and(is_activation)).map(|group| group.path())
}

fn populated_since(group: &Path) -> Option<Timestamp> {
    let events = fs::read_to_string(group.join("cgroup.events")).ok()?;
    if !events.lines().any(|line| line == "populated 1") {
        return None;
    }
    let began = fs::metadata(group).ok().and_then(|group| Timestamp::from_second(group.mtime()).ok());
    Some(began.unwrap_or_else(clock::now))
}

/// Whether some process has the lock that `switch-to-configuration` takes, in a unit or not.
fn is_locked(root: &Path) -> bool {
    let file: PathBuf = root.join("run/nixos/switch-to-configuration.lock");
    let Ok(file) = stat(&file) else { return false };
    let locks = fs::read_to_string(root.join("proc/locks")).unwrap_or_default();
    let id = format!("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino);
    locks.lines().any(|line| is_held(line, &id))
}

/// Reads a line of `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 00:1a:567 0 EOF`. A waiting one has a `->` before the
/// kind.
fn is_held(line: &str, file: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next() != Some("->") && words.any(|word| word == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for part in ["proc", "run/nixos", "sys/fs/cgroup/system.slice"] {
            fs::create_dir_all(root.path().join(part)).unwrap();
        }
        root
    }

    #[test]
    fn an_activation_in_its_unit_is_seen_while_it_has_processes() {
        for unit in
            ["nixos-rebuild-switch-to-configuration.service", "nixos-rebuild-switch-to-configuration-9767bc07.service"]
        {
            seen_while_it_has_processes(unit);
        }
    }

    fn seen_while_it_has_processes(unit: &str) {
        let root = host();
        assert_eq!(activation(root.path()), None);
        let group = root.path().join("sys/fs/cgroup/system.slice").join(unit);
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let holder = activation(root.path()).unwrap();
        assert_eq!((holder.id.as_str(), holder.operator), ("nixos-rebuild", None));
        assert_eq!(holder.since.as_second(), fs::metadata(&group).unwrap().mtime());
        fs::write(group.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        assert_eq!(activation(root.path()), None);
    }

    #[test]
    fn an_activation_without_a_unit_is_seen_by_its_lock() {
        let root = host();
        let lock = root.path().join("run/nixos/switch-to-configuration.lock");
        fs::write(&lock, "").unwrap();
        let file = fs::metadata(&lock).unwrap();
        let (major, minor, inode) = (major(file.dev()), minor(file.dev()), file.ino());
        let locks = |text: &str| fs::write(root.path().join("proc/locks"), text).unwrap();
        let others = format!(
            "1: POSIX  ADVISORY  WRITE 17 {major:02x}:{minor:02x}:{inode}7 0 EOF\n2: FLOCK  ADVISORY  WRITE 17 ff:{minor:02x}:{inode} 0 EOF\n"
        );
        locks(&others);
        assert_eq!(activation(root.path()), None);
        locks(&format!("{others}2: -> FLOCK  ADVISORY  WRITE 18 {major:02x}:{minor:02x}:{inode} 0 EOF\n"));
        assert_eq!(activation(root.path()), None);
        locks(&format!("{others}3: FLOCK  ADVISORY  WRITE 17 {major:02x}:{minor:02x}:{inode} 0 EOF\n"));
        assert_eq!(activation(root.path()).unwrap().id, "nixos-rebuild");
    }

    #[test]
    fn the_kernel_writes_its_locks_as_they_are_read_here() {
        // /run and /dev/shm are what they are on a host: a file system in memory, whose device is the same for everyone.
        let file = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap();
        let id = {
            let file = file.as_file().metadata().unwrap();
            format!("{:02x}:{:02x}:{}", major(file.dev()), minor(file.dev()), file.ino())
        };
        let held = || fs::read_to_string("/proc/locks").unwrap().lines().any(|line| is_held(line, &id));
        assert!(!held());
        file.as_file().lock().unwrap();
        assert!(held());
        file.as_file().unlock().unwrap();
        assert!(!held());
    }
}
