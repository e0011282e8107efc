//! Tests of rollbacks, on hosts made of links and of programs that only move them.

use std::os::unix::fs::symlink;

use super::*;
use crate::listener::run::RollbackTarget;

/// Returns a host like [`nixos`] with systems to activate and a profile to set, which records these steps.
pub(super) fn host() -> tempfile::TempDir {
    let folder = nixos();
    for system in ["old", "new"] {
        make_activatable(folder.path(), system);
    }
    let set = "[ \"$1 $3\" = '--profile --set' ] || exit 9
echo \"set $(basename $4)\" >>record
ln -sfn $4 $2-43-link
ln -sfn system-43-link $2";
    make_program(&folder.path().join("bin/nix-env"), set);
    folder
}

/// Gives a system its activation program, which acts on the folder of the host.
pub(super) fn make_activatable(folder: &Path, system: &str) {
    let activate = format!(
        "echo \"$1 {system} $NIXOS_NO_CHECK\" >>record
[ ! -e hang ] || {{ echo > hangs; sleep 600; }}
[ $1 = boot ] || ln -sfn /nix/store/{system} root/run/current-system
echo activating the configuration...
exit $(cat code 2>/dev/null || echo 0)"
    );
    make_program(&folder.join(format!("root/nix/store/{system}/bin/switch-to-configuration")), &activate);
}

/// Returns a switch to the new system with this confirmation timeout.
fn switch(script: &str, confirm_timeout_ms: u64) -> Supervised {
    Supervised::on(host(), script, |spec| spec.confirm_timeout_ms = Some(confirm_timeout_ms))
}

impl Supervised {
    pub(super) fn reaches(&self, phase: Phase) {
        eventually("the phase is reached", || (self.dir.phase() == phase).then_some(()));
    }

