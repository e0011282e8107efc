//! Reads the files that describe a rollout: plans, systems built earlier, and saved plans. A saved plan has its hosts,
//! commit and systems; it is carried out exactly as saved, or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::plan::{Aliases, Plan, PlanErrors, ResolvedHost, ResolvedPlan, Roster, Systems};
use crate::protocol::{Feature, HostReport, RequestIds, Revision, RolloutId};
use crate::rollout::{PlanSource, Rollout};
use crate::text::fingerprint;

/// The largest plan file that is read, in bytes.
const MAX_PLAN_BYTES: u64 = 1024 * 1024;

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

/// A saved plan, with a hash of all of it.
#[derive(Debug, Serialize, Deserialize)]
struct SavedPlan {
    hash: String,
    #[serde(flatten)]
    settled: Settled,
}

/// A prepared rollout that has not begun: each start has an id, a secret and an operator of its own.
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

#[derive(Debug, Error, Diagnostic)]
pub enum PlanFileError {
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help(
        "check its path: a plan is a text file in UTF-8 that you may read; `homelab-deploy plan NAME --out FILE.json` writes one \
         to apply later, and `homelab-deploy build --out FILE` a file of systems"
    ))]
    Unreadable(PathBuf, #[source] io::Error),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(PlanErrors),
    #[error("{path} is not a file of systems: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help(
        r#"`homelab-deploy build --out FILE` writes {{"commit": "<40 digits>", "systems": {{"ns1": "/nix/store/…"}}}}"#
    ))]
    NotSystems(PathBuf, #[source] serde_json::Error),
    #[error("{path} is not a saved plan: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy plan NAME --out FILE.json` writes one"))]
    NotSaved(PathBuf, #[source] serde_json::Error),
    #[error("{} has changed since it was written", .0.display())]
    #[diagnostic(help("its hosts, commit or systems are not those that were saved: save the plan again"))]
    Changed(PathBuf),
    #[error("the hosts are not as they were when the plan was saved: {0}")]
    #[diagnostic(help("save the plan again, and look at what it would do now"))]
    OtherHosts(String),
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
    pub fn systems(&self) -> Result<Option<Systems>, PlanFileError> {
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

/// Whether the plan file exists and has changed.
pub fn has_changed(source: &PlanSource) -> bool {
    read_text(Path::new(&source.path)).is_ok_and(|text| digest(&text) != source.digest)
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}

/// Reads a file that `homelab-deploy build` wrote.
pub fn read_systems(path: &Path) -> Result<Systems, PlanFileError> {
    read_json(path, MAX_SYSTEMS_BYTES, PlanFileError::NotSystems)
}

/// Returns the text of a file from which this rollout can begin later.
pub(crate) fn saved_plan(rollout: &Rollout) -> String {
    let Rollout { asked, revision, subject, source, plan, .. } = rollout.clone();
    let settled = Settled { asked, revision, subject, source, plan };
    let saved = SavedPlan { hash: hash(&settled), settled };
    serde_json::to_string_pretty(&saved).expect("what was settled has string keys only") + "\n"
}

/// Reads a saved plan, to begin now. Fails if the file was edited.
pub fn read_saved_plan(path: &Path, operator: String) -> Result<Rollout, PlanFileError> {
    let saved: SavedPlan = read_json(path, MAX_SAVED_PLAN_BYTES, PlanFileError::NotSaved)?;
    if saved.hash != hash(&saved.settled) {
        return Err(PlanFileError::Changed(path.to_owned()));
    }
    let Settled { asked, revision, subject, source, plan } = saved.settled;
    let (id, ids) = (RolloutId::from(Uuid::new_v4()), RequestIds::new(Uuid::new_v4()));
    Ok(Rollout { id, ids, operator, asked, revision, subject, source, plan })
}

fn hash(settled: &Settled) -> String {
    fingerprint(serde_json::to_vec(settled).expect("what was settled has string keys only"))
}

fn read_text(path: &Path) -> Result<String, PlanFileError> {
    let text = String::from_utf8(read_up_to(MAX_PLAN_BYTES, path)?);
    text.map_err(|error| PlanFileError::Unreadable(path.to_owned(), io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn read_json<T: DeserializeOwned>(
    path: &Path,
    most: u64,
    mistaken: fn(PathBuf, serde_json::Error) -> PlanFileError,
) -> Result<T, PlanFileError> {
    serde_json::from_slice(&read_up_to(most, path)?).map_err(|error| mistaken(path.to_owned(), error))
}

fn read_up_to(most: u64, path: &Path) -> Result<Vec<u8>, PlanFileError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    let whole = read.and_then(|length| match length as u64 {
        length if length <= most => Ok(bytes),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes"))),
    });
    whole.map_err(|error| PlanFileError::Unreadable(path.to_owned(), error))
}

/// Fails if the hosts of a saved plan have changed since it was saved.
pub fn check_hosts(plan: &ResolvedPlan, roster: &Roster) -> Result<(), PlanFileError> {
    let mut odd = plan.hosts().filter_map(|host| difference(host, roster.host(host.tier, &host.hostname)));
    odd.next().map_or(Ok(()), |difference| Err(PlanFileError::OtherHosts(difference)))
}

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operator::testing::rollout;

    #[test]
    fn a_saved_plan_has_its_members_beside_its_hash_and_no_secret() {
        let rollout = rollout(&[&["a"]]);
        let text = saved_plan(&rollout);
        let saved: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(saved.keys().collect::<Vec<_>>(), ["asked", "hash", "plan", "revision"]);

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let read = read_saved_plan(file.path(), "ops@desk".to_owned()).unwrap();
        assert_ne!((read.id, &read.ids), (rollout.id, &rollout.ids));
        assert_eq!(Rollout { id: rollout.id, ids: rollout.ids, ..read }, *rollout);
    }
}
