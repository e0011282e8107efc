use super::*;
use crate::listener::config::UserUnits;
use crate::listener::nixos::{Profile, System};
use crate::listener::output::{built_system, clean_lines};
use crate::listener::run::tests::spec;
use crate::protocol::Action;

const OLD: &str = "/nix/store/old-nixos";
const NEW: &str = "/nix/store/new-nixos";

/// A switch of a host from the old system, generation 41, to the new one, generation 42.
struct Run {
    action: Action,
    end: ProcessEnd,
    phase: Phase,
    before: SystemSnapshot,
    after: SystemSnapshot,
    output: &'static str,
    user_units: UserUnits,
}

fn system(path: &str, kernel: &str) -> System {
    System { path: path.to_owned(), kernel: [Some(kernel.to_owned()), None, None] }
}

/// A host that was booted with the old system, and what it runs and boots next.
fn host(current: &str, generation: u64, next: &str) -> SystemSnapshot {
    SystemSnapshot {
        current: Some(system(current, "linux")),
        booted: Some(system(OLD, "linux")),
        profile: Some(Profile { generation: Some(generation), system: system(next, "linux") }),
        failed_units: Some(["old.service".to_owned()].into()),
        ..SystemSnapshot::default()
    }
}

fn switch(code: i32, phase: Phase, output: &'static str) -> Run {
    let (before, after) = (host(OLD, 41, OLD), host(NEW, 42, NEW));
    Run {
        action: Action::Switch,
        end: ProcessEnd::Exited(code),
        phase,
        before,
        after,
        output,
        user_units: UserUnits::Fail,
    }
}

/// Returns a run of another action, with the state after it.
fn action(action: Action, after: SystemSnapshot) -> Run {
    Run { action, after, ..switch(0, Phase::Activate, "") }
}

impl Run {
    fn verdict(&self) -> Verdict {
        let mut spec = RunSpec { action: self.action, ..spec("r-1") };
        spec.settings.user_units = self.user_units;
        judge(&spec, &self.attempt())
    }

    fn leaves_traces(&self) -> bool {
        may_have_changed(&self.verdict(), &self.attempt())
    }

    fn attempt(&self) -> Attempt {
        let lines = clean_lines(self.output);
        Attempt {
            end: self.end.clone(),
            phase: self.phase,
            before: self.before.clone(),
            after: self.after.clone(),
            built: built_system(&lines).map(str::to_owned),
            activated: true,
            lines,
        }
    }

    fn judged(&self) -> String {
        let Verdict { status, error, message, reboot_required, failed_units, .. } = self.verdict();
        let error = error.map(|error| format!(" {error}")).unwrap_or_default();
        let reboot = if reboot_required == Some(true) { " (reboot)" } else { "" };
        let units = if failed_units.is_empty() { String::new() } else { format!(" {failed_units:?}") };
        format!("{status}{error}{reboot}{units}: {message}")
    }
}

/// A switch that ended before the new system was activated.
fn refused(code: i32, output: &'static str) -> String {
    Run { after: host(OLD, 42, NEW), ..switch(code, Phase::Activate, output) }.judged()
}

fn judged(code: i32, phase: Phase, output: &'static str) -> String {
    switch(code, phase, output).judged()
}

#[test]
fn success_is_told_by_action() {
    insta::assert_snapshot!(switch(0, Phase::Activate, "error: ignored").judged(), @"completed: switched to generation 42");
    insta::assert_snapshot!(action(Action::Boot, host(OLD, 42, NEW)).judged(), @"completed (reboot): generation 42 is the one for the next boot");
    insta::assert_snapshot!(action(Action::Test, host(NEW, 41, OLD)).judged(), @"completed: activated until the next boot");
    insta::assert_snapshot!(action(Action::DryActivate, host(OLD, 41, OLD)).judged(), @"completed: dry-activate completed");
}

