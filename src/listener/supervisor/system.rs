//! Gets the system to deploy: `nixos-rebuild` builds it here, or it was built elsewhere. Then nothing is evaluated or
//! built here, and the system is refused unless a trusted key has signed it and it is for this host.

use std::fs;
use std::process::Command;

use super::process::ProcessRunner;
use crate::listener::config::SystemKey;
use crate::listener::nixos::{Host, output_if_ok};
use crate::listener::output::{clean, refused_fetch};
use crate::listener::run::RunSpec;
use crate::listener::run::verdict::ProcessEnd;
use crate::lookup::Remote;
use crate::protocol::{ErrorCode, FlakeAttr, FlakeUrl, Revision, SystemPath};

/// The arguments that enable the new commands of Nix.
const NEW_COMMANDS: [&str; 2] = ["--extra-experimental-features", "nix-command"];

/// The arguments that make Nix build nothing, neither here nor elsewhere.
#[rustfmt::skip]
const BUILD_NOTHING: [&str; 9] = [
    "--option", "max-jobs", "0", "--option", "builders", "", "--option", "fallback", "false",
];

/// The arguments that make Nix ask caches again: it remembers for an hour that a cache lacks a path, which may be there
/// again, and for a month that nobody has signed it.
#[rustfmt::skip]
const ASK_ANEW: [&str; 6] = [
    "--option", "narinfo-cache-negative-ttl", "0", "--option", "narinfo-cache-positive-ttl", "0",
];

/// Returns the `nixos-rebuild` command with this action for a flake at a revision. Every user can read a command line,
/// so passwords are passed to git in its environment. No shell reads any part, and none can be taken for an option: the
/// flake URL begins with its scheme, and the actions are fixed.
pub(super) fn nixos_rebuild(action: &str, spec: &RunSpec, flake: &FlakeUrl, revision: &Revision) -> Command {
    let remote = flake.git_remote().map(Remote::at);
    // Other fetchers than git have their own place for passwords.
    let plain = remote.as_ref().map_or_else(|| flake.public(), |remote| flake.from_git_remote(&remote.url));
    let mut command = Command::new("nixos-rebuild");
    command.args([action, "--flake", &plain.installable(revision, spec.settings.configuration())]);
    command.args(spec.settings.rebuild_flags.iter().map(|flag| &flag.0));
    if let Some(remote) = &remote {
        remote.configure_git(&mut command);
    }
    command
}

/// Fetches the system and checks that it is one for this host. The error is the reason not to activate it.
pub(super) async fn fetch(
    runner: &mut ProcessRunner,
    host: &Host,
    spec: &RunSpec,
    system: &SystemPath,
) -> Result<(), ProcessEnd> {
    match runner.run(&mut from_caches(system, host)).await {
        ProcessEnd::Exited(0) => {}
        ProcessEnd::Exited(code) if code < 128 => {
            let (error, why) = refused_fetch(&runner.log.lines());
            return Err(ProcessEnd::Refused(error, why));
        }
        end => return Err(end),
    }
    check_signature(runner, system, &spec.settings.system_keys).await?;
    check_host(host, spec, system).map_err(|why| ProcessEnd::Refused(ErrorCode::WrongHost, why))
}

/// Returns the command that fetches the system with its dependencies, all signed as `nix.conf` demands. It keeps the
/// garbage collector from the system until the next fetch.
fn from_caches(system: &SystemPath, host: &Host) -> Command {
    let mut command = Command::new("nix-store");
    command.args(["--realise", system.as_str(), "--add-root"]).arg(host.fetched_root());
    command.args(BUILD_NOTHING).args(ASK_ANEW);
    command
}

/// Checks that one of these keys has signed the system, even if it is already in the store: any user can add a path.
async fn check_signature(
    runner: &mut ProcessRunner,
    system: &SystemPath,
    keys: &[SystemKey],
) -> Result<(), ProcessEnd> {
    let untrusted = |why: String| Err(ProcessEnd::Refused(ErrorCode::Untrusted, why));
    let Some(said) = nix(&["path-info", "--sigs", system.as_str()]).await else {
        return untrusted(format!("nix does not report who signed {system}"));
    };
    // Nix trusts content-addressed paths without a signature, no matter who built them.
    if said.split_whitespace().any(|word| word.strip_prefix("ca:").is_some_and(|method| method.contains(':'))) {
        return untrusted(format!("{system} is named after its content, and so Nix does not check who signed it"));
    }
    let mut end = runner.run(&mut verification(system, keys)).await;
    if matches!(end, ProcessEnd::Exited(1..)) {
        // A system that the host built itself has no signature; a cache may have one for it.
        for cache in nix(&["config", "show", "substituters"]).await.unwrap_or_default().split_whitespace() {
            nix(&[&["store", "copy-sigs", "--substituter", cache, system.as_str()], ASK_ANEW.as_slice()].concat())
                .await;
        }
        end = runner.run(&mut verification(system, keys)).await;
    }
    match end {
        ProcessEnd::Exited(0) => Ok(()),
        ProcessEnd::Exited(_) => {
            untrusted(format!("{system} is not signed by a key that may sign systems for this host: {}", joined(keys)))
        }
        end => Err(end),
    }
}

/// Returns the command that checks whether one of these keys has signed the system; no other key counts.
fn verification(system: &SystemPath, keys: &[SystemKey]) -> Command {
    let mut command = Command::new("nix");
    command.args(NEW_COMMANDS).args(["store", "verify", "--sigs-needed", "1", system.as_str()]);
    command.args(["--option", "trusted-public-keys", &joined(keys), "--option", "secret-key-files", ""]);
    command
}

fn joined(keys: &[SystemKey]) -> String {
    keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join(" ")
}

/// Checks that the system has the name of this host: two lines of a map may have been swapped.
fn check_host(host: &Host, spec: &RunSpec, system: &SystemPath) -> Result<(), String> {
    let names = [Some(spec.settings.host.as_str()), spec.settings.attr.as_ref().map(FlakeAttr::as_str)];
    let file = host.at(system.as_str()).join("etc/hostname");
    let name = fs::read_to_string(&file).map_err(|error| format!("{system} does not name its host: {error}"))?;
    let name = clean(name.trim());
    if names.into_iter().flatten().any(|known| known == name) {
        return Ok(());
    }
    Err(format!("{system} is the system of {name}, and this host is {}", spec.settings.host))
}

/// Returns the output of a new command of Nix, if it succeeds.
async fn nix(arguments: &[&str]) -> Option<String> {
    output_if_ok("nix", &[NEW_COMMANDS.as_slice(), arguments].concat()).await
}
