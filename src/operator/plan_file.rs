//! The files of a plan and of systems that were built before: reading them, and remembering what they said.

use std::io;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use crate::plan::{Plan, PlanErrors, Systems};
use crate::rollout::PlanSource;

/// The largest plan that is read, in bytes.
pub(crate) const MAX_PLAN_BYTES: u64 = 1024 * 1024;

/// The largest file of systems that is read, in bytes: a hundred thousand hosts.
const MAX_SYSTEMS_BYTES: u64 = 16 * 1024 * 1024;

/// A plan, and the text that its mistakes point into.
#[derive(Debug)]
pub struct PlanFile {
    pub plan: Plan,
    pub text: String,
    name: String,
}

#[derive(Debug, Error, Diagnostic)]
pub enum PlanFileError {
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, io::Error),
    #[error("{0} is larger than {MAX_PLAN_BYTES} bytes")]
    #[diagnostic(help("a plan is a short text: check that this is the right file"))]
    TooLarge(PathBuf),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(PlanErrors),
}

impl PlanFile {
    /// Reads a plan. `aliases` finds the value of an environment variable by its name.
    pub fn read(path: &Path, aliases: &dyn Fn(&str) -> Option<String>) -> Result<Self, PlanFileError> {
        let text = read_text(path)?;
        let name = path.display().to_string();
        let default_name = path.file_stem().unwrap_or_default().to_string_lossy();
        let plan = Plan::parse(&text, &default_name, aliases)
            .map_err(|mistakes| PlanFileError::Mistakes(mistakes.named(&name, &text)))?;
        Ok(Self { plan, text, name })
    }

    /// The systems that the plan has for its hosts, in a file that it names from where it is.
    pub fn systems(&self) -> Result<Option<Systems>, SystemsFileError> {
        let folder = Path::new(&self.name).parent().unwrap_or(Path::new(""));
        self.plan.systems.as_ref().map(|file| read_systems(&folder.join(file))).transpose()
    }

    /// What to remember of the file, for when the rollout is resumed.
    pub fn source(&self) -> PlanSource {
        let path = std::path::absolute(&self.name).unwrap_or_else(|_| PathBuf::from(&self.name));
        PlanSource { path: path.display().to_string(), digest: digest(&self.text) }
    }

    /// Mistakes that were found only when the hosts were known, with their places in the file.
    #[must_use]
    pub fn place(&self, mistakes: PlanErrors) -> PlanErrors {
        mistakes.named(&self.name, &self.text)
    }
}

/// The text in the file of a plan, whatever it says.
pub fn read_text(path: &Path) -> Result<String, PlanFileError> {
    let unreadable = |error| PlanFileError::Unreadable(path.to_owned(), error);
    let size = path.metadata().map_err(unreadable)?.len();
    if size > MAX_PLAN_BYTES {
        return Err(PlanFileError::TooLarge(path.to_owned()));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Whether the file of a plan is there and no longer says what it said.
pub fn has_changed(source: &PlanSource) -> bool {
    std::fs::read_to_string(&source.path).is_ok_and(|text| digest(&text) != source.digest)
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}

/// Why there are no systems in a file.
#[derive(Debug, Error, Diagnostic)]
pub enum SystemsFileError {
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy build --out FILE` writes one"))]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{path} is not a file of systems: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help(r#"it looks like {{"commit": "<40 digits>", "systems": {{"ns1": "/nix/store/…"}}}}"#))]
    Mistaken(PathBuf, #[source] serde_json::Error),
}

/// Reads a file as `homelab-deploy build` writes it.
pub fn read_systems(path: &Path) -> Result<Systems, SystemsFileError> {
    let unreadable = |error| SystemsFileError::Unreadable(path.to_owned(), error);
    if path.metadata().map_err(unreadable)?.len() > MAX_SYSTEMS_BYTES {
        return Err(unreadable(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {MAX_SYSTEMS_BYTES} bytes"),
        )));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|error| SystemsFileError::Mistaken(path.to_owned(), error))
}