#[test]
fn exit_code_0_is_not_believed() {
    let named = "Done. The new configuration is /nix/store/new-nixos";
    let other = "Done. The new configuration is /nix/store/other-nixos";
    let switched = |after, output| Run { after, output, ..switch(0, Phase::Activate, "") }.judged();
    insta::assert_snapshot!(switched(host(NEW, 42, NEW), named), @"completed: switched to generation 42");
    insta::assert_snapshot!(switched(host(OLD, 42, NEW), named), @"failed verify_failed: /nix/store/new-nixos was built, and /run/current-system is /nix/store/old-nixos");
    insta::assert_snapshot!(switched(host(OLD, 42, NEW), ""), @"failed verify_failed: /nix/store/new-nixos was built, and /run/current-system is /nix/store/old-nixos");
    insta::assert_snapshot!(switched(host(NEW, 42, NEW), other), @"failed verify_failed: /nix/store/other-nixos was built, and the system profile points at /nix/store/new-nixos");
    insta::assert_snapshot!(switched(host(NEW, 41, OLD), named), @"failed verify_failed: /nix/store/new-nixos was built, and the system profile points at /nix/store/old-nixos");
    insta::assert_snapshot!(switched(SystemSnapshot { profile: None, ..host(NEW, 42, NEW) }, ""), @"failed verify_failed: there is no system profile after the run");
    insta::assert_snapshot!(switched(SystemSnapshot { current: None, ..host(NEW, 42, NEW) }, ""), @"failed verify_failed: /run/current-system is gone after the run");

    let boot = |after, output| Run { output, ..action(Action::Boot, after) }.judged();
    insta::assert_snapshot!(boot(host(OLD, 42, NEW), named), @"completed (reboot): generation 42 is the one for the next boot");
    insta::assert_snapshot!(boot(host(OLD, 41, OLD), named), @"failed verify_failed: /nix/store/new-nixos was built, and the system profile points at /nix/store/old-nixos");

    let test = |after, output| Run { output, ..action(Action::Test, after) }.judged();
    insta::assert_snapshot!(test(host(NEW, 41, OLD), named), @"completed: activated until the next boot");
    insta::assert_snapshot!(test(host(OLD, 41, OLD), named), @"failed verify_failed: /nix/store/new-nixos was built, and /run/current-system is /nix/store/old-nixos");
}

#[test]
fn what_cannot_be_verified_fails_nothing() {
    // The bash program does not name the built system. Another system now proves enough, and the same one may be right.
    insta::assert_snapshot!(action(Action::Test, host(NEW, 41, OLD)).judged(), @"completed: activated until the next boot");
    insta::assert_snapshot!(action(Action::Test, host(OLD, 41, OLD)).judged(), @"completed: activated until the next boot; what ran before runs, and it is not known whether that is what was built");
    // A machine that is no NixOS.
    let nothing = || SystemSnapshot::default();
    let bare = Run { before: nothing(), after: nothing(), ..switch(0, Phase::Build, "") };
    insta::assert_snapshot!(bare.judged(), @"completed: switch completed");
    // The same system once more.
    let again = Run { before: host(NEW, 42, NEW), ..switch(0, Phase::Activate, "") };
    insta::assert_snapshot!(again.judged(), @"completed: switched to generation 42");
}

#[test]
fn a_reboot_is_required_when_the_kernel_is_another_one() {
    let newer = |facts: SystemSnapshot| SystemSnapshot { booted: Some(system(OLD, "linux-1")), ..facts };
    insta::assert_snapshot!(action(Action::Switch, newer(host(NEW, 42, NEW))).judged(), @"completed (reboot): switched to generation 42");
    insta::assert_snapshot!(action(Action::Boot, newer(host(NEW, 42, NEW))).judged(), @"completed (reboot): generation 42 is the one for the next boot");
    assert_eq!(action(Action::Boot, host(NEW, 42, NEW)).verdict().reboot_required, Some(false));
    let unknown = SystemSnapshot { booted: None, ..host(NEW, 42, NEW) };
    assert_eq!(action(Action::Switch, unknown).verdict().reboot_required, None);
}

