//! Reads the files that describe a rollout: plans, systems built earlier, and saved plans. A saved plan has its hosts,
//! commit and systems; it is carried out exactly as saved, or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::plan::{Aliases, Plan, PlanErrors, ResolvedHost, ResolvedPlan, Roster, Systems};
use crate::protocol::{Feature, HostReport, RequestIds, Revision, RolloutId};
use crate::rollout::{PlanSource, Rollout};
use crate::text::fingerprint;

/// The largest plan file that is read, in bytes.
pub(crate) const MAX_PLAN_BYTES: u64 = 1024 * 1024;

/// The largest systems file that is read, in bytes: enough for a hundred thousand hosts.
const MAX_SYSTEMS_BYTES: u64 = 16 * 1024 * 1024;

/// The largest saved plan that is read, in bytes: enough for as many.
const MAX_SAVED_PLAN_BYTES: u64 = 64 * 1024 * 1024;

/// A plan and its text, which diagnostics point into.
#[derive(Debug)]
pub struct PlanFile {
    pub plan: Plan,
    pub text: String,
    name: String,
}

#[derive(Debug, Error, Diagnostic)]
pub enum PlanFileError {
    #[error("cannot read {0}: {1}")]
    #[diagnostic(help("a plan is a text file in UTF-8 that you may read: check its path, and save it in UTF-8"))]
    Unreadable(PathBuf, io::Error),
    #[error("{0} is larger than {MAX_PLAN_BYTES} bytes")]
    #[diagnostic(help("a plan is a short text: check that this is the right file"))]
    TooLarge(PathBuf),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(PlanErrors),
}

impl PlanFile {
    pub fn read(path: &Path, aliases: &dyn Aliases) -> Result<Self, PlanFileError> {
        let text = read_text(path)?;
        let name = path.display().to_string();
        let default_name = path.file_stem().unwrap_or_default().to_string_lossy();
        let plan = Plan::parse(&text, &default_name, aliases)
            .map_err(|mistakes| PlanFileError::Mistakes(mistakes.named(&name, &text)))?;
        Ok(Self { plan, text, name })
    }

    /// Reads the systems file that the plan names, relative to the plan's own folder.
    pub fn systems(&self) -> Result<Option<Systems>, SystemsFileError> {
        let folder = Path::new(&self.name).parent().unwrap_or(Path::new(""));
        self.plan.systems.as_ref().map(|file| read_systems(&folder.join(file))).transpose()
    }

    /// Returns the path and digest of the file, to check on resuming.
    pub fn source(&self) -> PlanSource {
        let path = std::path::absolute(&self.name).unwrap_or_else(|_| PathBuf::from(&self.name));
        PlanSource { path: path.display().to_string(), digest: digest(&self.text) }
    }

    /// Adds the places in the file to mistakes that were found after parsing.
    #[must_use]
    pub fn place(&self, mistakes: PlanErrors) -> PlanErrors {
        mistakes.named(&self.name, &self.text)
    }
}

/// Reads the text of a plan file without parsing it.
pub fn read_text(path: &Path) -> Result<String, PlanFileError> {
    let text = read_up_to(MAX_PLAN_BYTES, path).and_then(|text| io::read_to_string(text.as_slice()));
    text.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => PlanFileError::TooLarge(path.to_owned()),
        _ => PlanFileError::Unreadable(path.to_owned(), error),
    })
}

/// Reads a file with a bound in bytes.
fn read_up_to(most: u64, path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes")));
    }
    Ok(text)
}

/// Whether the plan file exists and has changed.
pub fn has_changed(source: &PlanSource) -> bool {
    read_text(Path::new(&source.path)).is_ok_and(|text| digest(&text) != source.digest)
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}

