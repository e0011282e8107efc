//! Tests with somebody who switches the host by hand during a run, or after it.

use super::returning::host;
use super::*;
use crate::listener::run::RollbackTarget;

/// A switch by hand to the system `hand`, as shell commands in the folder of the host.
const BY_HAND: &str = "ln -sfn /nix/store/hand root/nix/var/nix/profiles/system-50-link
ln -sfn system-50-link root/nix/var/nix/profiles/system
ln -sfn /nix/store/hand root/run/current-system";

/// The same for the next boot only.
const TO_BOOT_BY_HAND: &str = "ln -sfn /nix/store/hand root/nix/var/nix/profiles/system-50-link
ln -sfn system-50-link root/nix/var/nix/profiles/system";

/// The output of an activation that goes on until the supervisor has read it.
const ACTIVATING: &str = "echo activating the configuration...
until grep -q activate run/phase; do sleep 0.01; done";

/// Returns a run that has to be confirmed, with this script during the build.
fn meanwhile(build: &str, script: &str) -> Supervised {
    let folder = host();
    make_activatable_by_hand(&folder);
    fs::write(folder.path().join("build"), build).unwrap();
    Supervised::on(folder, script, |spec| spec.confirm_timeout_ms = Some(300))
}

fn make_activatable_by_hand(folder: &tempfile::TempDir) {
    make_system(&folder.path().join("root"), "hand", "linux");
    returning::make_activatable(folder.path(), "hand");
}

#[test]
fn a_build_that_fails_undoes_nothing() {
    let (result, _, run) = meanwhile(&format!("{BY_HAND}\necho 'error: no'; exit 1"), "").ended();
    insta::assert_snapshot!(verdict(&result), @"failed build_failed: no; meanwhile the host was switched to /nix/store/hand by other means");
    assert_eq!((result.rolled_back, run.record().as_str()), (None, ""));
    assert_eq!(result.system.as_deref(), Some("/nix/store/hand"));
}

#[test]
fn what_was_switched_to_during_the_build_is_what_the_host_returns_to() {
    let (result, _, run) = meanwhile(BY_HAND, SWITCH).ended();
    insta::assert_snapshot!(verdict(&result), @"failed not_confirmed: no deployer confirmed within 0 s that it heard the host; the host returned to what ran before; it runs /nix/store/hand, generation 43 boots next");
    insta::assert_snapshot!(run.record(), @"set hand, switch hand 1");
    assert_eq!(run.dir.get(BEFORE).unwrap().current_path(), Some("/nix/store/hand"));
}

/// Waits until the supervisor knows that this system runs.
const UNTIL_KNOWN: &str = r#"until grep -q '"current":{"path":"/nix/store/hand"' run/before.json; do sleep 0.01; done"#;

#[test]
fn what_was_switched_to_before_anything_moves_is_what_the_host_returns_to() {
    let (result, _, run) = meanwhile("", &format!("{BY_HAND}\n{UNTIL_KNOWN}\n{SWITCH}")).ended();
    insta::assert_snapshot!(verdict(&result), @"failed not_confirmed: no deployer confirmed within 0 s that it heard the host; the host returned to what ran before; it runs /nix/store/hand, generation 43 boots next");
    insta::assert_snapshot!(run.record(), @"set hand, switch hand 1");
    assert_eq!(run.dir.get(BEFORE).unwrap().current_path(), Some("/nix/store/hand"));

    // A system that evaluates differently each time is still the run's, and the one that it replaced is unknown.
    let another = SWITCH.replace("new", "another");
    let said = "Done. The new configuration is /nix/store/another";
    let (result, _, run) = meanwhile("", &format!("{BY_HAND}\n{UNTIL_KNOWN}\n{another}\necho {said}")).ended();
    insta::assert_snapshot!(verdict(&result), @"failed not_confirmed: no deployer confirmed within 0 s that it heard the host; the host returned to what ran before; it runs /nix/store/old, generation 43 boots next");
    insta::assert_snapshot!(run.record(), @"set old, switch old 1");
    assert_eq!(run.dir.get(BEFORE).unwrap().current_path(), Some("/nix/store/old"));
}

