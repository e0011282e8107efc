//! Runs Nix on the operator's machine: builds the systems of many hosts in one evaluation, signs them, copies them to a
//! cache, and asks a cache for closures.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use miette::Diagnostic;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned};
use thiserror::Error;
use tokio::process::Command;

use crate::lookup::Remote;
use crate::plan::{Changes, Closures, Plan, PlanErrors, ResolvedPlan, Roster, StorePath, Systems};
use crate::process_group::{output_shown, output_up_to};
use crate::protocol::{Commit, FlakeAttr, FlakeUrl, HostName, Revision, SystemPath};
use crate::text::{nearest, safe};

/// Maps names of configurations to the derivations of their systems, or to null if there is no such configuration. Of
/// the other configurations it evaluates only the names.
const DERIVATIONS: &str = r"all: names: {
  names = builtins.attrNames all;
  derivations = builtins.listToAttrs (map (name: {
    inherit name;
    value = if all ? ${name} then all.${name}.config.system.build.toplevel.drvPath else null;
  }) names);
}";

/// How long a cache may take to describe all systems of a fleet.
const WITHIN: Duration = Duration::from_mins(2);

/// The largest answer that is read, in bytes: some hundred thousand store paths.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Selects the JSON format with full paths. Versions of Nix with only that format reject the option.
const FORMAT: [&str; 2] = ["--json-format", "1"];

#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The names in `nixosConfigurations` of hosts whose configuration is not named after them.
    pub attrs: BTreeMap<HostName, FlakeAttr>,
    pub sign_key: Option<PathBuf>,
    /// The cache to copy the systems to, as `nix copy --to` accepts it.
    pub copy_to: Option<String>,
}

#[derive(Debug, Clone)]
pub enum SystemsFrom {
    /// Built before the rollout is prepared.
    Built(Systems),
    /// Built once the hosts and the commit are known.
    Building(BuildOptions),
}

impl SystemsFrom {
    /// Returns the revision of a plan: `given`, else the plan's own, else the commit that the systems were built from.
    pub fn revision(systems: Option<&Self>, plan: &Plan, given: Option<Revision>) -> Result<Revision, PlanErrors> {
        let built_from = match systems {
            Some(Self::Built(systems)) if plan.revision.is_none() => Some(systems.commit.clone().into()),
            Some(Self::Built(_) | Self::Building(_)) | None => None,
        };
        plan.revision(given.or(built_from))
    }
}

