//! Tests of systems that were built elsewhere, on hosts with a scripted `nix`.

use super::returning::{host, make_activatable};
use super::*;
use crate::protocol::SystemPath;

const KEY: &str = "fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// The name of the system in the store.
const BASE: &str = "0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos-system-ns1";

fn system() -> SystemPath {
    format!("/nix/store/{BASE}").parse().unwrap()
}

/// Returns a host whose caches have the signed system, and which records each call of Nix. It has no program that
/// evaluates or builds.
fn fetching_host() -> tempfile::TempDir {
    let folder = host();
    let system = make_system(&folder.path().join("root"), BASE, "linux");
    make_activatable(folder.path(), BASE);
    let etc = folder.path().join("root").join(system.trim_start_matches('/')).join("etc");
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("hostname"), "ns1\n").unwrap();
    let bin = folder.path().join("bin");
    make_program(&bin.join("nix-store"), "echo nix-store \"$@\" >>calls\n[ ! -e fetch ] || . ./fetch");
    let nix = r#"shift 2
echo nix "$@" >>calls
case "$1 $2" in
'path-info --sigs') printf '%s\tultimate fleet-1:abc= %s\n' "$3" "$(cat ca 2>/dev/null)" ;;
'config show') echo http://one http://two ;;
'store verify') [ ! -e unsigned ] || { echo "path '$5' is untrusted"; exit 2; } ;;
'store copy-sigs') [ "$4 $(cat signed 2>/dev/null)" != "http://two yes" ] || rm unsigned ;;
*) exit 9 ;;
esac"#;
    make_program(&bin.join("nix"), nix);
    for other in ["git", "nix-build", "nix-instantiate"] {
        make_program(&bin.join(other), "echo \"$0\" >>calls; exit 9");
    }
    folder
}

/// Returns a run of the system on a host that these files control.
fn run(files: &[(&str, &str)], adjust: impl FnOnce(&mut RunSpec)) -> (String, Supervised) {
    let folder = fetching_host();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let (result, _, run) = Supervised::on(folder, "echo rebuilt >>calls; exit 9", |spec| {
        (spec.system, spec.settings.system_keys) = (Some(system()), vec![KEY.parse().unwrap()]);
        adjust(spec);
    })
    .ended();
    (verdict(&result).replace(BASE, "SYSTEM"), run)
}

impl Supervised {
    fn did(&self) -> String {
        self.record().replace(BASE, "SYSTEM")
    }

    fn calls(&self) -> String {
        let root = self.path("root").display().to_string();
        fs::read_to_string(self.path("calls")).unwrap().replace(BASE, "SYSTEM").replace(&root, "ROOT")
    }
}