#[test]
fn what_was_switched_to_during_the_activation_stays() {
    let failing = format!("{SWITCH}\n{ACTIVATING}\n{BY_HAND}\nexit 2");
    let (result, _, run) = meanwhile("", &failing).ended();
    insta::assert_snapshot!(verdict(&result), @"failed activation_failed: ended with code 2 after: activating the configuration...; nothing is undone: meanwhile the host was switched to /nix/store/hand by other means; it runs /nix/store/hand, generation 50 boots next");
    assert_eq!((result.rolled_back, run.record().as_str()), (None, ""));

    // The profile that somebody set meanwhile is theirs; the current system is the run's.
    let (result, _, run) = meanwhile("", &format!("{SWITCH}\n{ACTIVATING}\n{TO_BOOT_BY_HAND}")).ended();
    insta::assert_snapshot!(verdict(&result), @"failed verify_failed: /nix/store/new was built, and the system profile points at /nix/store/hand; the host returned to what ran before; meanwhile /nix/store/hand was set to boot next by other means; it runs /nix/store/old, generation 50 boots next");
    insta::assert_snapshot!(run.record(), @"test old 1");
    assert_eq!(run.profile().as_deref(), Some("/nix/store/hand"));
}

#[test]
fn what_was_switched_to_while_the_run_waits_to_be_confirmed_stays() {
    let switched = |confirms: bool| {
        let folder = host();
        make_activatable_by_hand(&folder);
        let run = Supervised::on(folder, SWITCH, |spec| {
            spec.confirm_timeout_ms = Some(if confirms { 60_000 } else { 1_500 });
        });
        run.reaches(Phase::Confirm);
        let by_hand = Command::new("sh").args(["-c", BY_HAND]).current_dir(run.folder.path()).status().unwrap();
        assert!(by_hand.success());
        if confirms {
            run.dir.write_volatile(CONFIRMED, &()).unwrap();
        }
        let (result, _, run) = run.ended();
        assert_eq!((result.rolled_back, run.record().as_str()), (None, ""));
        assert_eq!(result.system.as_deref(), Some("/nix/store/hand"));
        verdict(&result)
    };
    insta::assert_snapshot!(switched(false), @"failed not_confirmed: no deployer confirmed within 1 s that it heard the host; nothing is undone: meanwhile the host was switched to /nix/store/hand by other means; it runs /nix/store/hand, generation 50 boots next");
    insta::assert_snapshot!(switched(true), @"failed verify_failed: meanwhile the host was switched to /nix/store/hand by other means");
}

#[test]
fn what_was_switched_to_after_another_run_is_not_returned_from() {
    let (_, _, run) = Supervised::on(host(), SWITCH, |_| ()).ended();
    let facts = run.dir.get(BEFORE).unwrap();
    let Supervised { folder, .. } = run;
    make_activatable_by_hand(&folder);
    assert!(Command::new("sh").args(["-c", BY_HAND]).current_dir(folder.path()).status().unwrap().success());
    let made = Some("/nix/store/new".to_owned());
    let rollback_to = RollbackTarget { run: "r-1".to_owned(), snapshot: facts, revision: None, built_system: made };
    let (result, _, run) =
        Supervised::on(folder, "exit 9", |spec| spec.rollback_to = Some(Box::new(rollback_to))).ended();
    insta::assert_snapshot!(verdict(&result), @"failed verify_failed: not returned to what ran before r-1: meanwhile the host was switched to /nix/store/hand by other means; it runs /nix/store/hand, generation 50 boots next");
    assert_eq!((result.rolled_back, run.record().as_str()), (Some(false), ""));
}

#[test]
fn the_link_to_what_was_built_goes_with_the_run() {
    for action in [Action::Switch, Action::Test] {
        let (result, _, run) = Supervised::on(host(), SWITCH, |spec| spec.action = action).ended();
        assert_eq!(result.status, Status::Completed);
        assert_eq!(run.dir.built(), None);
        assert!(!run.path("result").is_symlink(), "{action} leaves one elsewhere");
    }
}
