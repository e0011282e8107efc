use proptest::prelude::*;

use super::*;

#[test]
fn lines_are_cleaned_for_people() {
    let output = "\u{1b}[31;1merror:\u{1b}[0m no\tattribute\r\n\r\n\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{1b}\\!\n10%\r50%\rdone\n\u{7}x";
    assert_eq!(clean_lines(output), ["error: no attribute", "link!", "done", "x"]);
}

#[test]
fn git_complains_with_its_cause() {
    let complaint = |output: &str| git_complaint(&clean_lines(output)).unwrap_or_default();
    insta::assert_snapshot!(complaint("building the system configuration...
ssh: connect to host git.example.com port 22: Connection refused
fatal: Could not read from remote repository.

Please make sure you have the correct access rights
error: Failed to fetch git repository 'ssh://git.example.com/x'"), @"ssh: connect to host git.example.com port 22: Connection refused (Could not read from remote repository)");
    insta::assert_snapshot!(complaint("building the system configuration...\nfatal: Could not read from remote repository."), @"Could not read from remote repository.");
    insta::assert_snapshot!(complaint("fatal: unable to access 'https://h/x/': Could not resolve host: h\nfatal: later"), @"unable to access 'https://h/x/': Could not resolve host: h");
    insta::assert_snapshot!(complaint("error: Server does not allow request for unadvertised object 8c1f\nerror: program 'git' failed"), @"Server does not allow request for unadvertised object 8c1f");
    assert_eq!(complaint("error: attribute 'x' missing"), "");
}

#[test]
fn a_system_that_cannot_be_fetched_is_missing_or_not_trusted() {
    let refused = |output: &str| {
        let (error, why) = refused_fetch(&clean_lines(output));
        format!("{error}: {why}")
    };
    // The output of Nix 2.26.
    insta::assert_snapshot!(refused("these 2 paths will be fetched (0.00 MiB download, 0.00 MiB unpacked):\n  /nix/store/k-dep\n  /nix/store/v-nixos\nwarning: ignoring substitute for '/nix/store/v-nixos' from 'http://h', as it's not signed by any of the keys in 'trusted-public-keys'\nerror: build of '/nix/store/v-nixos' failed"), @"untrusted: ignoring substitute for '/nix/store/v-nixos' from 'http://h', as it's not signed by any of the keys in 'trusted-public-keys'");
    insta::assert_snapshot!(refused("copying path '/nix/store/v-nixos' from 'http://h'...\nerror: hash mismatch importing path '/nix/store/v-nixos';\n         specified: sha256:0w\n         got:       sha256:0k\nerror: build of '/nix/store/v-nixos' failed"), @"untrusted: hash mismatch importing path '/nix/store/v-nixos';");
    insta::assert_snapshot!(refused("copying path '/nix/store/v-archive (x' from 'http://h'...\nerror: Failed to open archive (Lzma library error: Corrupted input data)\nerror: build of '/nix/store/v-nixos' failed"), @"untrusted: Failed to open archive (Lzma library error: Corrupted input data)");
    insta::assert_snapshot!(refused("error: bad archive: input doesn't look like a Nix archive\nerror: build of '/nix/store/v-nixos' failed"), @"untrusted: bad archive: input doesn't look like a Nix archive");
    insta::assert_snapshot!(refused("don't know how to build these paths:\n  /nix/store/v-decompress\nerror: build of '/nix/store/v-decompress' failed"), @"not_available: no cache of this host has /nix/store/v-decompress");
    insta::assert_snapshot!(refused("copying path '/nix/store/v-nixos' from 'http://h'...\nerror: file 'nar/0w.nar' does not exist in binary cache 'http://h'\nerror: build of '/nix/store/v-nixos' failed"), @"not_available: file 'nar/0w.nar' does not exist in binary cache 'http://h'");
    insta::assert_snapshot!(refused("warning: error: unable to download 'http://h/6q.narinfo': Could not connect to server (7); retrying in 308 ms\nerror: unable to download 'http://h/6q.narinfo': Could not connect to server (7)"), @"not_available: unable to download 'http://h/6q.narinfo': Could not connect to server (7)");
    insta::assert_snapshot!(refused(""), @"not_available: nix-store failed and said nothing");
}

#[test]
fn passwords_do_not_leave_the_host() {
    let output =
        "fatal: unable to access 'https://bob:s3cret@git.example.com/x/': 401\nsee https://h/a@b and ssh://t@h";
    assert_eq!(
        clean_lines(output),
        ["fatal: unable to access 'https://git.example.com/x/': 401", "see https://h/a@b and ssh://h"]
    );
}

#[test]
fn units_are_told_from_jobs_users_and_swaps() {
    let lines = clean_lines(
        "Failed to start dns.service\nFailed to restart web.service: Unit web.service is masked.\n\
         Failed to reload user unit dbus-broker.service\nFailed to restart nixos-activation.service: x\n\
         Failed to stop swapping to /dev/sda2: x\nFailed to run activate script\n\
         nginx: Failed to start other.service\nwarning: the following units failed: a.service, b.mount\n",
    );
    assert_eq!(failed_jobs(&lines), ["dns.service", "web.service"]);
    assert_eq!(failed_units(&lines), ["a.service", "b.mount"]);
}

#[test]
fn the_failures_of_users_are_theirs() {
    let failures = |output: &str| user_failures(&clean_lines(output)).join(", ");
    let alice = "reloading user units for alice...\nwarning: the following user units failed: a.service, b.service\n\
                 See `systemctl --user status a.service b.service` for details.\nwarning: user activation for alice failed\n";
    let bob = "reloading user units for bob...\nError: Failed to open dbus connection\nwarning: user activation for bob failed\n";
    insta::assert_snapshot!(failures(alice), @"a.service of alice, b.service of alice");
    insta::assert_snapshot!(failures(&format!("{alice}{bob}")), @"a.service of alice, b.service of alice, the activation of bob");
    insta::assert_snapshot!(failures(&format!("{bob}{alice}")), @"the activation of bob, a.service of alice, b.service of alice");
    insta::assert_snapshot!(failures("warning: the following user units failed: a.service"), @"a.service");
    insta::assert_snapshot!(failures("reloading user units for alice...\nwarning: the following units failed: a.service"), @"");
}

#[test]
fn a_death_has_all_its_causes() {
    let died = |output: &str| cause_of_death(&clean_lines(output)).unwrap_or_default();
    insta::assert_snapshot!(died("Error: Failed to reset failed units\n\nCaused by:\n    Connection timed out\n"), @"Failed to reset failed units: Connection timed out");
    insta::assert_snapshot!(died("x\nError: Failed to read unit\n\nCaused by:\n    0: Failed to open /etc/x\n    1: No such file or directory (os error 2)\nCommand 'x' returned non-zero exit status 1."), @"Failed to read unit: Failed to open /etc/x: No such file or directory (os error 2)");
    insta::assert_snapshot!(died("Error: invalid action x\nnext"), @"invalid action x");
    // The death of a user's process does not count.
    insta::assert_snapshot!(died("Error: Failed to open dbus connection\n\nCaused by:\n    x\nwarning: user activation for bob failed\n"), @"");
}

#[test]
fn the_boot_loader_is_known_by_what_came_behind_it() {
    let known = |output: &str| boot_loader(&clean_lines(output));
    assert_eq!(known("updating GRUB 2 menu..."), None);
    assert_eq!(known("updating GRUB 2 menu...\nstopping the following units: x"), Some(BootLoader::New));
    assert_eq!(known("Pre-switch checks failed"), Some(BootLoader::Old));
    assert_eq!(known("cp: No space left on device\nFailed to install bootloader"), Some(BootLoader::Old));
    assert_eq!(known("error: Could not acquire lock"), Some(BootLoader::Old));
    assert_eq!(known("Error: Failed to parse os-release"), None);
}

proptest! {
    #[test]
    fn nothing_that_steers_a_terminal_is_left(output in "[\\PC\\x00-\\x1f\\x7f-\\x9f]{0,80}") {
        for line in clean_lines(&output) {
            prop_assert!(!line.contains(char::is_control), "{line:?}");
            prop_assert!(line.len() <= MAX_LINE_BYTES && !line.is_empty());
        }
    }
}
