//! A machine that builds systems for the host, and the cache that it copies them to. It shares the disk and the Nix of
//! the host, but nothing that it builds stays in the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::deployer::Deployer;
use crate::machine::Machine;
use crate::stage::{CURRENT, NS1, PROFILE, Stage, request};
use crate::support::git::{Git, Mood};

/// Makes two keys, and prints the public keys.
const KEYS: &str = r"
cd /root
for key in fleet other; do
    nix key generate-secret --key-name $key-1 >$key.secret
    nix key convert-secret-to-public <$key.secret
    echo
done";

/// A system like the one that trusts the key, with another version and a change.
const EXPRESSION: &str = r#"
{ base, version, change }:
derivation {
  name = "nixos-system-ns1";
  system = builtins.currentSystem;
  builder = "/bin/bash";
  PATH = "/usr/bin:/bin";
  base = builtins.storePath base;
  inherit version change;
  args = [ "-euc" "cp -r $base $out; chmod -R u+w $out; cd $out; echo $version >nixos-version; eval \"$change\"; exit 0" ];
}"#;

/// Builds such a system.
const BUILD: &str = r#"
[ -e /root/system.nix ] || cat >/root/system.nix <<<"$expression"
system=$(nix-build --quiet --no-out-link /root/system.nix --argstr base "$(readlink -f /root/base)" \
    --argstr version "$version" --argstr change "$change")
"#;

/// Signs the system, and copies it to the cache only.
const PUBLISH: &str = r#"
nix store sign --key-file /root/$key.secret "$system"
nix copy --to 'file:///cache?compression=none' "$system"
nix-store --delete "$system" >/dev/null
echo "$system""#;

/// Removes the programs with which a run could evaluate, build, or fetch from repositories.
const ONLY_FETCH: &str = r#"
rm /packages/*/bin/git /packages/nix/bin/nix*
for name in nix nix-store nix-env nix-build nix-instantiate; do
    install -m 755 /dev/stdin /packages/nix/bin/$name <<<"$wrapper"
done
for program in /packages/nixos-rebuild*/bin/nixos-rebuild; do
    printf '#!/bin/bash\necho "$0 $*" >>/root/evaluated\nexit 99\n' >$program
done"#;

/// The host, and the machine that builds for it.
pub struct Fetching {
    pub stage: Stage,
    cache: Git,
    /// The public keys of `fleet-1` and `other-1`.
    keys: Vec<String>,
}

impl Fetching {
    /// Boots a host with the first configuration, and makes the keys.
    pub async fn set() -> Option<Self> {
        let stage = Stage::set("").await?;
        let cache = Git::serve(stage.lab.folder()).unwrap();
        Some(Self { stage, cache, keys: Vec::new() })
    }

    /// Makes the keys, and returns a commit with which a host trusts one of them.
    pub fn make_keys(&mut self) -> String {
        self.keys = self.stage.machine.run(KEYS).unwrap().lines().map(str::to_owned).collect();
        self.believe(&self.stage.machine);
        let commit = self.stage.push(&self.trust());
        let system = self.stage.installable("ns1", &commit);
        self.stage.machine.run(&format!("nix build --out-link /root/base '{system}'")).unwrap();
        commit
    }

    /// Returns a configuration that trusts the key `fleet-1`.
    pub fn trust(&self) -> String {
        format!("services.homelab-deploy.listener.systems.trustedKeys = [ \"{}\" ];", self.keys[0])
    }

    /// Adds the cache and both keys to the nix.conf of a host.
    pub fn believe(&self, machine: &Machine) {
        let settings =
            format!("substituters = {}\ntrusted-public-keys = {}", self.cache.url("cache"), self.keys.join(" "));
        machine.run(&format!("echo '{settings}' >>/etc/nix/nix.conf")).unwrap();
    }