#[test]
fn a_missing_commit_is_not_a_server_that_cannot_be_reached() {
    let build = |output: &'static str| judged(1, Phase::Build, output);
    insta::assert_snapshot!(build("fatal: couldn't find remote ref refs/heads/main\nerror: program 'git' failed with exit code 128"), @"failed invalid_revision: main is no branch, tag or commit that the server of the flake has");
    insta::assert_snapshot!(build("fatal: remote error: upload-pack: not our ref 8c1f0e2\nerror: program 'git' failed with exit code 128"), @"failed invalid_revision: main is no branch, tag or commit that the server of the flake has");
    insta::assert_snapshot!(build("fatal: unable to access 'https://u:p@h/x/': Could not resolve host: h\nfatal: couldn't find remote ref main\nerror: program 'git' failed with exit code 128"), @"failed build_failed: git: unable to access 'https://h/x/': Could not resolve host: h");
    insta::assert_snapshot!(build("fatal: Authentication failed for 'https://h/x/'\nerror: program 'git' failed with exit code 128"), @"failed build_failed: git: Authentication failed for 'https://h/x/'");
    insta::assert_snapshot!(build("error: program 'git' failed with exit code 128"), @"failed build_failed: program 'git' failed with exit code 128");
}

#[test]
fn a_revision_that_was_not_resolved_is_told_as_it_was_found_out() {
    let end = ProcessEnd::Refused(ErrorCode::InvalidRevision, "https://h/x has no branch or tag \"main\"".to_owned());
    let unresolved = Run { end, ..switch(1, Phase::Resolve, "") };
    insta::assert_snapshot!(unresolved.judged(), @r#"failed invalid_revision: https://h/x has no branch or tag "main""#);
}

#[test]
fn the_essential_line_of_a_failed_build_is_found() {
    insta::assert_snapshot!(judged(1, Phase::Build, "error: flake 'git+https://h/x' does not provide attribute 'packages.x86_64-linux.nixosConfigurations.\"ns1\".config', 'nixosConfigurations.ns1'"), @"failed build_failed: ns1 is not in nixosConfigurations of the flake at main");
    let trace = "building the system configuration...\nerror:\n       … while calling the 'head' builtin\n         at /nix/store/x:1:2\n\n       error: attribute 'unboundd' missing\n       at /nix/store/y:3:4\nerror: Command 'nix build' returned non-zero exit status 1.\n";
    insta::assert_snapshot!(judged(1, Phase::Build, trace), @"failed build_failed: attribute 'unboundd' missing");
    let build = "error: builder for '/nix/store/a-hello.drv' failed with exit code 1;\n       last 1 log lines:\n       > no\nerror: 1 dependencies of derivation '/nix/store/b.drv' failed to build";
    insta::assert_snapshot!(judged(1, Phase::Build, build), @"failed build_failed: builder for '/nix/store/a-hello.drv' failed with exit code 1;");
    insta::assert_snapshot!(judged(100, Phase::Build, build), @"failed build_failed: builder for '/nix/store/a-hello.drv' failed with exit code 1;");
    insta::assert_snapshot!(judged(7, Phase::Build, "one\nlast words\nCommand '['nix', 'build']' returned non-zero exit status 7."), @"failed build_failed: last words");
    insta::assert_snapshot!(judged(7, Phase::Build, ""), @"failed build_failed: nixos-rebuild ended with code 7 and said nothing");
    let missing =
        ProcessEnd::NotStarted("nixos-rebuild cannot be started: No such file or directory (os error 2)".to_owned());
    insta::assert_snapshot!(Run { end: missing, ..switch(1, Phase::Build, "") }.judged(), @"failed build_failed: nixos-rebuild cannot be started: No such file or directory (os error 2): it must be on the PATH of the listener");
}

/// The output of both programs when units fail, and the addition of one of them.
const UNITS: &str = "activating the configuration...\nwarning: the following units failed: old.service, unbound.service\n× unbound.service - DNS\n";
const UNITS_NG: &str = "activating the configuration...\nwarning: the following units failed: old.service\n\nCommand '['systemd-run', '/nix/store/new-nixos/bin/switch-to-configuration', 'switch']' returned non-zero exit status 4.";
const UNITS_BASH: &str = "warning: the following units failed: old.service\nwarning: error(s) occurred while switching to the new configuration";

#[test]
fn units_that_fail_now_and_did_not_before_fail_the_activation() {
    // A unit that waits for a restart is named, but not on the list of failed units.
    for code in [4, 1] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(judged(code, Phase::Activate, UNITS), @r#"failed activation_failed ["unbound.service"]: the following units failed: unbound.service; the next boot starts generation 42"#);
        }
    }
    let failed = |unit: &str| Some(["old.service".to_owned(), unit.to_owned()].into());
    let listed = Run {
        after: SystemSnapshot { failed_units: failed("x.service"), ..host(NEW, 42, NEW) },
        ..switch(4, Phase::Activate, "")
    };
    insta::assert_snapshot!(listed.judged(), @r#"failed activation_failed ["x.service"]: the following units failed: x.service; the next boot starts generation 42"#);
    // A unit that fails after the activation is noted, and the activation's own result counts.
    let late = Run {
        after: SystemSnapshot { failed_units: failed("x.service"), ..host(NEW, 42, NEW) },
        ..switch(0, Phase::Activate, "")
    };
    insta::assert_snapshot!(late.judged(), @r#"completed ["x.service"]: switched to generation 42; failed since: x.service"#);
}

#[test]
fn units_that_had_failed_before_are_a_note() {
    insta::assert_snapshot!(judged(4, Phase::Activate, UNITS_NG), @"completed: switched to generation 42; had failed before: old.service");
    insta::assert_snapshot!(judged(1, Phase::Build, UNITS_BASH), @"completed: switched to generation 42; had failed before: old.service");
    insta::assert_snapshot!(judged(4, Phase::Activate, "warning: user activation for alice failed"), @"failed activation_failed: user units failed: the activation of alice; the next boot starts generation 42");
    // It is verified anyway.
    let not_switched = Run { after: host(OLD, 42, NEW), ..switch(4, Phase::Activate, UNITS_NG) };
    insta::assert_snapshot!(not_switched.judged(), @"failed verify_failed: /nix/store/new-nixos was built, and /run/current-system is /nix/store/old-nixos; had failed before: old.service");
    // Code 4 hides that the activation script failed, too.
    let script = "Activation script snippet 'users' failed (1)\nwarning: the following units failed: old.service";
    insta::assert_snapshot!(judged(4, Phase::Activate, script), @r#"failed activation_failed: Activation script snippet 'users' failed (1); the next boot starts generation 42"#);
    // The units that had failed before are unknown.
    let unknown = Run {
        before: SystemSnapshot { failed_units: None, ..host(OLD, 41, OLD) },
        ..switch(4, Phase::Activate, UNITS_NG)
    };
    insta::assert_snapshot!(unknown.judged(), @r#"failed activation_failed ["old.service"]: the following units failed: old.service; the next boot starts generation 42"#);
}

#[test]
fn a_failed_activation_is_told_from_a_failed_build() {
    insta::assert_snapshot!(judged(2, Phase::Activate, "activating the configuration...\nActivation script snippet 'users' failed (1)\nsetting up /etc...\nFailed to run activate script\nCommand 'x' returned non-zero exit status 2."), @"failed activation_failed: Activation script snippet 'users' failed (1); the next boot starts generation 42");
    insta::assert_snapshot!(refused(1, "error: Could not acquire lock\nwarning: error(s) occurred while switching to the new configuration"), @"failed activation_failed: another activation is in progress: Could not acquire lock; the profile points at generation 42, the boot loader does not: a reboot starts what runs now");
    let unmoved = Run { after: host(OLD, 41, OLD), ..action(Action::Test, SystemSnapshot::default()) };
    let unmoved = Run { end: ProcessEnd::Exited(2), ..unmoved };
    insta::assert_snapshot!(unmoved.judged(), @"failed activation_failed: the activation ended with code 2");
}

#[test]
fn an_activation_that_says_nothing_is_no_build_when_the_profile_has_moved() {
    let output = "error: cannot link the profile\nDone. The new configuration is /nix/store/new-nixos";
    let judged = |after| Run { after, ..switch(1, Phase::Build, output) }.judged();
    insta::assert_snapshot!(judged(host(OLD, 41, OLD)), @"failed build_failed: cannot link the profile");
    insta::assert_snapshot!(judged(host(OLD, 42, NEW)), @"failed activation_failed: cannot link the profile; the profile points at generation 42, and it is not known whether the boot loader does");
    insta::assert_snapshot!(judged(host(OLD, 42, "/nix/store/by-hand")), @"failed build_failed: cannot link the profile");
}

#[test]
fn a_needed_reboot_is_success_for_boot_only() {
    let output = "Warning: the new configuration won't take effect until you reboot the system.";
    for code in [100, 1] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(judged(code, Phase::Build, output), @r#"failed activation_failed (reboot): the new system takes effect only after a reboot: deploy it with action = "boot", and reboot the host; the next boot starts generation 42"#);
        }
    }
    let boot = |after| Run { end: ProcessEnd::Exited(100), ..action(Action::Boot, after) }.judged();
    insta::assert_snapshot!(boot(host(OLD, 42, NEW)), @"completed (reboot): generation 42 is the one for the next boot");
    insta::assert_snapshot!(boot(SystemSnapshot { profile: None, ..host(OLD, 42, NEW) }), @"failed verify_failed (reboot): there is no system profile after the run");
}

#[test]
fn a_system_that_refuses_to_be_switched_to_says_what_to_do() {
    let inhibited = "Checking switch inhibitors...\nThere are changes to critical components of the system:\n\ndbus-implementation : dbus -> broker\n\nSwitching into this system is not recommended.\nYou probably want to run 'nixos-rebuild boot' and reboot your system instead.\n\nPre-switch check 'switchInhibitors' failed\nPre-switch checks failed\n";
    insta::assert_snapshot!(refused(1, inhibited), @r#"failed activation_failed: critical components of the system would change (dbus-implementation : dbus -> broker): deploy it with action = "boot", and reboot the host; the profile points at generation 42, the boot loader does not: a reboot starts what runs now"#);
    insta::assert_snapshot!(refused(1, "curl: (7) Failed to connect\nPre-switch check 'blogIsUp' failed\nPre-switch checks failed"), @r#"failed activation_failed: Pre-switch check 'blogIsUp' failed: deploy it with action = "boot", and reboot the host; the profile points at generation 42, the boot loader does not: a reboot starts what runs now"#);
}

#[test]
fn runs_that_were_ended_say_by_what() {
    let ended = |end, phase| Run { end, after: host(OLD, 41, OLD), ..switch(0, phase, "") }.judged();
    insta::assert_snapshot!(ended(ProcessEnd::TimedOut, Phase::Resolve), @"failed timeout: not finished after 10 s, and stopped while resolving");
    insta::assert_snapshot!(ended(ProcessEnd::TimedOut, Phase::Build), @"failed timeout: not finished after 10 s, and stopped while building");
    insta::assert_snapshot!(ended(ProcessEnd::TimedOut, Phase::Activate), @"failed timeout: not finished after 10 s, and stopped while activating; the system may be half switched");
    insta::assert_snapshot!(ended(ProcessEnd::Killed(9), Phase::Build), @"failed interrupted: signal 9 ended the run while building");
    insta::assert_snapshot!(judged(137, Phase::Activate, ""), @"failed interrupted: signal 9 ended the run while activating; the profile points at generation 42, and it is not known whether the boot loader does");
}

#[test]
fn units_of_a_user_are_held_against_the_run_unless_the_host_says_otherwise() {
    let output = "activating the configuration...\nreloading user units for alice...\nwarning: the following user units failed: dbus.service\nwarning: user activation for alice failed\n";
    insta::assert_snapshot!(judged(4, Phase::Activate, output), @"failed activation_failed: user units failed: dbus.service of alice; the next boot starts generation 42");
    let warns = |output| Run { user_units: UserUnits::Warn, ..switch(4, Phase::Activate, output) }.judged();
    insta::assert_snapshot!(warns(output), @"completed: switched to generation 42; user units failed: dbus.service of alice");
    // Other failures still count.
    let both =
        "reloading user units for alice...\nwarning: user activation for alice failed\nFailed to start dns.service\n";
    insta::assert_snapshot!(warns(both), @r#"failed activation_failed ["dns.service"]: the following units failed: dns.service; the next boot starts generation 42"#);
    insta::assert_snapshot!(judged(4, Phase::Activate, both), @r#"failed activation_failed ["dns.service"]: the following units failed: dns.service; user units failed: the activation of alice; the next boot starts generation 42"#);
    let script = "Activation script snippet 'users' failed (1)\nFailed to run activate script\nwarning: user activation for alice failed\n";
    insta::assert_snapshot!(warns(script), @"failed activation_failed: Activation script snippet 'users' failed (1); the next boot starts generation 42");
    // And it is verified.
    let not_switched =
        Run { user_units: UserUnits::Warn, after: host(OLD, 42, NEW), ..switch(4, Phase::Activate, output) };
    insta::assert_snapshot!(not_switched.judged(), @"failed verify_failed: /nix/store/new-nixos was built, and /run/current-system is /nix/store/old-nixos; user units failed: dbus.service of alice");
}

#[test]
fn an_exit_code_that_nothing_explains_is_a_failure() {
    insta::assert_snapshot!(judged(4, Phase::Activate, "activating the configuration...\nsetting up /etc...\n"), @"failed activation_failed: switch-to-configuration ended with code 4 and named no unit that failed; its last line: setting up /etc...; the next boot starts generation 42");
    insta::assert_snapshot!(judged(4, Phase::Activate, ""), @"failed activation_failed: the activation ended with code 4; the next boot starts generation 42");
    // A failed job is no failed unit: a dependency may have failed.
    insta::assert_snapshot!(judged(4, Phase::Activate, "Failed to start dns.service\nwarning: the following units failed: old.service"), @r#"failed activation_failed ["dns.service"]: the following units failed: dns.service; the next boot starts generation 42"#);
    insta::assert_snapshot!(judged(4, Phase::Activate, "Failed to start old.service\nwarning: the following units failed: old.service"), @"completed: switched to generation 42; had failed before: old.service");
}

#[test]
fn a_death_is_told_with_all_its_causes() {
    let died = "activating the configuration...\nError: Failed to reset failed units\n\nCaused by:\n    0: Failed to call\n    1: Connection timed out\nCommand 'x' returned non-zero exit status 1.";
    insta::assert_snapshot!(judged(1, Phase::Activate, died), @"failed activation_failed: Failed to reset failed units: Failed to call: Connection timed out; the next boot starts generation 42");
    let early = "Error: Failed to read /etc/os-release\n\nCaused by:\n    No such file or directory (os error 2)\nwarning: error(s) occurred while switching to the new configuration";
    insta::assert_snapshot!(refused(1, early), @"failed activation_failed: Failed to read /etc/os-release: No such file or directory (os error 2); the profile points at generation 42, and it is not known whether the boot loader does");
}

#[test]
fn who_finds_the_lock_taken_has_failed_only_if_something_moved() {
    let locked = "Could not acquire lock\nCommand 'x/switch-to-configuration test' returned non-zero exit status 11.";
    insta::assert_snapshot!(refused(11, locked), @"failed activation_failed: another activation is in progress: Could not acquire lock; the profile points at generation 42, the boot loader does not: a reboot starts what runs now");
    let test = Run { end: ProcessEnd::Exited(11), output: locked, ..action(Action::Test, host(OLD, 41, OLD)) };
    insta::assert_snapshot!(test.judged(), @"failed already_running: another activation is in progress: Could not acquire lock");
    assert!(!test.leaves_traces());
    assert!(Run { after: host(OLD, 42, NEW), ..test }.leaves_traces());
}

#[test]
fn what_the_next_boot_starts_is_said_when_it_is_known() {
    let full = "updating GRUB 2 menu...\ncp: error writing '/boot/kernel': No space left on device\nFailed to install bootloader\nCommand 'x/switch-to-configuration switch' returned non-zero exit status 1.";
    insta::assert_snapshot!(refused(1, full), @"failed activation_failed: Failed to install bootloader: cp: error writing '/boot/kernel': No space left on device; the profile points at generation 42, the boot loader does not: a reboot starts what runs now");
    // The current system was only tested.
    let tested = Run {
        before: host("/nix/store/tried", 41, OLD),
        after: host("/nix/store/tried", 42, NEW),
        ..switch(1, Phase::Activate, full)
    };
    insta::assert_snapshot!(tested.judged(), @"failed activation_failed: Failed to install bootloader: cp: error writing '/boot/kernel': No space left on device; the profile points at generation 42, the boot loader does not: a reboot starts generation 41");
    let stopped = |output| Run { end: ProcessEnd::TimedOut, ..switch(0, Phase::Activate, output) }.judged();
    insta::assert_snapshot!(stopped("activating the configuration..."), @"failed timeout: not finished after 10 s, and stopped while activating; the system may be half switched; the next boot starts generation 42");
    insta::assert_snapshot!(stopped("updating GRUB 2 menu..."), @"failed timeout: not finished after 10 s, and stopped while activating; the system may be half switched; the profile points at generation 42, and it is not known whether the boot loader does");
    insta::assert_snapshot!(refused(1, "Failed to start transient service unit: Unit nixos-rebuild-switch-to-configuration.service was already loaded or has a fragment file.\nCommand 'x/switch-to-configuration' returned non-zero exit status 1."), @"failed activation_failed: another activation is in progress: Failed to start transient service unit: Unit nixos-rebuild-switch-to-configuration.service was already loaded or has a fragment file; if none is, `systemctl stop nixos-rebuild-switch-to-configuration.service; systemctl reset-failed nixos-rebuild-switch-to-configuration.service` helps; the profile points at generation 42, the boot loader does not: a reboot starts what runs now");
}

#[test]
fn a_switch_leaves_the_specialisation_that_ran() {
    let gaming = SystemSnapshot { specialisation: Some("gaming".to_owned()), ..host("/nix/store/gaming", 41, OLD) };
    let left = |action| Run { before: gaming.clone(), action, ..switch(0, Phase::Activate, "") }.judged();
    insta::assert_snapshot!(left(Action::Switch), @"completed: switched to generation 42; the specialisation gaming ran before, and does not any more");
    insta::assert_snapshot!(left(Action::Boot), @"completed: generation 42 is the one for the next boot");
}

#[test]
fn a_check_that_forbids_a_boot_is_not_got_around_by_one() {
    let output = "Pre-switch check 'blogIsUp' failed\nPre-switch checks failed";
    let boot = Run { end: ProcessEnd::Exited(1), output, ..action(Action::Boot, host(OLD, 42, NEW)) };
    insta::assert_snapshot!(boot.judged(), @"failed activation_failed: Pre-switch check 'blogIsUp' failed; the profile points at generation 42, the boot loader does not: a reboot starts what runs now");
}
