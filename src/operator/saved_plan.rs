//! A plan with its hosts, its commit and their systems, in a file: exactly that is carried out later, or nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::plan::{ResolvedHost, ResolvedPlan, Roster, runs};
use crate::protocol::{Feature, HostReport, RequestIds, Revision, RolloutId};
use crate::rollout::{PlanSource, Rollout};

/// What was settled, with a hash of all of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPlan {
    hash: String,
    #[serde(flatten)]
    settled: Settled,
}

/// A rollout that nobody has begun.
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

/// Why a plan that was saved is not carried out.
#[derive(Debug, Error, Diagnostic)]
pub enum SavedPlanError {
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{path} is no plan that was saved: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("`homelab-deploy plan NAME --out FILE.json` writes one"))]
    Mistaken(PathBuf, #[source] serde_json::Error),
    #[error("{} does not say what it said when it was written", .0.display())]
    #[diagnostic(help("a host, the commit or a system in it is another: save the plan again"))]
    Changed(PathBuf),
    #[error("the hosts are not as they were when the plan was saved: {0}")]
    #[diagnostic(help("save the plan again, and look at what it would do now"))]
    OtherHosts(String),
}

impl SavedPlan {
    /// What is to be saved of a rollout that could begin.
    pub fn of(rollout: &Rollout) -> Self {
        let Rollout { asked, revision, subject, source, plan, .. } = rollout.clone();
        let settled = Settled { asked, revision, subject, source, plan };
        Self { hash: settled.hash(), settled }
    }

    /// Reads what was saved, if nobody has changed it.
    pub fn read(path: &Path) -> Result<Self, SavedPlanError> {
        let text = fs::read(path).map_err(|error| SavedPlanError::Unreadable(path.to_owned(), error))?;
        let saved: Self =
            serde_json::from_slice(&text).map_err(|error| SavedPlanError::Mistaken(path.to_owned(), error))?;
        if saved.hash == saved.settled.hash() { Ok(saved) } else { Err(SavedPlanError::Changed(path.to_owned())) }
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("what was settled has string keys only") + "\n"
    }

    /// The rollout, under an id of its own.
    pub fn rollout(self, operator: String) -> Rollout {
        let Settled { asked, revision, subject, source, plan } = self.settled;
        let (id, ids) = (RolloutId::from(Uuid::new_v4()), RequestIds::new(Uuid::new_v4()));
        Rollout { id, ids, operator, asked, revision, subject, source, plan }
    }
}

impl Settled {
    fn hash(&self) -> String {
        let text = serde_json::to_vec(self).expect("what was settled has string keys only");
        let half = Sha256::digest(text).first_chunk().copied().unwrap_or_default();
        format!("{:032x}", u128::from_be_bytes(half))
    }
}

/// Makes sure that the hosts of a plan that was saved are as they were then.
pub fn check_hosts(plan: &ResolvedPlan, roster: &Roster) -> Result<(), SavedPlanError> {
    let mut odd = plan.hosts().filter_map(|host| difference(host, roster.host(host.tier, &host.hostname)));
    odd.next().map_or(Ok(()), |difference| Err(SavedPlanError::OtherHosts(difference)))
}

/// What is not as it was about a host.
fn difference(then: &ResolvedHost, now: Option<&HostReport>) -> Option<String> {
    let what = match now {
        None if then.present => "does not answer now".to_owned(),
        Some(_) if !then.present => "answers now, and did not then".to_owned(),
        Some(now) if now.revision != then.revision => {
            let runs = now.revision.as_ref().map_or("another system", |commit| commit.short());
            format!("runs {runs} now")
        }
        Some(now) if then.is_current && !then.system.as_ref().is_none_or(|system| runs(now, system)) => {
            "does not run its system any more".to_owned()
        }
        Some(now) if then.system.is_some() && !now.has(&Feature::System) => "takes no built systems now".to_owned(),
        Some(_) | None => return None,
    };
    Some(format!("{} {what}", then.hostname))
}
