use jiff::Timestamp;

use super::*;
use crate::listener::output::clean_lines;
use crate::listener::run::tests::spec;

fn result(end: End, phase: Phase) -> RunResult {
    RunResult {
        end,
        phase,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: Timestamp::UNIX_EPOCH,
        generation: Some(42),
        system: None,
    }
}

fn judged(action: Action, end: End, phase: Phase, output: &str) -> String {
    let spec = Spec { action, ..spec("r-1", &[]) };
    let verdict = judge(&spec, &"ns1".parse().unwrap(), Some(&result(end, phase)), &clean_lines(output));
    let error = verdict.error.map(|error| format!(" {error}"));
    let reboot = verdict.reboot_required.map(|_| " (reboot)");
    format!("{}{}{}: {}", verdict.status, error.unwrap_or_default(), reboot.unwrap_or_default(), verdict.message)
}

fn switch(code: i32, phase: Phase, output: &str) -> String {
    judged(Action::Switch, End::Exited(code), phase, output)
}

#[test]
fn success_is_told_by_action() {
    let done = |action| judged(action, End::Exited(0), Phase::Activate, "error: ignored");
    insta::assert_snapshot!(done(Action::Switch), @"completed: switched to generation 42");
    insta::assert_snapshot!(done(Action::Boot), @"completed: generation 42 is the one for the next boot");
    insta::assert_snapshot!(done(Action::Test), @"completed: activated until the next boot");
    insta::assert_snapshot!(done(Action::DryActivate), @"completed: dry-activate completed");
}

#[test]
fn a_missing_revision_is_not_a_server_that_cannot_be_reached() {
    let nix = "error: program 'git' failed with exit code 128";
    let build = |git: &str| switch(1, Phase::Build, &format!("{git}\n{nix}"));
    insta::assert_snapshot!(build("fatal: couldn't find remote ref refs/heads/main"), @"failed invalid_revision: main is no branch, tag or commit that the server of the flake has");
    insta::assert_snapshot!(build("fatal: remote error: upload-pack: not our ref 8c1f0e2"), @"failed invalid_revision: main is no branch, tag or commit that the server of the flake has");
    insta::assert_snapshot!(build("fatal: unable to access 'https://u:p@h/x/': Could not resolve host: h\nfatal: couldn't find remote ref main"), @"failed build_failed: git: unable to access 'https://h/x/': Could not resolve host: h");
    insta::assert_snapshot!(build("fatal: Authentication failed for 'https://h/x/'"), @"failed build_failed: git: Authentication failed for 'https://h/x/'");
    insta::assert_snapshot!(build(""), @"failed build_failed: program 'git' failed with exit code 128");
}

#[test]
fn a_short_commit_is_explained() {
    let spec = Spec { revision: "8c1f0e2".parse().unwrap(), ..spec("r-1", &[]) };
    let lines = clean_lines("fatal: couldn't find remote ref 8c1f0e2");
    let verdict = judge(&spec, &"ns1".parse().unwrap(), Some(&result(End::Exited(1), Phase::Build)), &lines);
    insta::assert_snapshot!(verdict.message, @"8c1f0e2 is no branch, tag or commit that the server of the flake has; if it is the beginning of a commit, give all 40 digits");
}

#[test]
fn the_essential_line_of_a_failed_build_is_found() {
    insta::assert_snapshot!(switch(1, Phase::Build, "error: flake 'git+https://h/x' does not provide attribute 'packages.x86_64-linux.nixosConfigurations.\"ns1\".config', 'nixosConfigurations.ns1'"), @"failed build_failed: ns1 is not in nixosConfigurations of the flake at main");
    let trace = "building the system configuration...\nerror:\n       … while calling the 'head' builtin\n         at /nix/store/x:1:2\n\n       error: attribute 'unboundd' missing\n       at /nix/store/y:3:4\nerror: Command 'nix build' returned non-zero exit status 1.\n";
    insta::assert_snapshot!(switch(1, Phase::Build, trace), @"failed build_failed: attribute 'unboundd' missing");
    let build = "error: builder for '/nix/store/a-hello.drv' failed with exit code 1;\n       last 1 log lines:\n       > no\nerror: 1 dependencies of derivation '/nix/store/b.drv' failed to build";
    insta::assert_snapshot!(switch(1, Phase::Build, build), @"failed build_failed: builder for '/nix/store/a-hello.drv' failed with exit code 1;");
    insta::assert_snapshot!(switch(100, Phase::Build, build), @"failed build_failed: builder for '/nix/store/a-hello.drv' failed with exit code 1;");
    insta::assert_snapshot!(switch(7, Phase::Build, "one\nlast words\n"), @"failed build_failed: last words");
    insta::assert_snapshot!(switch(7, Phase::Build, ""), @"failed build_failed: nixos-rebuild ended with code 7 and said nothing");
    insta::assert_snapshot!(judged(Action::Switch, End::NotStarted("nixos-rebuild cannot be started: No such file or directory (os error 2)".to_owned()), Phase::Build, ""), @"failed build_failed: nixos-rebuild cannot be started: No such file or directory (os error 2): nixos-rebuild must be on the PATH of the listener");
}

#[test]
fn a_failed_activation_is_told_from_a_failed_build() {
    let output = "activating the configuration...\nwarning: the following units failed: unbound.service\nerror: Command 'x' returned non-zero exit status 4.";
    insta::assert_snapshot!(switch(4, Phase::Activate, output), @"failed activation_failed: the following units failed: unbound.service");
    insta::assert_snapshot!(switch(1, Phase::Activate, output), @"failed activation_failed: the following units failed: unbound.service");
    insta::assert_snapshot!(switch(4, Phase::Build, ""), @"failed activation_failed: the activation ended with code 4");
}

#[test]
fn a_needed_reboot_is_success_for_boot_only() {
    let output = "Warning: the new configuration won't take effect until you reboot the system.";
    insta::assert_snapshot!(switch(100, Phase::Build, output), @"failed activation_failed (reboot): the new system takes effect only after a reboot: deploy it with the action boot, and reboot");
    insta::assert_snapshot!(judged(Action::Boot, End::Exited(100), Phase::Activate, ""), @"completed (reboot): built, and takes effect with the next boot");
}

#[test]
fn runs_that_were_ended_say_by_what() {
    insta::assert_snapshot!(judged(Action::Switch, End::TimedOut, Phase::Build, ""), @"failed timeout: not over after 10 s, and ended while building");
    insta::assert_snapshot!(judged(Action::Switch, End::TimedOut, Phase::Activate, ""), @"failed timeout: not over after 10 s, and ended while activating; the system may be half switched");
    insta::assert_snapshot!(judged(Action::Switch, End::Killed(9), Phase::Build, ""), @"failed interrupted: signal 9 ended the run while building");
    insta::assert_snapshot!(switch(137, Phase::Activate, ""), @"failed interrupted: signal 9 ended the run while activating");
    let gone = judge(&spec("r-1", &[]), &"ns1".parse().unwrap(), None, &[]);
    assert_eq!((gone.status, gone.error), (Status::Failed, Some(ErrorCode::Interrupted)));
}
