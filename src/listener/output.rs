//! Reads the output of git, Nix and `nixos-rebuild`. Pure.

pub(super) mod switch;

use crate::protocol::{ErrorCode, Phase};
use crate::text::safe;

/// The first words of lines that `switch-to-configuration` prints once the system begins to change.
const ACTIVATION: [&str; 10] = [
    "activating the configuration",
    "stopping the following units",
    "NOT restarting the following changed units",
    "setting up /etc",
    "restarting the following units",
    "reloading the following units",
    "starting the following units",
    "updating GRUB",
    "would activate the configuration",
    "would stop the following units",
];

/// The bash `nixos-rebuild`'s message about a failed activation.
const SWITCHING_FAILED: &str = "error(s) occurred while switching to the new configuration";

/// git's message when a server refuses a commit by its id, as no branch or tag points at it any more.
const UNADVERTISED: &str = "Server does not allow request for unadvertised object";

/// git's message when a repository cannot be reached. The line before, from ssh or the server, has the reason.
const UNREACHABLE: &str = "Could not read from remote repository";

/// Nix' messages about a path with an untrusted signature or the wrong content. No store path contains spaces.
const DISTRUST: [&str; 7] = [
    "not signed by any of the keys",
    "valid signature",
    "signature by a trusted key",
    "hash mismatch",
    "bad archive",
    " open archive (",
    "while decompressing",
];

/// The longest part of a line that is read, in bytes.
const MAX_LINE_BYTES: usize = 2_048;

pub(super) fn phase_of(line: &str) -> Option<Phase> {
    let line = line.trim_start();
    ACTIVATION.iter().any(|start| line.starts_with(start)).then_some(Phase::Activate)
}

#[derive(Debug)]
pub(super) struct PhaseFinder {
    /// The phase of the run after all that was read.
    pub(super) phase: Phase,
    line: Vec<u8>,
}

impl PhaseFinder {
    pub(super) const fn new() -> Self {
        Self { phase: Phase::Resolve, line: Vec::new() }
    }

    /// Reads more output, and returns the phase that it begins, if any.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<Phase> {
        let mut begun = None;
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                let phase = phase_of(&String::from_utf8_lossy(&self.line)).filter(|&phase| phase > self.phase);
                if let Some(phase) = phase {
                    self.phase = phase;
                    begun = Some(phase);
                }
                self.line.clear();
            }
        }
        begun
    }
}

pub(super) fn tells_unadvertised(lines: &[String]) -> bool {
    lines.iter().any(|line| line.contains(UNADVERTISED))
}

/// Returns git's first complaint: later ones only follow from it. Nix ends with the same line in all cases.
pub(super) fn git_complaint(lines: &[String]) -> Option<String> {
    let is_one = |line: &String| line.trim_start().starts_with("fatal: ") || line.contains(UNADVERTISED);
    let at = lines.iter().position(is_one)?;
    let line = lines.get(at)?.trim();
    let complaint = line.split_once(": ").map_or(line, |(_, text)| text);
    let said_before = lines.get(..at)?.last();
    // Lines that end so report progress.
    Some(match said_before.filter(|line| complaint.starts_with(UNREACHABLE) && !line.ends_with("...")) {
        Some(why) => format!("{} ({})", why.trim(), complaint.trim_end_matches('.')),
        None => complaint.to_owned(),
    })
}

/// Returns why Nix could not fetch a path: no signature or hash is right, or no cache has all of it.
pub(super) fn refused_fetch(lines: &[String]) -> (ErrorCode, String) {
    let complaints = || {
        lines.iter().map(|line| line.trim()).filter(|line| line.starts_with("error:") || line.starts_with("warning:"))
    };
    let distrust = complaints().find(|line| DISTRUST.iter().any(|words| line.contains(words)));
    if let Some(line) = distrust {
        return (ErrorCode::Untrusted, without_label(line).to_owned());
    }
    let unknown = lines.iter().skip_while(|line| !line.contains("don't know how to build these paths")).nth(1);
    let gone = complaints().find(|line| line.contains("does not exist in binary cache"));
    let why = match (gone, unknown) {
        (Some(line), _) => without_label(line).to_owned(),
        (None, Some(path)) => format!("no cache of this host has {}", path.trim()),
        (None, None) => essential(lines).unwrap_or("nix-store failed and said nothing").to_owned(),
    };
    (ErrorCode::NotAvailable, why)
}