#[derive(Debug, Error, Diagnostic)]
pub enum SystemsFileError {
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy build --out FILE` writes one"))]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{path} is not a file of systems: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help(r#"it looks like {{"commit": "<40 digits>", "systems": {{"ns1": "/nix/store/…"}}}}"#))]
    Mistaken(PathBuf, #[source] serde_json::Error),
}

/// Reads a file that `homelab-deploy build` wrote.
pub fn read_systems(path: &Path) -> Result<Systems, SystemsFileError> {
    let text = read_up_to(MAX_SYSTEMS_BYTES, path);
    let text = text.map_err(|error| SystemsFileError::Unreadable(path.to_owned(), error))?;
    serde_json::from_slice(&text).map_err(|error| SystemsFileError::Mistaken(path.to_owned(), error))
}

/// A prepared rollout, with a hash of all of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPlan {
    hash: String,
    #[serde(flatten)]
    settled: Settled,
}

/// A prepared rollout that has not begun.
#[derive(Debug, Serialize, Deserialize)]
struct Settled {
    asked: Revision,
    revision: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<PlanSource>,
    plan: ResolvedPlan,
}

/// Reasons why a saved plan is not carried out.
#[derive(Debug, Error, Diagnostic)]
pub enum SavedPlanError {
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy plan NAME --out FILE.json` writes one"))]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{path} is not a saved plan: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy plan NAME --out FILE.json` writes one"))]
    Mistaken(PathBuf, #[source] serde_json::Error),
    #[error("{} has changed since it was written", .0.display())]
    #[diagnostic(help("its hosts, commit or systems are not those that were saved: save the plan again"))]
    Changed(PathBuf),
    #[error("the hosts are not as they were when the plan was saved: {0}")]
    #[diagnostic(help("save the plan again, and look at what it would do now"))]
    OtherHosts(String),
}

impl SavedPlan {
    /// Saves a prepared rollout.
    pub fn of(rollout: &Rollout) -> Self {
        let Rollout { asked, revision, subject, source, plan, .. } = rollout.clone();
        let settled = Settled { asked, revision, subject, source, plan };
        Self { hash: settled.hash(), settled }
    }

    /// Reads a saved plan. Fails if the file was edited.
    pub fn read(path: &Path) -> Result<Self, SavedPlanError> {
        let text = read_up_to(MAX_SAVED_PLAN_BYTES, path);
        let text = text.map_err(|error| SavedPlanError::Unreadable(path.to_owned(), error))?;
        let saved: Self =
            serde_json::from_slice(&text).map_err(|error| SavedPlanError::Mistaken(path.to_owned(), error))?;
        if saved.hash == saved.settled.hash() { Ok(saved) } else { Err(SavedPlanError::Changed(path.to_owned())) }
    }

    /// Returns the text of the file.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("what was settled has string keys only") + "\n"
    }

    /// Turns the saved plan into a rollout with a new id.
    pub fn rollout(self, operator: String) -> Rollout {
        let Settled { asked, revision, subject, source, plan } = self.settled;
        let (id, ids) = (RolloutId::from(Uuid::new_v4()), RequestIds::new(Uuid::new_v4()));
        Rollout { id, ids, operator, asked, revision, subject, source, plan }
    }
}

impl Settled {
    fn hash(&self) -> String {
        fingerprint(serde_json::to_vec(self).expect("what was settled has string keys only"))
    }
}

/// Fails if the hosts of a saved plan have changed since it was saved.
pub fn check_hosts(plan: &ResolvedPlan, roster: &Roster) -> Result<(), SavedPlanError> {
    let mut odd = plan.hosts().filter_map(|host| difference(host, roster.host(host.tier, &host.hostname)));
    odd.next().map_or(Ok(()), |difference| Err(SavedPlanError::OtherHosts(difference)))
}

/// Describes how a host has changed.
fn difference(then: &ResolvedHost, now: Option<&HostReport>) -> Option<String> {
    let what = match now {
        None if then.present => "does not answer now".to_owned(),
        Some(_) if !then.present => "answers now, and did not then".to_owned(),
        Some(now) if now.revision != then.revision => {
            let runs = now.revision.as_ref().map_or("another system", |commit| commit.short());
            format!("runs {runs} now")
        }
        Some(now) if then.is_current && !then.system.as_ref().is_none_or(|system| now.is_current_system(system)) => {
            "does not run its system any more".to_owned()
        }
        Some(now) if then.system.is_some() && !now.has(&Feature::System) => "accepts no built systems now".to_owned(),
        Some(_) | None => return None,
    };
    Some(format!("{} {what}", then.hostname))
}
