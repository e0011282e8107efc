//! The flake and its NixOS module, evaluated with the few packages of `tests/nixpkgs` in the place of nixpkgs.
//!
//! It takes `nix`, and for the unit `systemd-analyze`; where they are missing, a test says so and is over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program and returns what it did; `None` where there is no such program.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Past the test harness, which shows only what is said by tests that fail.
            writeln!(io::stderr(), "SKIPPED a test of the NixOS module: there is no {program} here").ok();
            None
        }
        output => Some(output.unwrap()),
    }
}

/// What a Nix expression over `tests/nixpkgs` comes to. Nothing is written: the store is none.
fn evaluated<T: serde::de::DeserializeOwned>(expression: &str) -> Option<T> {
    let expression = format!("with import ./tests/nixpkgs/project.nix {{ }}; {expression}");
    let arguments = ["--eval", "--strict", "--json", "--store", "dummy://", "--expr", &expression];
    let output = run("nix-instantiate", &arguments)?;
    assert!(output.status.success(), "{expression}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// The file of the listener's unit, in a folder where it finds its program.
fn unit_file(folder: &Path) -> Option<PathBuf> {
    let program = folder.join("homelab-deploy/bin/homelab-deploy");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    symlink(super::program(), program).unwrap();
    let settings = r#"{ metrics.listen = "127.0.0.1:9811"; }"#;
    let root = folder.display();
    let unit = format!("import ./tests/nixpkgs/unit.nix {{ settings = {settings}; root = \"{root}\"; }}");
    let file = folder.join("homelab-deploy-listener.service");
    fs::write(&file, evaluated::<String>(&unit)?).unwrap();
    Some(file)
}

#[test]
fn the_flake_has_what_it_promises_and_all_of_it_evaluates() {
    let Some(names) = evaluated::<BTreeMap<String, Vec<String>>>("names") else { return };
    let lines: Vec<String> = names.into_iter().map(|(kind, names)| format!("{kind}: {}", names.join(", "))).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    apps: default, demo
    checks: clippy, fmt, module, package, rollout
    devShells: default
    packages: default, demo
    ");
}

#[test]
fn settings_with_a_mistake_are_refused_in_a_sentence() {
    let Some(refusals) = evaluated::<BTreeMap<String, Vec<String>>>("evaluation.refusals") else { return };
    let said: Vec<String> = refusals.into_iter().map(|(what, said)| format!("{what}: {}", said.join("\n"))).collect();
    insta::assert_snapshot!(said.join("\n").replace("services.homelab-deploy.listener", "…"), @r#"
    dotted-hostname: ….hostname is "ns1.example.com", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover.
    half-a-certificate: ….tls.cert and tls.key belong together: set both or neither.
    key-in-store: ….nkeyFile and tls.key must not be in the Nix store, where everyone can read them: give the path as a string, of a file that only root can read.
    metrics-without-port: ….metrics.listen is "127.0.0.1", which is no address with a port, as 127.0.0.1:9811 is.
    no-hostname: ….hostname is "", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover.
    pinned-flake: ….flakeUrl is "git+https://git.example.com/nixos?ref=main", which names an output or a revision: leave off what follows # and the parameters ref and rev, as each request brings its own.
    relative-key: ….nkeyFile is "secrets/listener.seed", which is relative, and a service starts in no folder of yours: give an absolute path.
    reserved-hostname: ….hostname is "all", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover.
    subjects-without-role: ….deploySubjects leaves nothing to listen on: set role, or a subject without <role>.
    tier: ….tier is "staging": a host is of the tier test, to try changes on, or prod.
    wildcard-role: ….role is "d*", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover.
    "#);
}

#[test]
fn what_the_flake_checks_holds_here_too() {
    assert_ne!(evaluated("evaluation.holds"), Some(false));
}

#[test]
fn the_unit_is_the_one_that_was_looked_at() {
    let Some(unit) = evaluated::<String>("evaluation.unit { }") else { return };
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/nixos/homelab-deploy-listener.service");
    assert_eq!(unit, fs::read_to_string(known).unwrap(), "look at it, and then: scripts/unit >{known}");
}

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(unit) = unit_file(folder.path()) else { return };
    let Some(verified) = run("systemd-analyze", &["verify", "--man=no", unit.to_str().unwrap()]) else { return };
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(String::from_utf8(verified.stderr).unwrap(), "");
}

#[test]
fn the_listener_may_do_little_beside_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let Some(unit) = unit_file(folder.path()) else { return };
    // The threshold is in tenths: it fails above an exposure of 3.0, and a service without any sandbox has 9.6.
    let arguments = ["security", "--no-pager", "--offline=true", "--threshold=30", unit.to_str().unwrap()];
    let Some(judged) = run("systemd-analyze", &arguments) else { return };
    let table = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{table}{}", String::from_utf8_lossy(&judged.stderr));
}
