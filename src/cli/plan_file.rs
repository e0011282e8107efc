//! Finding and reading the plan that a command names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use super::exit::{CommandError, Exit};
use super::{alias, home};
use crate::operator::plan_file::PlanFile;
use crate::text::did_you_mean;

// Which plan.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The plan: a path when it contains a slash or ends in .toml, else the name of a file in the plans folder; one that `plan
    /// --out` has saved ends in .json
    #[arg(value_name = "FILE|NAME")]
    plan: Option<String>,

    #[command(flatten)]
    folders: PlanFolders,
}

// Where plans are looked up by name.
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

#[derive(Debug, Error, Diagnostic)]
#[error("there is no plan {name:?}")]
#[diagnostic(help("{near}looked for {}; a path must contain a slash or end in .toml", looked_for.join(", ")))]
pub(super) struct PlanNotFound {
    name: String,
    near: String,
    looked_for: Vec<String>,
}

impl PlanArgs {
    /// The file, where it is a plan that was saved with its hosts.
    pub(super) fn saved(&self) -> Option<&Path> {
        self.plan.as_deref().filter(|plan| has_extension(plan, "json")).map(Path::new)
    }

    pub(super) fn read(&self) -> Result<PlanFile, CommandError> {
        // Without a plan the command line would have been refused, unless it does something else than read one.
        let path = self.folders.find(self.plan.as_deref().unwrap_or_default());
        let path = path.map_err(|error| Exit::Usage.with(error))?;
        PlanFile::read(&path, &alias::KnownAliases).map_err(|error| Exit::Usage.with(error))
    }
}

/// Whether a plan is given as a path.
pub(super) fn is_path(plan: &str) -> bool {
    plan.contains('/') || has_extension(plan, "toml")
}

fn has_extension(plan: &str, wanted: &str) -> bool {
    Path::new(plan).extension().is_some_and(|extension| extension == wanted)
}

impl PlanFolders {
    /// The file of a plan, which is given as a path or by its name.
    pub(super) fn find(&self, plan: &str) -> Result<PathBuf, PlanNotFound> {
        if is_path(plan) {
            return Ok(PathBuf::from(plan));
        }
        let file = format!("{plan}.toml");
        let candidates: Vec<PathBuf> = self.in_turn().into_iter().map(|folder| folder.join(&file)).collect();
        let found = candidates.iter().find(|path| path.exists()).cloned();
        found.ok_or_else(|| {
            let names = self.names();
            let near = did_you_mean(plan, names.iter().map(String::as_str));
            let looked_for = candidates.iter().map(|path| path.display().to_string()).collect();
            PlanNotFound { name: plan.to_owned(), near, looked_for }
        })
    }

    pub(super) fn names(&self) -> Vec<String> {
        let files = self.files();
        let names: BTreeSet<&str> = files.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The files of all plans that can be found, in order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let entries = self.in_turn().into_iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let plans = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
        let files: BTreeSet<PathBuf> = plans.collect();
        files.into_iter().collect()
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
