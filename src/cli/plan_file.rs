//! Finding and reading the plan that a command names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use super::{alias, home};
use crate::plan::{Plan, PlanMistakes};
use crate::rollout::PlanSource;

/// The largest plan that is read, in bytes.
const MAX_PLAN_BYTES: u64 = 1024 * 1024;

/// Which plan.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The plan: a path when it contains a slash or ends in .toml, else the name of a file in the plans folder
    #[arg(value_name = "FILE|NAME")]
    plan: Option<String>,

    #[command(flatten)]
    folders: PlanFolders,
}

/// Where plans are looked up by name.
#[derive(Debug, Args)]
pub(super) struct PlanFolders {
    /// Folder in which plans are looked up by name [default: ./plans, then ~/.config/homelab-deploy/plans]
    #[arg(long, env = "HOMELAB_DEPLOY_PLANS_DIR", value_name = "DIR")]
    plans_dir: Option<PathBuf>,

    #[arg(long, env = "XDG_CONFIG_HOME", hide = true)]
    config_home: Option<OsString>,

    #[arg(long, env = "HOME", hide = true)]
    home: Option<OsString>,
}

/// A plan, and the text that its mistakes point into.
#[derive(Debug)]
pub(super) struct PlanFile {
    pub(super) plan: Plan,
    name: String,
    text: String,
}

#[derive(Debug, Error, Diagnostic)]
pub(super) enum PlanFileError {
    #[error("there is no plan {name:?}")]
    #[diagnostic(help("looked for {}; a path must contain a slash or end in .toml", looked_for.join(", ")))]
    NotFound { name: String, looked_for: Vec<String> },
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, io::Error),
    #[error("{0} is larger than {MAX_PLAN_BYTES} bytes")]
    #[diagnostic(help("a plan is a short text: check that this is the right file"))]
    TooLarge(PathBuf),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(PlanMistakes),
}

/// Whether the file of a plan is there and no longer says what it said.
pub(super) fn has_changed(source: &PlanSource) -> bool {
    std::fs::read_to_string(&source.path).is_ok_and(|text| digest(&text) != source.digest)
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}

impl PlanArgs {
    /// Reads the plan.
    pub(super) fn read(&self) -> Result<PlanFile, PlanFileError> {
        let path = self.find()?;
        let unreadable = |error| PlanFileError::Unreadable(path.clone(), error);
        let size = path.metadata().map_err(unreadable)?.len();
        if size > MAX_PLAN_BYTES {
            return Err(PlanFileError::TooLarge(path));
        }
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let name = path.display().to_string();
        let default_name = path.file_stem().unwrap_or_default().to_string_lossy();
        let plan = Plan::parse(&text, &default_name, &alias::lookup)
            .map_err(|mistakes| PlanFileError::Mistakes(mistakes.named(&name, &text)))?;
        Ok(PlanFile { plan, name, text })
    }

    fn find(&self) -> Result<PathBuf, PlanFileError> {
        // Without a plan the command line would have been refused, unless it does something else than read one.
        let plan = self.plan.as_deref().unwrap_or_default();
        if plan.contains('/') || Path::new(plan).extension().is_some_and(|extension| extension == "toml") {
            return Ok(PathBuf::from(plan));
        }
        let file = format!("{plan}.toml");
        let candidates: Vec<PathBuf> = self.folders.in_turn().into_iter().map(|folder| folder.join(&file)).collect();
        let looked_for = || candidates.iter().map(|path| path.display().to_string()).collect();
        let found = candidates.iter().find(|path| path.exists()).cloned();
        found.ok_or_else(|| PlanFileError::NotFound { name: plan.to_owned(), looked_for: looked_for() })
    }
}

impl PlanFolders {
    /// The names of all plans that can be found.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = self.in_turn().into_iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let plans = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
        let names: BTreeSet<String> = plans.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
        names.into_iter().collect()
    }

    fn in_turn(&self) -> Vec<PathBuf> {
        if let Some(folder) = &self.plans_dir {
            return vec![folder.clone()];
        }
        let config = home::folder(self.config_home.as_ref(), self.home.as_ref(), ".config");
        let shared = config.map(|config| config.join("homelab-deploy/plans"));
        std::iter::once(PathBuf::from("plans")).chain(shared).collect()
    }
}

impl PlanFile {
    /// What to remember of the file, for when the rollout is resumed.
    pub(super) fn source(&self) -> PlanSource {
        let path = std::path::absolute(&self.name).unwrap_or_else(|_| PathBuf::from(&self.name));
        PlanSource { path: path.display().to_string(), digest: digest(&self.text) }
    }

    /// Mistakes that were found only when the hosts were known, with their places in the file.
    pub(super) fn place(&self, mistakes: PlanMistakes) -> PlanFileError {
        PlanFileError::Mistakes(mistakes.named(&self.name, &self.text))
    }
}