    /// Does the same as [`set`](Self::set) with a host that runs that configuration and can only fetch.
    pub async fn set_trusting() -> Option<Self> {
        let mut fetching = Self::set().await?;
        let commit = fetching.make_keys();
        let stage = &fetching.stage;
        stage.operator(&["deploy", NS1, "--branch", &commit]).ended().await.unwrap().expect(0);
        fetching.only_fetch();
        Some(fetching)
    }

    /// Removes what the host could evaluate or build with, and stops the server of the flake for all hosts.
    pub fn only_fetch(&mut self) {
        only_fetch(&self.stage.machine);
        self.stage.git.set(Mood::Gone);
    }

    /// Builds a system of this version with a change, signs it with a key, and copies it to the cache only.
    pub fn publish(&self, version: &str, change: &str, key: &str) -> String {
        let path = self.build(version, change, &format!("key={key}\n{PUBLISH}"));
        self.take_out();
        path
    }

    /// Does the same for the system of a host at a commit.
    pub fn publish_of(&self, host: &str, commit: &str) -> String {
        let build = format!("nix build --no-link --print-out-paths '{}'", self.stage.installable(host, commit));
        let path = self.stage.machine.run(&format!("set -e; key=fleet system=$({build})\n{PUBLISH}")).unwrap();
        self.take_out();
        path
    }

    /// Builds a system on the host, and runs a script on it.
    pub fn build(&self, version: &str, change: &str, then: &str) -> String {
        let [expression, version, change] = [EXPRESSION, version, change].map(quoted);
        let settings = format!("set -e; expression={expression} version={version} change={change}");
        self.stage.machine.run(&format!("{settings}\n{BUILD}\n{then}")).unwrap()
    }

    /// Copies the cache out of the machine that wrote it.
    fn take_out(&self) {
        let written = format!("/proc/{}/root/cache", self.stage.machine.init().unwrap());
        let mut copy = Command::new("cp");
        copy.args(["--recursive", "--no-clobber", "--no-target-directory", &written]).arg(self.folder());
        assert!(copy.status().unwrap().success());
    }

    fn folder(&self) -> PathBuf {
        self.stage.lab.folder().join("cache")
    }

    /// Returns the file of a system in the cache.
    pub fn archive(&self, system: &str) -> PathBuf {
        let hash = Path::new(system).file_name().unwrap().to_str().unwrap().split_once('-').unwrap().0;
        let info = fs::read_to_string(self.folder().join(format!("{hash}.narinfo"))).unwrap();
        let url = info.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        self.folder().join(url)
    }

    /// Requests a system on the host, and returns the final response.
    pub async fn ask(&self, deployer: &mut Deployer, id: &str, system: &str, changed: &[(&str, Value)]) -> Value {
        self.begin(deployer, id, system, changed).await;
        deployer.hear_final().await.unwrap()
    }

    /// Requests a system on the host.
    pub async fn begin(&self, deployer: &Deployer, id: &str, system: &str, changed: &[(&str, Value)]) {
        let mut request = request(deployer, id, "main");
        request["system"] = system.into();
        for (field, value) in changed {
            request[*field] = value.clone();
        }
        deployer.say(NS1, &request).await.unwrap();
    }

    /// Returns the version that runs and the one that boots next.
    pub fn versions(&self) -> (String, String) {
        (self.stage.commit_of(CURRENT), self.stage.commit_of(PROFILE))
    }

    /// Asserts that no run has tried to evaluate or build.
    pub fn assert_nothing_evaluated(&self) {
        assert_nothing_evaluated(&self.stage.machine);
    }
}

/// Asserts the same on another host.
pub fn assert_nothing_evaluated(machine: &Machine) {
    let said = machine.run("cat /root/evaluated 2>/dev/null || true").unwrap();
    assert_eq!(said, "", "a host that fetches neither evaluates nor builds");
}

/// Removes what a host could evaluate or build with.
pub fn only_fetch(machine: &Machine) {
    let wrapper = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/box/nix")).unwrap();
    machine.run(&format!("wrapper={}\n{ONLY_FETCH}", quoted(&wrapper))).unwrap();
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