/// Returns the store path that `nixos-rebuild-ng` prints at its end. The bash program prints none.
pub(super) fn built_system(lines: &[String]) -> Option<&str> {
    let named = lines.iter().rev().find_map(|line| line.strip_prefix("Done. The new configuration is "));
    named.filter(|path| path.starts_with("/nix/store/"))
}

/// Whether `nixos-rebuild` says in this line that `switch-to-configuration` failed.
pub(super) fn tells_failed_activation(line: &str) -> bool {
    line.contains(SWITCHING_FAILED)
        || line.contains("switch-to-configuration") && line.contains("returned non-zero exit status")
        || switch::changed_nothing(line)
}

/// Returns the line with the cause: the first failed build, since later errors only follow from it; else the last
/// error, which Nix prints after the trace that leads to it; else the last line.
pub(super) fn essential(lines: &[String]) -> Option<&str> {
    let mut errors = lines.iter().map(|line| line.trim()).filter(|line| tells_something(line));
    let builds = ["error: builder for ", "error: Cannot build ", "error: hash mismatch "];
    let failed_build = errors.clone().find(|line| builds.iter().any(|start| line.starts_with(start)));
    let mut others = lines.iter().map(|line| line.trim()).filter(|line| !only_repeats(line));
    failed_build.or_else(|| errors.next_back()).or_else(|| others.next_back()).map(without_label)
}

fn tells_something(line: &str) -> bool {
    line.strip_prefix("error:").is_some_and(|text| !text.trim().is_empty()) && !only_repeats(line)
}

/// Whether `nixos-rebuild` only says in this line that one of its commands failed.
fn only_repeats(line: &str) -> bool {
    without_label(line).starts_with("Command '") || without_label(line).starts_with(SWITCHING_FAILED)
}

/// Removes the label, which repeats the status.
fn without_label(line: &str) -> &str {
    let text = line.strip_prefix("error:").or_else(|| line.strip_prefix("warning:"));
    text.unwrap_or(line).trim()
}

/// Returns the output's lines, safe to show and send: without terminal sequences, secrets in URLs and empty lines.
pub(super) fn clean_lines(output: &str) -> Vec<String> {
    // Progress displays overwrite their line with a carriage return: only the last version counts.
    let shown = output.lines().map(|line| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default());
    shown.map(clean).filter(|line| !line.trim().is_empty()).collect()
}

/// Makes one line safe to show and send.
pub(super) fn clean(line: &str) -> String {
    let mut plain = without_passwords(&safe(line));
    plain.truncate(plain.floor_char_boundary(MAX_LINE_BYTES));
    plain.truncate(plain.trim_end().len());
    plain
}

/// Removes the credentials of URLs: git repeats the whole URL when it cannot reach it.
fn without_passwords(line: &str) -> String {
    let mut parts = line.split("://");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c == '/' || c.is_whitespace() || matches!(c, '\'' | '"')).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        plain.push_str("://");
        plain.push_str(authority.rsplit('@').next().unwrap_or_default());
        plain.push_str(rest);
    }
    plain
}

#[cfg(test)]
mod tests {
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
    fn the_phase_is_found_in_pieces_and_is_no_word_inside_a_line() {
        let mut finder = PhaseFinder::new();
        assert_eq!(finder.read(b"building\nnginx> activating the configuration...\nstopp"), None);
        assert_eq!(finder.read(b"ing the following un"), None);
        assert_eq!(finder.read(b"its: x.service\n"), Some(Phase::Activate));
        assert_eq!(finder.read(b"activating the configuration...\n"), None);
        assert_eq!(finder.phase, Phase::Activate);
    }

    proptest! {
        #[test]
        fn nothing_that_steers_a_terminal_is_left(output in "[\\PC\\x00-\\x1f\\x7f-\\x9f]{0,80}") {
            for line in clean_lines(&output) {
                prop_assert!(!line.contains(char::is_control), "{line:?}");
                prop_assert!(line.len() <= MAX_LINE_BYTES && !line.is_empty());
            }
        }

        #[test]
        fn how_output_is_cut_into_pieces_does_not_matter(text in "(activating the configuration\\n|x|\\n| ){0,12}", cut in 0..200usize) {
            let bytes = text.as_bytes();
            let (before, after) = bytes.split_at(cut.min(bytes.len()));
            let (mut whole, mut pieces) = (PhaseFinder::new(), PhaseFinder::new());
            whole.read(bytes);
            pieces.read(before);
            pieces.read(after);
            prop_assert_eq!(whole.phase, pieces.phase);
        }
    }
}