#[derive(Debug, Error, Diagnostic)]
pub enum NixError {
    #[error("nix is not on the PATH")]
    #[diagnostic(help("run this on a machine with Nix, or give the file that was written there with --systems"))]
    NotHere,
    #[error("cannot run nix: {0}")]
    NotRun(#[source] io::Error),
    #[error("`nix {0}` failed: {1}")]
    Failed(&'static str, String),
    #[error("`nix {0}` gave an answer that cannot be read: {1}")]
    #[diagnostic(help("`homelab-deploy build` needs Nix 2.18 or later"))]
    Unreadable(&'static str, #[source] serde_json::Error),
    #[error("the flake has no nixosConfigurations.{attr} for the host {host}")]
    #[diagnostic(help("{help}"))]
    NoConfiguration { host: HostName, attr: String, help: String },
    #[error("cannot read the signing key {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`nix key generate-secret --key-name NAME > FILE` makes one; nothing was built"))]
    Key(PathBuf, #[source] io::Error),
    /// Every user of the machine can read command lines.
    #[error("cannot build from {0}: its user name and password would stand on a command line")]
    #[diagnostic(help("leave them off the URL, and put them where Nix finds them"))]
    Secret(FlakeUrl),
}

#[derive(Debug, Deserialize)]
struct Evaluated {
    names: BTreeSet<String>,
    derivations: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    drv_path: String,
    outputs: BTreeMap<String, SystemPath>,
}

impl BuildOptions {
    /// Builds the systems of these hosts at one commit in a single evaluation, then signs and copies them if
    /// configured. Shows the messages of Nix.
    pub async fn build<'a>(
        &self,
        flake: &FlakeUrl,
        commit: &Commit,
        hosts: impl IntoIterator<Item = &'a HostName>,
    ) -> Result<Systems, NixError> {
        if let Some(key) = &self.sign_key {
            File::open(key).map_err(|error| NixError::Key(key.clone(), error))?;
        }
        let attr = |host: &'a HostName| self.attrs.get(host).map_or(host.as_str(), FlakeAttr::as_str);
        let attrs: BTreeMap<&HostName, &str> = hosts.into_iter().map(|host| (host, attr(host))).collect();
        let derivations = derivations(flake, commit, &attrs).await?;
        let outputs = realise(derivations.values()).await?;
        let output = |(host, drv): (&&HostName, &String)| match outputs.get(drv) {
            Some(system) => Ok((host.to_string(), system.clone())),
            None => Err(NixError::Unreadable("build", de::Error::custom(format!("it has no system for {host}")))),
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
}

/// Returns the derivation of each host's system; `attrs` maps hosts to configurations.
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

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace("${", r"\${"))
}

/// Returns the flake without its password, which the command gets by other means.
fn readable(flake: &FlakeUrl, command: &mut Command) -> Result<FlakeUrl, NixError> {
    let Some(remote) = flake.git_remote().map(Remote::at) else {
        let is_public = *flake == flake.public();
        return if is_public { Ok(flake.clone()) } else { Err(NixError::Secret(flake.public())) };
    };
    remote.configure_git(command.as_std_mut());
    let flake = flake.from_git_remote(&remote.url);
    // The commit may be on another branch than the default one.
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

/// Builds derivations without an evaluation and returns the output of each.
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

/// Runs Nix, shows its messages and returns its output.
async fn run(command: &mut Command, name: &'static str) -> Result<Vec<u8>, NixError> {
    let output = output_shown(command).await.map_err(not_run)?;
    if output.status.success() { Ok(output.stdout) } else { Err(NixError::Failed(name, "see above".to_owned())) }
}

async fn answer<T: DeserializeOwned>(command: &mut Command, name: &'static str) -> Result<T, NixError> {
    let answer = run(command, name).await?;
    serde_json::from_slice(&answer).map_err(|error| NixError::Unreadable(name, error))
}

fn not_run(error: io::Error) -> NixError {
    if error.kind() == io::ErrorKind::NotFound { NixError::NotHere } else { NixError::NotRun(error) }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(default)]
    references: Vec<String>,
    /// The size of the download, for a path in a cache.
    download_size: Option<u64>,
    nar_size: Option<u64>,
}

/// The answer of Nix 2.19 and later, and of earlier versions.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PathInfoAnswer {
    ByPath(BTreeMap<String, Option<Described>>),
    Listed(Vec<ListedPath>),
}

#[derive(Debug, Deserialize)]
struct ListedPath {
    path: String,
    /// Earlier versions also list paths that do not exist.
    valid: Option<bool>,
    #[serde(flatten)]
    described: Described,
}

/// Asks a cache what changes on the hosts that get built systems.
pub async fn changes_of(plan: &ResolvedPlan, roster: &Roster, cache: Option<&str>) -> Result<Changes, NixError> {
    let hosts = plan.hosts().filter_map(|host| {
        let runs = roster.host(host.tier, &host.hostname).and_then(|report| report.system.as_deref());
        // Nix would take any other text for an option, or for a flake to fetch.
        let runs = runs.filter(|runs| runs.parse::<SystemPath>().is_ok());
        Some((&host.hostname, runs, host.system.as_ref()?.as_str()))
    });
    let hosts: Vec<_> = hosts.collect();
    let systems = hosts.iter().filter(|(_, runs, shall_run)| *runs != Some(*shall_run));
    let systems = systems.flat_map(|(_, runs, shall_run)| runs.iter().copied().chain([*shall_run])).collect();
    Ok(closures(systems, cache).await?.changes(hosts))
}

/// Returns the closures of the systems that a cache has. Without a cache, asks the store of this machine.
pub async fn closures(systems: BTreeSet<&str>, cache: Option<&str>) -> Result<Closures, NixError> {
    // If one path is missing, Nix describes none of the closures.
    let there: Vec<String> = describe(&[], systems, cache).await?.into_keys().collect();
    if there.is_empty() {
        return Ok(Closures::default());
    }
    let described = describe(&["--recursive"], there.iter().map(String::as_str), cache).await?;
    let store_path = |Described { references, download_size, nar_size }| {
        let size = download_size.or(nar_size).unwrap_or_default();
        StorePath { references, size }
    };
    Ok(described.into_iter().map(|(path, described)| (path, store_path(described))).collect())
}

async fn describe(
    options: &[&str],
    paths: impl IntoIterator<Item = &str> + Clone,
    cache: Option<&str>,
) -> Result<BTreeMap<String, Described>, NixError> {
    let mut output = ask(options, paths.clone(), cache).await?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains(FORMAT[0]) {
        output = ask(&[options, &FORMAT].concat(), paths, cache).await?;
    }
    let name = "path-info";
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        return Err(NixError::Failed(name, safe(why.trim().trim_start_matches("error: "))));
    }
    let answer = serde_json::from_slice(&output.stdout).map_err(|error| NixError::Unreadable(name, error))?;
    Ok(match answer {
        PathInfoAnswer::ByPath(paths) => {
            paths.into_iter().filter_map(|(path, described)| Some((path, described?))).collect()
        }
        PathInfoAnswer::Listed(paths) => {
            paths.into_iter().filter(|path| path.valid != Some(false)).map(|path| (path.path, path.described)).collect()
        }
    })
}

async fn ask<'a>(
    options: &[&str],
    paths: impl IntoIterator<Item = &'a str>,
    cache: Option<&str>,
) -> Result<Output, NixError> {
    let mut command = nix(["path-info", "--json"]);
    command.args(options).args(cache.map(|cache| ["--store", cache]).into_iter().flatten()).args(paths);
    output_up_to(&mut command, WITHIN, MAX_ANSWER).await.map_err(not_run)
}
