//! Nix on the operator's machine: it builds the systems of many hosts in one evaluation, signs them and copies them to a cache,
//! and tells what a cache has.

mod path_info;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use miette::Diagnostic;
use serde::Deserialize;
use thiserror::Error;
use tokio::process::Command;

pub use self::path_info::closures;
use crate::lookup::Remote;
use crate::plan::Systems;
use crate::process_group::output_shown;
use crate::protocol::{Commit, FlakeAttr, FlakeUrl, HostName, SystemPath};
use crate::text::nearest;

/// Finds the derivation of each system, by names of configurations, and null for those that there are not. Of those there are it
/// takes the names alone.
const DERIVATIONS: &str = r"all: names: {
  names = builtins.attrNames all;
  derivations = builtins.listToAttrs (map (name: {
    inherit name;
    value = if all ? ${name} then all.${name}.config.system.build.toplevel.drvPath else null;
  }) names);
}";

/// How systems are built.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The names in `nixosConfigurations` of hosts that have another there than their own.
    pub attrs: BTreeMap<HostName, FlakeAttr>,
    /// The file with the key that they are signed with.
    pub sign_key: Option<PathBuf>,
    /// Where they are copied to, as `nix copy --to` takes it.
    pub copy_to: Option<String>,
}

/// Why Nix has not done what it was to do.
#[derive(Debug, Error, Diagnostic)]
pub enum NixError {
    /// It is not here.
    #[error("nix is not on the PATH")]
    #[diagnostic(help(
        "systems are built where Nix is: run this there, or give the file that was written there with --systems"
    ))]
    NotHere,
    /// It cannot be run.
    #[error("cannot run nix: {0}")]
    NotRun(#[source] io::Error),
    /// It failed, and said why to the person who waits for it.
    #[error("`nix {0}` failed; what it says is above")]
    Failed(String),
    /// It failed, and nobody has seen why.
    #[error("`nix {0}` failed: {1}")]
    Refused(String, String),
    /// It said something else than was asked.
    #[error("`nix {0}` gave an answer that cannot be read: {1}")]
    #[diagnostic(help("`homelab-deploy build` needs Nix 2.18 or later"))]
    Unreadable(String, #[source] serde_json::Error),
    /// A system was not built, though Nix says that all were.
    #[error("nix has built no system for {0}")]
    NotBuilt(HostName),
    /// The flake has no such host.
    #[error("the flake has no nixosConfigurations.{attr} for the host {host}")]
    #[diagnostic(help("{help}"))]
    NoConfiguration {
        /// The host.
        host: HostName,
        /// What its configuration would be called.
        attr: String,
        /// What to do.
        help: String,
    },
    /// The systems cannot be signed.
    #[error("cannot read the signing key {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`nix key generate-secret --key-name NAME > FILE` makes one; nothing was built"))]
    Key(PathBuf, #[source] io::Error),
    /// Every user of the machine can read command lines.
    #[error("cannot build from {0}: its user name and password would stand on a command line")]
    #[diagnostic(help("leave them off the URL, and put them where Nix finds them"))]
    Secret(FlakeUrl),
}

/// What the flake has.
#[derive(Debug, Deserialize)]
struct Evaluated {
    names: BTreeSet<String>,
    derivations: BTreeMap<String, Option<String>>,
}

/// One derivation that is built.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    drv_path: String,
    outputs: BTreeMap<String, SystemPath>,
}

impl BuildOptions {
    /// Builds the systems of these hosts at one commit in a single evaluation; then signs and copies them, where that is wanted.
    /// What Nix says meanwhile is for the person who waits.
    pub async fn build<'a>(
        &self,
        flake: &FlakeUrl,
        commit: &Commit,
        hosts: impl IntoIterator<Item = &'a HostName>,
    ) -> Result<Systems, NixError> {
        if let Some(key) = &self.sign_key {
            File::open(key).map_err(|error| NixError::Key(key.clone(), error))?;
        }
        let attrs: BTreeMap<&HostName, &str> = hosts.into_iter().map(|host| (host, self.attr(host))).collect();
        let derivations = derivations(flake, commit, &attrs).await?;
        let outputs = realise(derivations.values()).await?;
        let output = |(host, drv): (&&HostName, &String)| match outputs.get(drv) {
            Some(system) => Ok((host.to_string(), system.clone())),
            None => Err(NixError::NotBuilt((*host).clone())),
        };
        let systems = derivations.iter().map(output).collect::<Result<BTreeMap<_, _>, _>>()?;
        let paths = || systems.values().map(SystemPath::as_str);
        if let Some(key) = &self.sign_key {
            run(nix(["store", "sign", "--recursive", "--key-file"]).arg(key).args(paths()), "store sign").await?;
        }
        if let Some(cache) = &self.copy_to {
            run(nix(["copy", "--to", cache]).args(paths()), "copy").await?;
        }
        let flake = Some(flake.public().to_string());
        Ok(Systems { commit: commit.clone(), flake, cache: self.copy_to.clone(), systems })
    }

    fn attr<'a>(&'a self, host: &'a HostName) -> &'a str {
        self.attrs.get(host).map_or(host.as_str(), FlakeAttr::as_str)
    }
}

