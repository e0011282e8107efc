//! A machine on which systems are built for the host, and the cache that it puts them in. It has the disk of the host and its
//! real Nix, and nothing that it builds stays in the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::deployer::Deployer;
use crate::stage::{NS1, PROFILE, Stage, request};
use crate::support::git::{Git, Mood};

/// What a configuration says that trusts the key `fleet-1`.
pub const TRUST: &str = "services.homelab-deploy.listener.systems.trustedKeys = [ \"KEY\" ];";

/// Makes two keys, both of which nix.conf trusts.
const KEYS: &str = r#"
cd /root
for key in fleet other; do
    nix key generate-secret --key-name $key-1 >$key.secret
    nix key convert-secret-to-public <$key.secret >$key.public
done
printf 'substituters = %s\ntrusted-public-keys = %s %s\n' CACHE "$(cat fleet.public)" "$(cat other.public)" >>/etc/nix/nix.conf
cat fleet.public"#;

/// A system like the one that trusts the key, but for its version and a change.
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

/// Builds one.
const BUILD: &str = r#"
[ -e /root/system.nix ] || cat >/root/system.nix <<<"$expression"
system=$(nix-build --quiet --no-out-link /root/system.nix --argstr base "$(readlink -f /root/base)" \
    --argstr version "$version" --argstr change "$change")
"#;

/// Signs it and puts it into the cache, and nowhere else.
const PUBLISH: &str = r#"
nix store sign --key-file /root/$key.secret "$system"
nix copy --to 'file:///cache?compression=none' "$system"
nix-store --delete "$system" >/dev/null
echo "$system""#;

/// Takes away from runs what evaluates and builds, and what fetches from repositories.
const ONLY_FETCH: &str = r#"
rm /packages/*/bin/git /packages/nix/bin/nix*
for name in nix nix-store nix-env nix-build nix-instantiate; do
    install -m 755 /dev/stdin /packages/nix/bin/$name <<<"$wrapper"
done
for program in /packages/nixos-rebuild*/bin/nixos-rebuild; do
    printf '#!/bin/bash\necho "$0 $*" >>/root/evaluated\nexit 99\n' >$program
done"#;

/// The host, and who builds for it.
pub struct Fetching {
    pub stage: Stage,
    cache: Git,
}

impl Fetching {
    /// Boots a host with the first configuration and makes the keys.
    pub async fn set() -> Option<Self> {
        let stage = Stage::set("").await?;
        let cache = Git::serve(stage.lab.folder()).unwrap();
        Some(Self { stage, cache })
    }

    /// Makes the keys, and returns the commit with which a host trusts one of them.
    pub fn make_keys(&self) -> String {
        let key = self.stage.machine.run(&KEYS.replace("CACHE", &self.cache.url("cache"))).unwrap();
        let commit = self.stage.push(&TRUST.replace("KEY", &key));
        let system =
            format!("{}?rev={commit}#nixosConfigurations.ns1.config.system.build.toplevel", self.stage.flake_url());
        self.stage.machine.run(&format!("nix build --out-link /root/base '{system}'")).unwrap();
        commit
    }

    /// The same, where the host runs that configuration and can do nothing but fetch.
    pub async fn set_trusting() -> Option<Self> {
        let mut fetching = Self::set().await?;
        let commit = fetching.make_keys();
        let stage = &fetching.stage;
        stage.operator(&["deploy", NS1, "--branch", &commit]).ended().await.unwrap().expect(0);
        fetching.only_fetch();
        Some(fetching)
    }

    /// Takes away from the host all that it could evaluate or build with, and the server of its flake.
    pub fn only_fetch(&mut self) {
        let wrapper = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/box/nix")).unwrap();
        self.stage.machine.run(&format!("wrapper={}\n{ONLY_FETCH}", quoted(&wrapper))).unwrap();
        self.stage.git.set(Mood::Gone);
    }

    /// Builds a system of this version with a change, signs it with a key, and puts it into the cache alone.
    pub fn publish(&self, version: &str, change: &str, key: &str) -> String {
        let path = self.build(version, change, &format!("key={key}\n{PUBLISH}"));
        let init = self.stage.machine.init().unwrap();
        let written = format!("/proc/{init}/root/cache");
        let copied = Command::new("cp")
            .args(["--recursive", "--no-clobber", "--no-target-directory", &written])
            .arg(self.folder())
            .status();
        assert!(copied.unwrap().success());
        path
    }

    /// Builds a system on the host, and says what to do with it.
    pub fn build(&self, version: &str, change: &str, then: &str) -> String {
        let [expression, version, change] = [EXPRESSION, version, change].map(quoted);
        self.stage
            .machine
            .run(&format!("set -e; expression={expression} version={version} change={change}\n{BUILD}\n{then}"))
            .unwrap()
    }

    /// The folder of the cache.
    fn folder(&self) -> PathBuf {
        self.stage.lab.folder().join("cache")
    }

    /// The file in the cache that has a system in it.
    pub fn archive(&self, system: &str) -> PathBuf {
        let hash = Path::new(system).file_name().unwrap().to_str().unwrap().split_once('-').unwrap().0;
        let info = fs::read_to_string(self.folder().join(format!("{hash}.narinfo"))).unwrap();
        let url = info.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        self.folder().join(url)
    }

    /// Asks the host for a system, and returns how that ended.
    pub async fn ask(&self, deployer: &mut Deployer, id: &str, system: &str, changed: &[(&str, Value)]) -> Value {
        self.begin(deployer, id, system, changed).await;
        deployer.hear_final().await.unwrap()
    }

    /// Asks the host for a system.
    pub async fn begin(&self, deployer: &Deployer, id: &str, system: &str, changed: &[(&str, Value)]) {
        let mut request = request(deployer, id, "main");
        request["system"] = system.into();
        for (field, value) in changed {
            request[*field] = value.clone();
        }
        deployer.say(NS1, &request).await.unwrap();
    }

    /// The version that runs, and the one that boots next.
    pub fn versions(&self) -> (String, String) {
        (self.stage.commit_of(crate::stage::CURRENT), self.stage.commit_of(PROFILE))
    }

    /// Fails if a run has tried to evaluate or to build anything.
    pub fn assert_nothing_evaluated(&self) {
        let said = self.stage.machine.run("cat /root/evaluated 2>/dev/null || true").unwrap();
        assert_eq!(said, "", "a host that fetches neither evaluates nor builds");
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