#[test]
fn a_system_is_fetched_checked_and_activates_itself() {
    let (said, run) = run(&[], |_| ());
    insta::assert_snapshot!(said, @"completed: switched to generation 43");
    insta::assert_snapshot!(run.did(), @"set SYSTEM, switch SYSTEM");
    insta::assert_snapshot!(run.calls(), @"
    nix-store --realise /nix/store/SYSTEM --add-root ROOT/nix/var/nix/gcroots/homelab-deploy/fetched --option max-jobs 0 --option builders  --option fallback false --option narinfo-cache-negative-ttl 0 --option narinfo-cache-positive-ttl 0
    nix path-info --sigs /nix/store/SYSTEM
    nix store verify --sigs-needed 1 /nix/store/SYSTEM --option trusted-public-keys fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= --option secret-key-files
    ");
}

#[test]
fn each_action_does_no_more_than_it_says() {
    let done = |action| {
        let (said, run) = run(&[], |spec| spec.action = action);
        format!("{said}: {}", run.did())
    };
    insta::assert_snapshot!(done(Action::Boot), @"completed: generation 43 is the one for the next boot: set SYSTEM, boot SYSTEM");
    insta::assert_snapshot!(done(Action::Test), @"completed: activated until the next boot: test SYSTEM");
    insta::assert_snapshot!(done(Action::DryActivate), @"completed: dry-activate completed: dry-activate SYSTEM");
    insta::assert_snapshot!(done(Action::Fetch), @"completed: fetched:");
}

#[test]
fn a_system_that_no_trusted_key_has_signed_is_not_activated() {
    let refused = |files: &[(&str, &str)]| {
        let (said, run) = run(files, |spec| spec.confirm_timeout_ms = Some(20_000));
        assert_eq!(run.did(), "", "nothing is activated");
        (said, run)
    };
    let (said, run) = refused(&[("unsigned", "")]);
    insta::assert_snapshot!(said, @"failed untrusted: /nix/store/SYSTEM is not signed by a key that may sign systems for this host: fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=");
    insta::assert_snapshot!(run.calls().lines().skip(2).collect::<Vec<_>>().join("\n"), @"
    nix store verify --sigs-needed 1 /nix/store/SYSTEM --option trusted-public-keys fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= --option secret-key-files 
    nix config show substituters
    nix store copy-sigs --substituter http://one /nix/store/SYSTEM --option narinfo-cache-negative-ttl 0 --option narinfo-cache-positive-ttl 0
    nix store copy-sigs --substituter http://two /nix/store/SYSTEM --option narinfo-cache-negative-ttl 0 --option narinfo-cache-positive-ttl 0
    nix store verify --sigs-needed 1 /nix/store/SYSTEM --option trusted-public-keys fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= --option secret-key-files
    ");
    // Nix itself calls it trusted.
    insta::assert_snapshot!(refused(&[("ca", "ca:fixed:r:sha256:1cix4")]).0, @"failed untrusted: /nix/store/SYSTEM is named after its content, and so Nix does not check who signed it");
    insta::assert_snapshot!(refused(&[("fetch", "echo \"warning: ignoring substitute for '/nix/store/x' from 'http://h', as it's not signed by any of the keys in 'trusted-public-keys'\" >&2; exit 1")]).0, @"failed untrusted: ignoring substitute for '/nix/store/x' from 'http://h', as it's not signed by any of the keys in 'trusted-public-keys'");
    insta::assert_snapshot!(refused(&[("fetch", "echo \"don't know how to build these paths:\n  /nix/store/x-dep\nerror: build of '/nix/store/x' failed\" >&2; exit 1")]).0, @"failed not_available: no cache of this host has /nix/store/x-dep");
}

#[test]
fn a_signature_of_what_the_host_has_built_itself_may_come_from_a_cache() {
    let (said, run) = run(&[("unsigned", ""), ("signed", "yes")], |_| ());
    assert!(said.starts_with("completed"), "{said}");
    assert!(run.calls().contains("copy-sigs --substituter http://two"), "{}", run.calls());
}

#[test]
fn the_system_of_another_host_is_not_activated() {
    let named = |name: Option<&str>, attr: &str| {
        let folder = fetching_host();
        let file = folder.path().join(format!("root/nix/store/{BASE}/etc/hostname"));
        name.map_or_else(|| fs::remove_file(&file), |name| fs::write(&file, name)).unwrap();
        let (result, _, run) = Supervised::on(folder, "", |spec| {
            (spec.system, spec.settings.attr) = (Some(system()), Some(attr.parse().unwrap()));
        })
        .ended();
        let root = run.path("root").display().to_string();
        (verdict(&result).replace(BASE, "SYSTEM").replace(&root, "ROOT"), run.did())
    };
    let (said, did) = named(Some("ns2\n"), "web");
    insta::assert_snapshot!(said, @"failed wrong_host: /nix/store/SYSTEM is the system of ns2, and this host is ns1");
    assert_eq!(did, "");
    let (said, did) = named(None, "web");
    insta::assert_snapshot!(said, @"failed wrong_host: /nix/store/SYSTEM does not name its host: No such file or directory (os error 2)");
    assert_eq!(did, "");
    assert!(
        named(Some("web"), "web").0.starts_with("completed"),
        "the name of the configuration is one of the host's own"
    );
}

#[test]
fn what_runs_in_the_end_has_to_be_what_was_asked_for() {
    let lying = |script: &str, action| {
        let folder = fetching_host();
        make_program(&folder.path().join(format!("root/nix/store/{BASE}/bin/switch-to-configuration")), script);
        let (result, _, run) =
            Supervised::on(folder, "", |spec| (spec.system, spec.action) = (Some(system()), action)).ended();
        format!("{} ({})", verdict(&result).replace(BASE, "SYSTEM"), run.did())
    };
    let says_another = "echo 'Done. The new configuration is /nix/store/old'";
    insta::assert_snapshot!(lying(says_another, Action::Switch), @"failed verify_failed: /nix/store/SYSTEM was built, and /run/current-system is /nix/store/old (set SYSTEM)");
    insta::assert_snapshot!(lying(says_another, Action::Test), @"failed verify_failed: /nix/store/SYSTEM was built, and /run/current-system is /nix/store/old ()");
    insta::assert_snapshot!(lying("ln -sfn /nix/store/old root/run/current-system", Action::Switch), @"failed verify_failed: /nix/store/SYSTEM was built, and /run/current-system is /nix/store/old (set SYSTEM)");
    insta::assert_snapshot!(lying("rm root/nix/var/nix/profiles/system; exit 0", Action::Boot), @"failed verify_failed: there is no system profile after the run (set SYSTEM)");
}

#[test]
fn an_activation_that_fails_is_taken_back() {
    let activated = |script: Option<&str>| {
        let folder = fetching_host();
        let program = folder.path().join(format!("root/nix/store/{BASE}/bin/switch-to-configuration"));
        fs::remove_file(&program).unwrap();
        if let Some(script) = script {
            make_program(&program, script);
        }
        let (result, _, run) = Supervised::on(folder, "", |spec| {
            (spec.system, spec.confirm_timeout_ms) = (Some(system()), Some(20_000));
        })
        .ended();
        let root = run.path("root").display().to_string();
        (verdict(&result).replace(BASE, "SYSTEM").replace(&root, "ROOT"), run.did())
    };
    let (said, did) = activated(Some("echo activating the configuration...; exit 2"));
    insta::assert_snapshot!(said, @"failed activation_failed: ended with code 2 after: activating the configuration...; the host returned to what ran before; it runs /nix/store/old, generation 43 boots next");
    assert_eq!(did, "set SYSTEM, set old, switch old 1");
    // The system has no program that could activate it.
    let (said, did) = activated(None);
    insta::assert_snapshot!(said, @"failed activation_failed: ROOT/nix/store/SYSTEM/bin/switch-to-configuration cannot be started: No such file or directory (os error 2); the host returned to what ran before; it runs /nix/store/old, generation 43 boots next");
    assert_eq!(did, "set SYSTEM, set old, switch old 1");
}

#[test]
fn a_fetch_that_takes_too_long_is_ended() {
    let (said, run) = run(&[("fetch", "sleep 600")], |spec| spec.settings.timeout = Duration::from_secs(1));
    insta::assert_snapshot!(said, @"failed timeout: not finished after 1 s, and stopped while fetching");
    assert_eq!(run.did(), "");
}
