//! What can be told of the host without starting a program.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::NAMESPACE;

/// A host, seen through its file system.
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

    /// The current generation of the system profile, and the system that runs.
    pub(super) fn generation_and_system(&self) -> (Option<u64>, Option<String>) {
        (self.generation(), self.link("run/current-system"))
    }

    /// Whether a reboot would change what runs; unknown where there is no system profile.
    pub(super) fn booted_system_differs(&self) -> Option<bool> {
        Some(self.link("run/booted-system")? != self.link("run/current-system")?)
    }

    /// Tells each boot of the machine from all others.
    pub(super) fn boot_id(&self) -> Option<String> {
        let id = fs::read_to_string(self.root.join("proc/sys/kernel/random/boot_id")).ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    /// Whether the next boot would start something else than what runs: another kernel, initrd or kernel modules than
    /// those of the last boot, or another system than the current one. Unknown where there is no system profile.
    pub(super) fn reboot_required(&self) -> Option<bool> {
        let next = self.link(&format!("nix/var/nix/profiles/{}", self.link("nix/var/nix/profiles/system")?))?;
        let booted = self.link("run/booted-system")?;
        let is_renewed = |part| self.link(&format!("{next}/{part}")) != self.link(&format!("{booted}/{part}"));
        Some(
            next != self.link("run/current-system")?
                || ["kernel", "initrd", "kernel-modules"].into_iter().any(is_renewed),
        )
    }

    /// Since when the machine is up, in seconds.
    pub(super) fn uptime_s(&self) -> Option<u64> {
        let uptime = fs::read_to_string(self.root.join("proc/uptime")).ok()?;
        uptime.split('.').next()?.parse().ok()
    }

    /// The profile is a link to `system-42-link`.
    fn generation(&self) -> Option<u64> {
        let link = self.link("nix/var/nix/profiles/system")?;
        let name = Path::new(&link).file_name()?.to_str()?;
        name.strip_prefix("system-")?.strip_suffix("-link")?.parse().ok()
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path.trim_start_matches('/'))).ok()?;
        target.into_os_string().into_string().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_nixos_host_is_told_from_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for part in ["etc", "proc", "run", "nix/var/nix/profiles"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(root.join("proc/uptime"), "86400.53 171234.10\n").unwrap();
        symlink("system-42-link", root.join("nix/var/nix/profiles/system")).unwrap();
        symlink("/nix/store/b-nixos", root.join("run/current-system")).unwrap();
        symlink("/nix/store/a-nixos", root.join("run/booted-system")).unwrap();
        let host = Host::new(root.to_owned());
        assert_eq!(host.generation_and_system(), (Some(42), Some("/nix/store/b-nixos".to_owned())));
        assert_eq!(host.booted_system_differs(), Some(true));
        assert_eq!(host.uptime_s(), Some(86_400));
        let machine = host.machine().unwrap();
        assert!(Uuid::parse_str(&machine).is_ok() && !machine.replace('-', "").contains("0123456789abcdef"));
    }

    #[test]
    fn a_reboot_is_due_when_the_next_boot_would_start_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for part in ["run", "nix/var/nix/profiles"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        for (system, kernel) in [("a", "6.1"), ("b", "6.1"), ("c", "6.2")] {
            let system = root.join("nix/store").join(system);
            fs::create_dir_all(&system).unwrap();
            symlink(format!("/nix/store/linux-{kernel}/bzImage"), system.join("kernel")).unwrap();
        }
        symlink("system-42-link", root.join("nix/var/nix/profiles/system")).unwrap();
        let required = |booted: &str, current: &str, next: &str| {
            let links = [("run/booted-system", booted), ("run/current-system", current)];
            for (link, system) in links.into_iter().chain([("nix/var/nix/profiles/system-42-link", next)]) {
                fs::remove_file(root.join(link)).ok();
                symlink(format!("/nix/store/{system}"), root.join(link)).unwrap();
            }
            Host::new(root.to_owned()).reboot_required().unwrap()
        };
        assert!(!required("a", "a", "a"));
        assert!(!required("a", "b", "b"), "switched, and the same kernel");
        assert!(required("a", "c", "c"), "switched, and another kernel");
        assert!(required("a", "a", "b"), "only the next boot starts it");
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path().to_owned());
        assert_eq!(host.machine(), None);
        assert_eq!(host.generation_and_system(), (None, None));
        assert_eq!(host.booted_system_differs(), None);
        assert_eq!(host.reboot_required(), None);
        assert_eq!(host.uptime_s(), None);
    }
}
