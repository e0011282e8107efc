use super::*;
use crate::testing::make_program;

const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

/// Makes a system in the store of the host below `root`, and returns its path.
pub(crate) fn make_system(root: &Path, name: &str, kernel: &str) -> String {
    let path = format!("/nix/store/{name}");
    let folder = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(&folder).unwrap();
    for part in ["kernel", "initrd", "kernel-modules"] {
        symlink(format!("/nix/store/{kernel}/{part}"), folder.join(part)).unwrap();
    }
    path
}

/// Points a link of the host at a system.
pub(crate) fn point(root: &Path, link: &str, to: &str) {
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
    let seen = SystemSnapshot::from_links(&host);
    let profile = seen.profile.clone().unwrap();
    assert_eq!((profile.generation, profile.system.path.as_str()), (Some(42), "/nix/store/b-nixos"));
    assert_eq!(profile.system.kernel[1].as_deref(), Some("/nix/store/linux-2/initrd"));
    assert_eq!((seen.current.clone(), seen.booted.clone().unwrap().path), (Some(profile.system), old));
    assert_eq!(seen.booted_system_differs(), Some(true));
    assert_eq!(host.uptime_s(), Some(86_400));
    assert!(host.has_systemd());
    let specialisation = || SystemSnapshot::from_links(&host).specialisation;
    assert_eq!(specialisation(), None);
    fs::create_dir_all(host.at(&new).join("specialisation")).unwrap();
    point(root, &format!("{}/specialisation/gaming", new.trim_start_matches('/')), "/nix/store/c-nixos");
    assert_eq!(specialisation(), None);
    point(root, "run/current-system", "/nix/store/c-nixos");
    assert_eq!(specialisation().as_deref(), Some("gaming"));
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
        SystemSnapshot::from_links(&Host::new(root.to_owned())).reboot_required().unwrap()
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
    let seen = SystemSnapshot::from_links(&host);
    assert_eq!(seen, SystemSnapshot::default());
    assert_eq!((seen.booted_system_differs(), seen.reboot_required()), (None, None));
    assert_eq!(host.uptime_s(), None);
    assert!(!host.has_systemd());
}

fn bare_host() -> tempfile::TempDir {
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
    let root = bare_host();
    assert_eq!(Host::new(root.path().to_owned()).activation(), None);
    let group = root.path().join("sys/fs/cgroup/system.slice").join(unit);
    fs::create_dir(&group).unwrap();
    fs::write(group.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    let holder = Host::new(root.path().to_owned()).activation().unwrap();
    assert_eq!((holder.id.as_str(), holder.operator), ("nixos-rebuild", None));
    assert_eq!(holder.since.as_second(), fs::metadata(&group).unwrap().mtime());
    fs::write(group.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(Host::new(root.path().to_owned()).activation(), None);
}

#[test]
fn an_activation_without_a_unit_is_seen_by_its_lock() {
    let root = bare_host();
    let lock = root.path().join("run/nixos/switch-to-configuration.lock");
    fs::write(&lock, "").unwrap();
    let file = fs::metadata(&lock).unwrap();
    let (major, minor, inode) = (major(file.dev()), minor(file.dev()), file.ino());
    let locks = |text: &str| fs::write(root.path().join("proc/locks"), text).unwrap();
    let others = format!(
        "1: POSIX  ADVISORY  WRITE 17 {major:02x}:{minor:02x}:{inode}7 0 EOF\n2: FLOCK  ADVISORY  WRITE 17 ff:{minor:02x}:{inode} 0 EOF\n"
    );
    locks(&others);
    assert_eq!(Host::new(root.path().to_owned()).activation(), None);
    locks(&format!("{others}2: -> FLOCK  ADVISORY  WRITE 18 {major:02x}:{minor:02x}:{inode} 0 EOF\n"));
    assert_eq!(Host::new(root.path().to_owned()).activation(), None);
    locks(&format!("{others}3: FLOCK  ADVISORY  WRITE 17 {major:02x}:{minor:02x}:{inode} 0 EOF\n"));
    assert_eq!(Host::new(root.path().to_owned()).activation().unwrap().id, "nixos-rebuild");
}

#[test]
fn the_kernel_writes_its_locks_as_they_are_read_here() {
    // Like /run on a host, /dev/shm is a file system in memory, whose device is the same for everyone.
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

#[test]
fn the_instance_stays_within_a_boot_and_changes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let in_boot = |boot: &str| instance(folder.path(), boot);
    let first = in_boot("b-1");
    assert_eq!(in_boot("b-1"), first);
    let second = in_boot("b-2");
    assert_ne!(second, first);
    assert_eq!(in_boot("b-2"), second);
    assert_ne!(in_boot("b-1"), first, "a boot does not come back");
}

#[test]
fn a_folder_that_is_emptied_at_each_boot_needs_no_boot_id() {
    let folder = tempfile::tempdir().unwrap();
    let kept = || instance(folder.path(), "");
    let first = kept();
    assert_eq!(kept(), first);
    fs::write(folder.path().join("instance"), "nonsense").unwrap();
    let second = kept();
    assert_ne!(second, first);
    assert_eq!(kept(), second);
    // An id that cannot be kept is better than none.
    assert_ne!(instance(&folder.path().join("missing"), ""), second);
}

#[tokio::test]
async fn a_system_says_which_commit_it_is_of_if_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let path = make_system(root, "a-nixos", "linux");
    point(root, "run/current-system", &path);
    let host = Host::new(root.to_owned());
    assert_eq!(SystemSnapshot::capture(&host).await.revision, None);

    let program = host.at(&path).join("sw/bin/nixos-version");
    let says = |script: &str| {
        make_program(&program, &format!("[ \"$1\" = --configuration-revision ] || exit 9\n{script}"));
    };
    says(&format!("echo {COMMIT}"));
    assert_eq!(SystemSnapshot::capture(&host).await.revision.unwrap().as_str(), COMMIT);
    says(&format!("echo {COMMIT}-dirty"));
    assert_eq!(SystemSnapshot::capture(&host).await.revision, None);
    says("echo configuration revision is unknown >&2; exit 1");
    assert_eq!(SystemSnapshot::capture(&host).await.revision, None);
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
