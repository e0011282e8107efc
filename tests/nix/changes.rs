//! What changes on each host is what Nix itself says of the two systems: both read a cache, of which nothing is downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use homelab_deploy::operator::nix::closures;
use homelab_deploy::plan::PackageChange;
use homelab_deploy::protocol::HostName;

/// The parts of a fleet's systems: what they are called, and what each host has of it before and after.
const PARTS: &[(&str, [[&str; 2]; 3])] = &[
    ("linux", [["6.12.60", "6.12.63"], ["6.12.60", "6.12.63"], ["6.12.60", "6.12.60"]]),
    ("initrd-linux", [["6.12.60", "6.12.63"], ["6.12.60", "6.12.63"], ["6.12.60", "6.12.60"]]),
    ("openssh", [["10.0p2", "10.2p1"], ["10.0p2", "10.2p1"], ["10.0p2", "10.2p1"]]),
    ("jellyfin", [["", ""], ["", "10.11.3"], ["10.11.3", "10.11.3"]]),
    ("exim", [["4.98", ""], ["", ""], ["", ""]]),
    ("python3.12-six", [["1.16.0", "1.17.0"], ["1.17.0", "1.16.0"], ["1.17.0", "1.17.0"]]),
    ("glibc", [["2.40-66", "2.40-66 2.42-51"], ["2.40-66 2.42-51", "2.42-51"], ["2.42-51", "2.42-51"]]),
    ("gtk+3", [["3.24.49", "3.24.51"], ["3.24.49", ""], ["", "3.24.51"]]),
    ("nerd-fonts-fira-code", [["3.4.0+6.2", "3.4.1+6.2"], ["", "3.4.1+6.2"], ["", ""]]),
    ("source", [["a", "b"], ["a", "a"], ["b", "c"]]),
    ("perl5.40.0-X-Y", [["1.0-unstable-2025-01-02", "1.0-unstable-2026-01-02"], ["", ""], ["", ""]]),
    (
        "util-linux-minimal",
        [["2.41.2-lib", "2.41.3-lib"], ["2.41.2-bin 2.41.2-lib", "2.41.2-lib"], ["2.41.2-man", "2.41.2-dev"]],
    ),
    ("unit-sshd.service", [["w", "x"], ["w", "w"], ["w", "x"]]),
];

/// A cache in a folder, which describes paths that it does not have.
struct Cache<'a>(&'a Path);

impl Cache<'_> {
    /// Describes a path by its name, by what tells it from others of that name, and by what it needs.
    fn describe(&self, name: &str, variant: &str, references: &[String]) -> String {
        // It need not be the hash of anything.
        let fold = |sum: u64, byte: u8| sum * 33 % 1_000_000_007 + u64::from(byte);
        let hash = format!("{:032}", name.bytes().chain(variant.bytes()).fold(5381, fold));
        let base = format!("{hash}-{name}");
        let digest = "0".repeat(52);
        let text = format!(
            "StorePath: /nix/store/{base}\nURL: nar/{hash}.nar\nCompression: none\nFileHash: sha256:{digest}\nFileSize: 100\n\
             NarHash: sha256:{digest}\nNarSize: 100\nReferences: {}\n",
            references.join(" ")
        );
        fs::write(self.0.join(format!("{hash}.narinfo")), text).unwrap();
        base
    }

    /// Describes the system of a host, and returns its path.
    fn system(&self, host: usize, version: usize) -> String {
        let mut parts = Vec::new();
        for (number, (name, versions)) in PARTS.iter().enumerate() {
            let versions = versions.get(host).and_then(|versions| versions.get(version)).unwrap();
            for version in versions.split_whitespace() {
                // What has no version of its own is told from others by its content alone.
                let is_version = version.starts_with(|first: char| first.is_ascii_digit());
                let full = if is_version { format!("{name}-{version}") } else { (*name).to_owned() };
                let needs: Vec<String> = parts.last().cloned().into_iter().filter(|_| number % 3 == 0).collect();
                parts.push(self.describe(&full, &format!("{version}{needs:?}"), &needs));
            }
        }
        let system = self.describe(&format!("nixos-system-h{host}-26.05.{version}"), "", &parts);
        format!("/nix/store/{system}")
    }
}

/// What goes and what comes, by the names of packages.
type Versions = BTreeMap<String, [BTreeSet<String>; 2]>;

/// What Nix says, without the sizes and without the systems themselves.
fn nix_says(nix: &Path, cache: &str, before: &str, after: &str) -> Versions {
    let mut command = Command::new(nix);
    command.args(["--extra-experimental-features", "nix-command", "store", "diff-closures", "--store", cache]);
    let output = command.args([before, after]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let versions = |text: &str| {
        let versions = text.split(", ").filter(|version| !matches!(*version, "∅" | ""));
        versions.map(|version| if version == "ε" { String::new() } else { version.to_owned() }).collect()
    };
    let line = |line: &str| {
        let (name, change) = line.split_once(": ").unwrap();
        let (before, after) = change.split_once(" → ")?;
        (!name.starts_with("nixos-system-")).then(|| (name.to_owned(), [versions(before), versions(after)]))
    };
    said.lines().filter_map(line).collect()
}

#[tokio::test]
async fn what_changes_is_what_nix_says_host_by_host() {
    let Some(nix) = crate::nix() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let cache = format!("file://{}", folder.path().display());
    let hosts: Vec<(HostName, [String; 2])> = (0..3)
        .map(|host| {
            (format!("h{host}").parse().unwrap(), [0, 1].map(|version| Cache(folder.path()).system(host, version)))
        })
        .collect();
    let systems = hosts.iter().flat_map(|(_, systems)| systems).map(String::as_str).collect();
    let known = closures(systems, Some(&cache)).await.unwrap();
    let changes =
        known.changes(hosts.iter().map(|(host, [runs, shall_run])| (host, Some(runs.as_str()), shall_run.as_str())));
    for (host, [before, after]) in &hosts {
        let of_host = changes.packages.iter().filter(|package| package.hosts.contains(host)).cloned();
        let ours: Versions = of_host.map(|PackageChange { name, before, after, .. }| (name, [before, after])).collect();
        let said = nix_says(Path::new(&nix), &cache, before, after);
        assert!(said.len() > 1, "{said:?}");
        assert_eq!(ours, said, "{host}");
    }
    let reboots: Vec<String> = changes.reboots.iter().map(ToString::to_string).collect();
    assert_eq!(reboots, ["h0", "h1"]);
}