    /// Returns the recorded steps, without those of `nixos-rebuild`.
    pub(super) fn record(&self) -> String {
        fs::read_to_string(self.path("record")).unwrap_or_default().lines().collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn a_host_that_is_confirmed_in_time_stays_as_it_is() {
    let run = switch(SWITCH, 20_000);
    run.reaches(Phase::Confirm);
    assert_eq!(run.dir.get(RESULT), None);
    run.dir.write_volatile(CONFIRMED, &()).unwrap();
    let (result, _, run) = run.ended();
    assert_eq!(verdict(&result), "completed: switched to generation 42");
    assert_eq!((result.rolled_back, run.record().as_str()), (None, ""));
}

#[test]
fn a_host_that_nobody_confirms_returns() {
    // A confirmation from before the activation does not count.
    let (result, output, run) = switch(&format!("{SWITCH}\necho >run/confirmed"), 300).ended();
    insta::assert_snapshot!(verdict(&result), @"failed not_confirmed: no deployer confirmed within 0 s that it heard the host; the host returned to what ran before; it runs /nix/store/old, generation 43 boots next");
    insta::assert_snapshot!(run.record(), @"set old, switch old 1");
    assert_eq!((result.rolled_back, run.profile().as_deref()), (Some(true), Some("/nix/store/old")));
    assert!(output.ends_with("activating the configuration...\n"), "{output}");
    assert_eq!(run.dir.phase(), Phase::Return);
}

#[test]
fn a_failed_activation_is_undone_and_a_failed_build_is_not() {
    let (result, _, run) = switch(&format!("{SWITCH}\necho activating the configuration...\nexit 2"), 20_000).ended();
    insta::assert_snapshot!(verdict(&result), @"failed activation_failed: ended with code 2 after: activating the configuration...; the host returned to what ran before; it runs /nix/store/old, generation 43 boots next");
    insta::assert_snapshot!(run.record(), @"set old, switch old 1");
    assert_eq!(result.rolled_back, Some(true));

    // What a build prints is no activation.
    let folder = host();
    let build = "echo activating the configuration...\necho 'until you reboot'\necho 'error: no'\nexit 1";
    fs::write(folder.path().join("build"), build).unwrap();
    let confirmed = |spec: &mut RunSpec| spec.confirm_timeout_ms = Some(20_000);
    let (result, _, run) = Supervised::on(folder, SWITCH, confirmed).ended();
    assert_eq!((verdict(&result).as_str(), run.record().as_str()), ("failed build_failed: no", ""));

    let (result, _, run) = switch("echo 'error: no'; exit 1", 20_000).ended();
    assert_eq!((verdict(&result).as_str(), run.record().as_str()), ("failed build_failed: no", ""));
    assert_eq!(result.rolled_back, None);
}

#[test]
fn an_activation_that_takes_too_long_is_undone_in_a_time_of_its_own() {
    let hanging = format!("{SWITCH}\necho activating the configuration...\nsleep 600");
    let limited = |spec: &mut RunSpec| {
        (spec.confirm_timeout_ms, spec.settings.timeout) = (Some(20_000), Duration::from_millis(1_500));
    };
    let (result, _, run) = Supervised::on(host(), &hanging, limited).ended();
    insta::assert_snapshot!(verdict(&result), @"failed timeout: not finished after 1 s, and stopped while activating; the system may be half switched; the host returned to what ran before; it runs /nix/store/old, generation 43 boots next");
    assert_eq!((result.rolled_back, run.record().as_str()), (Some(true), "set old, switch old 1"));

    // The old system hangs as well.
    let (result, _, _) = Supervised::on(host(), &format!(">hang\n{hanging}"), limited).ended();
    insta::assert_snapshot!(verdict(&result), @"failed timeout: not finished after 1 s, and stopped while activating; the system may be half switched; the host could not return to what ran before: /nix/store/old/bin/switch-to-configuration switch took too long; it runs /nix/store/new, generation 43 boots next");
    assert_eq!(result.rolled_back, Some(false));
}

#[test]
fn a_return_that_fails_says_what_runs_now() {
    let (result, _, run) = switch(&format!("{SWITCH}\necho 2 >code"), 300).ended();
    insta::assert_snapshot!(verdict(&result), @"failed not_confirmed: no deployer confirmed within 0 s that it heard the host; the host could not return to what ran before: /nix/store/old/bin/switch-to-configuration switch ended with code 2; it runs /nix/store/old, generation 43 boots next");
    assert_eq!(result.rolled_back, Some(false));
    assert_eq!(run.record(), "set old, switch old 1");

    // The profile cannot be set, and the old services are still brought back.
    let folder = host();
    make_program(&folder.path().join("bin/nix-env"), "exit 1");
    let (result, _, run) = Supervised::on(folder, SWITCH, |spec| spec.confirm_timeout_ms = Some(300)).ended();
    assert_eq!((result.rolled_back, result.system.as_deref()), (Some(false), Some("/nix/store/old")));
    assert_eq!(run.record(), "switch old 1");
}

#[test]
fn a_system_that_was_only_tried_is_tried_again() {
    let folder = host();
    let root = folder.path().join("root");
    let tried = make_system(&root, "tried", "linux");
    make_activatable(folder.path(), "tried");
    point(&root, "run/current-system", &tried);
    let (result, _, run) = Supervised::on(folder, SWITCH, |spec| spec.confirm_timeout_ms = Some(300)).ended();
    insta::assert_snapshot!(run.record(), @"set old, boot old 1, test tried 1");
    assert_eq!((result.rolled_back, result.system.as_deref()), (Some(true), Some("/nix/store/tried")));
}

#[test]
fn a_boot_needs_no_confirmation_and_a_failed_one_sets_the_profile_back() {
    let boot = |script: &str| {
        let boot = SWITCH.lines().take(2).collect::<Vec<_>>().join("\n");
        Supervised::on(host(), &format!("{boot}\n{script}"), |spec| {
            (spec.action, spec.confirm_timeout_ms) = (Action::Boot, Some(20_000));
        })
        .ended()
    };
    let (result, _, run) = boot("");
    assert_eq!(verdict(&result), "completed: generation 42 is the one for the next boot");
    assert_eq!(run.record(), "");
    let (result, _, run) = boot("echo updating GRUB 2 menu...; exit 1");
    assert_eq!((result.error, result.rolled_back), (Some(ErrorCode::ActivationFailed), Some(true)));
    insta::assert_snapshot!(run.record(), @"set old, boot old 1");
}

#[test]
fn a_supervisor_that_is_asked_to_end_while_it_waits_leaves_the_host_as_it_is() {
    let run = switch(SWITCH, 20_000);
    run.reaches(Phase::Confirm);
    terminate(&run.supervisor.id().to_string());
    let (result, _, run) = run.ended();
    insta::assert_snapshot!(verdict(&result), @"failed interrupted: signal 15 ended the run while confirming; the deployed system is kept");
    assert_eq!((result.rolled_back, run.record().as_str()), (None, ""));
}

#[test]
fn a_host_returns_to_what_ran_before_another_run() {
    let (_, _, run) = Supervised::on(host(), SWITCH, |_| ()).ended();
    let facts = run.dir.get(BEFORE).unwrap();
    let roots = run.path("root/nix/var/nix/gcroots");
    fs::create_dir_all(&roots).unwrap();
    let Supervised { folder, .. } = run;
    let rollback_to = RollbackTarget {
        run: "r-1".to_owned(),
        snapshot: facts,
        revision: None,
        built_system: Some("/nix/store/new".to_owned()),
    };
    let (result, _, run) = Supervised::on(folder, "echo rebuilt; exit 9", |spec| {
        spec.rollback_to = Some(Box::new(rollback_to));
    })
    .ended();
    insta::assert_snapshot!(verdict(&result), @"completed: returned to what ran before r-1; it runs /nix/store/old, generation 43 boots next");
    assert_eq!((result.rolled_back, run.record().as_str()), (Some(true), "set old, switch old 1"));
}

#[test]
fn what_a_host_may_return_to_is_kept_from_the_garbage_collector() {
    let folder = host();
    let roots = folder.path().join("root/nix/var/nix/gcroots");
    fs::create_dir_all(roots.join("homelab-deploy")).unwrap();
    symlink("/nix/store/older", roots.join("homelab-deploy/current")).unwrap();
    let (_, _, _run) = Supervised::on(folder, SWITCH, |_| ()).ended();
    for root in ["current", "profile"] {
        assert_eq!(fs::read_link(roots.join("homelab-deploy").join(root)).unwrap(), Path::new("/nix/store/old"));
    }
}
