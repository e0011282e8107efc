//! What can be told of the host by looking at its files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::NAMESPACE;
use super::snapshot::SystemSnapshot;

/// The profile whose current generation is what boots next.
pub(super) const PROFILE: &str = "/nix/var/nix/profiles/system";

/// What the garbage collector spares.
const GC_ROOTS: &str = "/nix/var/nix/gcroots/homelab-deploy";

/// A system, and what of it only a reboot can put in the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub path: String,
    /// Where its kernel, initial ramdisk and kernel modules are, in this order.
    pub kernel: [Option<String>; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    pub system: System,
}

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

    /// The place of a file that the host knows by this absolute path.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn current(&self) -> Option<System> {
        self.system("run/current-system")
    }

    pub(super) fn booted(&self) -> Option<System> {
        self.system("run/booted-system")
    }

    /// The name of the specialisation that runs, where it is one of the system that the profile points at.
    pub(super) fn specialisation(&self) -> Option<String> {
        let (current, profile) = (self.current()?.path, self.profile()?.system.path);
        let specialisations = fs::read_dir(self.at(&profile).join("specialisation")).ok()?;
        let mut names = specialisations.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.find(|name| self.link(&format!("{profile}/specialisation/{name}")) == Some(current.clone()))
    }

    pub(super) fn profile(&self) -> Option<Profile> {
        // The profile is a link to `system-42-link`, beside it, and that one to the system.
        let generation = self.link(PROFILE)?;
        let beside = Path::new(PROFILE).with_file_name(&generation);
        let number = generation.rsplit('/').next()?.strip_prefix("system-").and_then(|name| name.strip_suffix("-link"));
        Some(Profile {
            generation: number.and_then(|number| number.parse().ok()),
            system: self.system(beside.to_str()?)?,
        })
    }

    /// Keeps the garbage collector from what the host may have to return to: what ran, and what was to boot. A failure
    /// changes nothing for now, and does not exist where there is no Nix.
    pub(super) fn keep(&self, facts: &SystemSnapshot) {
        let roots = self.at(GC_ROOTS);
        fs::create_dir(&roots).ok();
        for (name, path) in [("current", facts.current_path()), ("profile", facts.profile_path())] {
            if let Some(path) = path {
                let (root, new) = (roots.join(name), roots.join(format!("{name}.new")));
                fs::remove_file(&new).ok();
                symlink(path, &new).and_then(|()| fs::rename(new, root)).ok();
            }
        }
    }

    /// The link that keeps the garbage collector from the system that was fetched last.
    pub(super) fn fetched_root(&self) -> PathBuf {
        let roots = self.at(GC_ROOTS);
        fs::create_dir(&roots).ok();
        roots.join("fetched")
    }

    /// Whether units are to be had: whether systemd is the first process of the host.
    pub(super) fn has_systemd(&self) -> bool {
        self.at("run/systemd/system").is_dir()
    }

    /// Whether a reboot would change what runs; unknown where there is no system profile.
    pub(super) fn booted_system_differs(&self) -> Option<bool> {
        Some(self.booted()?.path != self.current()?.path)
    }

    /// Tells each boot of the machine from all others.
    pub(super) fn boot_id(&self) -> Option<String> {
        let id = fs::read_to_string(self.root.join("proc/sys/kernel/random/boot_id")).ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    /// Whether the next boot would start something else than what runs: another kernel, initrd or kernel modules than
    /// those of the last boot, or another system than the current one. Unknown where there is no system profile.
    pub(super) fn reboot_required(&self) -> Option<bool> {
        let (next, booted) = (self.profile()?.system, self.booted()?);
        Some(next.path != self.current()?.path || next.kernel != booted.kernel)
    }

    /// Since when the machine is up, in seconds.
    pub(super) fn uptime_s(&self) -> Option<u64> {
        let uptime = fs::read_to_string(self.root.join("proc/uptime")).ok()?;
        uptime.split('.').next()?.parse().ok()
    }

    fn system(&self, link: &str) -> Option<System> {
        let path = self.link(link)?;
        let part = |name| self.link(&format!("{path}/{name}"));
        Some(System { kernel: ["kernel", "initrd", "kernel-modules"].map(part), path })
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        target.into_os_string().into_string().ok()
    }
}

#[cfg(test)]
pub(in crate::listener) mod tests {
    use super::*;

    /// Makes a system in the store of the host whose file system begins at `root`, and returns its path.
    pub(in crate::listener) fn make_system(root: &Path, name: &str, kernel: &str) -> String {
        let path = format!("/nix/store/{name}");
        let folder = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(&folder).unwrap();
        for part in ["kernel", "initrd", "kernel-modules"] {
            symlink(format!("/nix/store/{kernel}/{part}"), folder.join(part)).unwrap();
        }
        path
    }

    /// Makes a system the one that a link of the host points at.
    pub(in crate::listener) fn point(root: &Path, link: &str, to: &str) {
        let link = root.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::remove_file(&link).ok();
        symlink(to, link).unwrap();
    }

    #[test]
    fn a_nixos_host_is_told_from_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for part in ["etc", "proc", "run/systemd/system"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(root.join("proc/uptime"), "86400.53 171234.10\n").unwrap();
        let (old, new) = (make_system(root, "a-nixos", "linux-1"), make_system(root, "b-nixos", "linux-2"));
        point(root, "nix/var/nix/profiles/system", "system-42-link");
        point(root, "nix/var/nix/profiles/system-42-link", &new);
        point(root, "run/current-system", &new);
        point(root, "run/booted-system", &old);

        let host = Host::new(root.to_owned());
        let profile = host.profile().unwrap();
        assert_eq!((profile.generation, profile.system.path.as_str()), (Some(42), "/nix/store/b-nixos"));
        assert_eq!(profile.system.kernel[1].as_deref(), Some("/nix/store/linux-2/initrd"));
        assert_eq!((host.current(), host.booted().unwrap().path), (Some(profile.system), old));
        assert_eq!(host.booted_system_differs(), Some(true));
        assert_eq!(host.uptime_s(), Some(86_400));
        assert!(host.has_systemd());
        assert_eq!(host.specialisation(), None);
        fs::create_dir_all(host.at(&new).join("specialisation")).unwrap();
        point(root, &format!("{}/specialisation/gaming", new.trim_start_matches('/')), "/nix/store/c-nixos");
        assert_eq!(host.specialisation(), None);
        point(root, "run/current-system", "/nix/store/c-nixos");
        assert_eq!(host.specialisation().as_deref(), Some("gaming"));
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
        assert_eq!((host.current(), host.booted(), host.profile()), (None, None, None));
        assert_eq!(host.booted_system_differs(), None);
        assert_eq!(host.reboot_required(), None);
        assert_eq!(host.uptime_s(), None);
        assert!(!host.has_systemd());
    }
}