/// The derivations of the systems of these hosts, whose configurations go by these names.
async fn derivations<'a>(
    flake: &FlakeUrl,
    commit: &Commit,
    attrs: &BTreeMap<&'a HostName, &str>,
) -> Result<BTreeMap<&'a HostName, String>, NixError> {
    let names = serde_json::to_string(&attrs.values().collect::<BTreeSet<_>>()).expect("names are texts");
    let wanted = format!("all: ({DERIVATIONS}) all (builtins.fromJSON {})", quoted(&names));
    let mut command = nix(["eval", "--json", "--apply", &wanted]);
    let flake = readable(flake, &mut command)?.at(&commit.clone().into());
    command.arg(format!("{flake}#nixosConfigurations"));
    let found: Evaluated = answer(&mut command, "eval").await?;
    let derivation = |(host, attr): (&&'a HostName, &&str)| match found.derivations.get(*attr) {
        Some(Some(derivation)) => Ok((*host, derivation.clone())),
        Some(None) | None => Err(no_configuration(host, attr, &found.names)),
    };
    attrs.iter().map(derivation).collect()
}

/// A text as Nix writes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace("${", r"\${"))
}

/// The flake with its password out of sight, of which the command is told in another way.
fn readable(flake: &FlakeUrl, command: &mut Command) -> Result<FlakeUrl, NixError> {
    let Some(remote) = flake.git_remote().map(Remote::at) else {
        let is_public = *flake == flake.public();
        return if is_public { Ok(flake.clone()) } else { Err(NixError::Secret(flake.public())) };
    };
    remote.introduce(command.as_std_mut());
    let flake = flake.from_git_remote(remote.url());
    // The commit may be of another branch than the one that is checked out by default.
    Ok(flake.with_all_refs().unwrap_or(flake))
}

fn no_configuration(host: &HostName, attr: &str, names: &BTreeSet<String>) -> NixError {
    let help = match nearest(attr, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}? Then say so with --attr {host}={name}"),
        None if names.is_empty() => "it has no nixosConfigurations at all: check --flake".to_owned(),
        None => format!(
            "it has {}; --attr {host}=NAME says which one it is",
            names.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ")
        ),
    };
    NixError::NoConfiguration { host: host.clone(), attr: attr.to_owned(), help }
}

/// Builds derivations, and returns the output of each. Nothing is evaluated for that.
async fn realise(derivations: impl Iterator<Item = &String>) -> Result<BTreeMap<String, SystemPath>, NixError> {
    let wanted: BTreeSet<String> = derivations.map(|derivation| format!("{derivation}^out")).collect();
    let built: Vec<Built> = answer(nix(["build", "--no-link", "--json"]).args(wanted), "build").await?;
    Ok(built.into_iter().filter_map(|mut built| Some((built.drv_path, built.outputs.remove("out")?))).collect())
}

fn nix<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("nix");
    command.args(["--extra-experimental-features", "nix-command flakes"]).args(arguments.map(OsStr::new));
    command
}

/// Runs Nix in sight of the person who waits for it, and returns what it prints.
async fn run(command: &mut Command, name: &str) -> Result<Vec<u8>, NixError> {
    let output = output_shown(command).await.map_err(not_run)?;
    if output.status.success() { Ok(output.stdout) } else { Err(NixError::Failed(name.to_owned())) }
}

async fn answer<T: for<'de> Deserialize<'de>>(command: &mut Command, name: &str) -> Result<T, NixError> {
    let answer = run(command, name).await?;
    serde_json::from_slice(&answer).map_err(|error| NixError::Unreadable(name.to_owned(), error))
}

fn not_run(error: io::Error) -> NixError {
    if error.kind() == io::ErrorKind::NotFound { NixError::NotHere } else { NixError::NotRun(error) }
}
