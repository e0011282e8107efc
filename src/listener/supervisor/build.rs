//! Having the system that is deployed. It is built here by `nixos-rebuild`, or was built elsewhere: then nothing is evaluated and
//! nothing is built for it, and it is not taken before it is known who built it, and for which host.

use std::fs;
use std::process::Command;

use super::process::ProcessRunner;
use crate::listener::config::{RebuildFlag, SystemKey};
use crate::listener::host::Host;
use crate::listener::output::{clean, refused_fetch};
use crate::listener::run::Spec;
use crate::listener::snapshot::answer;
use crate::listener::verdict::End;
use crate::lookup::Remote;
use crate::protocol::{ErrorCode, FlakeAttr, FlakeUrl, Revision, SystemPath};

/// What newer commands of Nix want to hear.
const NEW_COMMANDS: [&str; 2] = ["--extra-experimental-features", "nix-command"];

/// Nix builds nothing, neither here nor elsewhere.
#[rustfmt::skip]
const BUILD_NOTHING: [&str; 9] = [
    "--option", "max-jobs", "0", "--option", "builders", "", "--option", "fallback", "false",
];

/// Caches are asked anew: Nix takes it for an hour that a cache does not have a path, which may have come back, and for a month that
/// nobody has signed it.
#[rustfmt::skip]
const ASK_ANEW: [&str; 6] = [
    "--option", "narinfo-cache-negative-ttl", "0", "--option", "narinfo-cache-positive-ttl", "0",
];

/// What does this with the configuration of a run, of this flake at this revision. Every user of the machine can read a command
/// line, and so no password stands on one: git has it from its environment. No part of it is read by a shell, and none can be
/// taken for an option: the flake URL begins with its scheme, and the action is one of ours.
pub(super) fn nixos_rebuild(action: &str, spec: &Spec, flake: &FlakeUrl, revision: &Revision) -> Command {
    let remote = flake.git_remote().map(Remote::at);
    // Where git does not fetch, whatever does has its own place for passwords.
    let plain = remote.as_ref().map_or_else(|| flake.public(), |remote| flake.from_git_remote(remote.url()));
    let mut command = Command::new("nixos-rebuild");
    command.args([action, "--flake", &plain.installable(revision, spec.settings.configuration())]);
    command.args(spec.settings.rebuild_flags.iter().map(RebuildFlag::as_str));
    if let Some(remote) = &remote {
        remote.introduce(&mut command);
    }
    command
}

/// Fetches the system and checks that it is one for this host. The error is why it is not to be activated.
pub(super) async fn fetch(
    runner: &mut ProcessRunner,
    host: &Host,
    spec: &Spec,
    system: &SystemPath,
) -> Result<(), End> {
    match runner.run(&mut from_caches(system, host)).await {
        End::Exited(0) => {}
        End::Exited(code) if code < 128 => {
            let (error, why) = refused_fetch(&runner.log.lines());
            return Err(End::Refused(error, why));
        }
        end => return Err(end),
    }
    check_signature(runner, system, &spec.settings.system_keys).await?;
    check_host(host, spec, system).map_err(|why| End::Refused(ErrorCode::WrongHost, why))
}

/// What fetches the system with all that it needs, each path of which has a signature that `nix.conf` demands. From then on the
/// garbage collector spares it, until there is another.
fn from_caches(system: &SystemPath, host: &Host) -> Command {
    let mut command = Command::new("nix-store");
    command.args(["--realise", system.as_str(), "--add-root"]).arg(host.fetched_root());
    command.args(BUILD_NOTHING).args(ASK_ANEW);
    command
}

/// Checks that one of these keys has signed the system, also where the store has it: any user can put a path there.
async fn check_signature(runner: &mut ProcessRunner, system: &SystemPath, keys: &[SystemKey]) -> Result<(), End> {
    let untrusted = |why: String| Err(End::Refused(ErrorCode::Untrusted, why));
    let Some(said) = nix(&["path-info", "--sigs", system.as_str()]).await else {
        return untrusted(format!("nix does not say who signed {system}"));
    };
    // What is named after its content needs no signature for Nix, which calls it trusted, no matter who made it.
    if said.split_whitespace().any(|word| word.strip_prefix("ca:").is_some_and(|method| method.contains(':'))) {
        return untrusted(format!("{system} is named after its content, and so Nix does not check who signed it"));
    }
    let mut end = runner.run(&mut verification(system, keys)).await;
    if matches!(end, End::Exited(1..)) {
        // One that the host has built itself has no signature. Where a cache has the same, that one was signed.
        for cache in nix(&["config", "show", "substituters"]).await.unwrap_or_default().split_whitespace() {
            nix(&[&["store", "copy-sigs", "--substituter", cache, system.as_str()], ASK_ANEW.as_slice()].concat())
                .await;
        }
        end = runner.run(&mut verification(system, keys)).await;
    }
    match end {
        End::Exited(0) => Ok(()),
        End::Exited(_) => {
            let names: Vec<&str> = keys.iter().map(SystemKey::name).collect();
            untrusted(format!(
                "{system} is not signed by a key that may sign systems for this host: {}",
                names.join(" ")
            ))
        }
        end => Err(end),
    }
}

/// What finds out whether a system is what one of these keys has signed, and no other key that this host has or trusts.
fn verification(system: &SystemPath, keys: &[SystemKey]) -> Command {
    let keys: Vec<&str> = keys.iter().map(SystemKey::as_str).collect();
    let mut command = Command::new("nix");
    command.args(NEW_COMMANDS).args(["store", "verify", "--sigs-needed", "1", system.as_str()]);
    command.args(["--option", "trusted-public-keys", &keys.join(" "), "--option", "secret-key-files", ""]);
    command
}

/// Checks that the system has the name of this host: two lines of a map may have changed places.
fn check_host(host: &Host, spec: &Spec, system: &SystemPath) -> Result<(), String> {
    let names = [Some(spec.settings.host.as_str()), spec.settings.attr.as_ref().map(FlakeAttr::as_str)];
    let file = host.at(system.as_str()).join("etc/hostname");
    let name =
        fs::read_to_string(&file).map_err(|error| format!("{system} does not say which host it is of: {error}"))?;
    let name = clean(name.trim());
    if names.into_iter().flatten().any(|known| known == name) {
        return Ok(());
    }
    Err(format!("{system} is the system of {name}, and this host is {}", spec.settings.host))
}

/// What a newer command of Nix says, if it succeeds.
async fn nix(arguments: &[&str]) -> Option<String> {
    answer("nix", &[NEW_COMMANDS.as_slice(), arguments].concat()).await
}
