//! What a cache says of the closures of systems. It is asked for descriptions only, and nothing is downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::Duration;

use serde::Deserialize;

use super::{NixError, nix, not_run};
use crate::plan::{Closures, StorePath};
use crate::process_group::output_up_to;
use crate::text::safe;

/// How long a cache may take to describe all systems of a fleet.
const WITHIN: Duration = Duration::from_mins(2);

/// The longest answer that is read, in bytes: some hundred thousand store paths.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// What Nix calls the form of its JSON in which each path is whole. Versions that know no other form do not know the option.
const FORMAT: [&str; 2] = ["--json-format", "1"];

/// A store path as `nix path-info --json` describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(default)]
    references: Vec<String>,
    /// What is downloaded, where it is in a cache.
    download_size: Option<u64>,
    nar_size: Option<u64>,
}

/// The answer of Nix 2.19 and later, and of earlier versions.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    ByPath(BTreeMap<String, Option<Described>>),
    Listed(Vec<Listed>),
}

#[derive(Debug, Deserialize)]
struct Listed {
    path: String,
    #[serde(default = "yes")]
    valid: bool,
    #[serde(flatten)]
    described: Described,
}

const fn yes() -> bool {
    true
}

/// The closures of those of these systems that a cache has; without one the store of this machine is asked.
pub async fn closures(systems: BTreeSet<&str>, cache: Option<&str>) -> Result<Closures, NixError> {
    // With one that is not there, Nix would tell of none of the closures.
    let there: Vec<String> = describe(&[], systems, cache).await?.into_keys().collect();
    if there.is_empty() {
        return Ok(Closures::default());
    }
    let described = describe(&["--recursive"], there.iter().map(String::as_str), cache).await?;
    Ok(described.into_iter().map(|(path, it)| (path, it.into())).collect())
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
    let name = || "path-info".to_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        return Err(NixError::Refused(name(), safe(why.trim().trim_start_matches("error: "))));
    }
    let answer = serde_json::from_slice(&output.stdout).map_err(|error| NixError::Unreadable(name(), error))?;
    Ok(match answer {
        Answer::ByPath(paths) => paths.into_iter().filter_map(|(path, described)| Some((path, described?))).collect(),
        Answer::Listed(paths) => {
            paths.into_iter().filter(|path| path.valid).map(|path| (path.path, path.described)).collect()
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

impl From<Described> for StorePath {
    fn from(described: Described) -> Self {
        let size = described.download_size.or(described.nar_size).unwrap_or_default();
        Self { references: described.references, size }
    }
}
