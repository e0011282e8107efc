//! Resolves the revision of a rollout to the one commit that all its requests carry.

use std::collections::BTreeSet;

use jiff::Timestamp;
use miette::Diagnostic;
use thiserror::Error;

use super::history::History;
use super::journal::Journals;
use crate::lookup::{LookupError, commit_of, commits_of_all_refs};
use crate::protocol::{Commit, FlakeUrl, Revision};

#[derive(Debug, Error, Diagnostic)]
pub enum UnresolvedError {
    #[error("it is not known in which repository to look up \"{0}\"")]
    #[diagnostic(help("set `flake` in the plan or --flake, or give the full commit id of 40 digits"))]
    NoFlake(Revision),
    #[error("several commits begin with {beginning}: {}", list(commits))]
    #[diagnostic(help("give more of the one that is meant, at best all 40 digits"))]
    Ambiguous { beginning: Revision, commits: BTreeSet<Commit> },
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lookup(#[from] LookupError),
}

impl UnresolvedError {
    /// Whether the flake was asked and has no such branch or tag.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Lookup(LookupError::NoSuchRef { .. }))
    }
}

/// Resolves a revision in the flake that hosts deploy from; a full commit id needs none. A short commit id is completed
/// from sources that hosts cannot write: a local clone, the branches and tags of the flake's server, earlier rollouts.
pub async fn resolve_revision(
    asked: &Revision,
    flake: Option<&FlakeUrl>,
    history: &History,
    journals: &Journals,
) -> Result<Commit, UnresolvedError> {
    if let Some(commit) = asked.commit() {
        return Ok(commit);
    }
    let not_found: UnresolvedError = match flake {
        None => UnresolvedError::NoFlake(asked.clone()),
        Some(flake) => match commit_of(asked, flake).await {
            Err(error @ LookupError::NoSuchRef { .. }) => error.into(),
            // A branch or tag takes precedence over a short commit id.
            found => return Ok(found?),
        },
    };
    let mut commits = commits_at_hand(asked, history, journals).await;
    if let Some(flake) = flake.filter(|_| asked.looks_like_short_commit()) {
        commits.extend(commits_of_all_refs(flake, asked).await?.into_iter().filter(|tip| begins_with(tip, asked)));
    }
    match commits.len() {
        0 => Err(not_found),
        1 => commits.pop_first().ok_or(not_found),
        _ => Err(UnresolvedError::Ambiguous { beginning: asked.clone(), commits }),
    }
}

/// Returns the commits that a revision can mean without asking a server: a full id means itself, a short one is looked
/// up in local clones and earlier rollouts. Reports of hosts are not used: they could name any commit.
pub(super) async fn commits_at_hand(asked: &Revision, history: &History, journals: &Journals) -> BTreeSet<Commit> {
    if !asked.looks_like_short_commit() {
        return asked.commit().into_iter().collect();
    }
    let mut commits = history.commits_beginning_with(asked).await;
    let deployed = journals.since(Timestamp::MIN).into_iter().filter_map(|(_, rollout)| rollout.revision.commit());
    commits.extend(deployed.filter(|commit| begins_with(commit, asked)));
    commits
}

fn begins_with(commit: &Commit, beginning: &Revision) -> bool {
    commit.as_str().starts_with(&beginning.as_str().to_ascii_lowercase())
}

fn list(commits: &BTreeSet<Commit>) -> String {
    commits.iter().map(Commit::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::lookup::testing::{git, repository};
    use crate::operator::testing::rollout;
    use crate::protocol::RolloutId;
    use crate::rollout::{Event, EventKind, Rollout};

    const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

    async fn resolved(asked: &str, flake: Option<&FlakeUrl>, journals: &Journals) -> Result<Commit, UnresolvedError> {
        resolve_revision(&asked.parse().unwrap(), flake, &History::of(flake, None), journals).await
    }

    fn record(journals: &Journals, number: u128, revision: &str) {
        let id = RolloutId::from(Uuid::from_u128(number));
        let revision = revision.parse().unwrap();
        let rollout = Arc::new(Rollout { id, revision, ..Rollout::clone(&rollout(&[&["a"]])) });
        let mut journal = journals.create(id).unwrap();
        journal.record(&Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Begun(rollout) }).unwrap();
        journal.sync().unwrap();
    }

    #[tokio::test]
    async fn only_a_commit_needs_no_flake() {
        let journals = Journals::below(Path::new("/nonexistent"));
        assert_eq!(resolved(COMMIT, None, &journals).await.unwrap().as_str(), COMMIT);
        assert!(matches!(resolved("main", None, &journals).await, Err(UnresolvedError::NoFlake(_))));
    }

    #[tokio::test]
    async fn the_beginning_of_a_commit_id_is_completed_from_the_flake_and_from_what_was_deployed() {
        let (folder, state) = (repository(), tempfile::tempdir().unwrap());
        let ((folder, flake), journals) = (folder, Journals::below(state.path()));
        let commit = |name: &str| git(folder.path(), &["rev-parse", &format!("{name}^{{commit}}")]);
        for name in ["main", "v1"] {
            let beginning = commit(name)[..8].to_uppercase();
            assert_eq!(resolved(&beginning, Some(&flake), &journals).await.unwrap().as_str(), commit(name));
        }
        let unknown = resolved("8c1f0e2", Some(&flake), &journals).await.unwrap_err();
        assert!(matches!(unknown, UnresolvedError::Lookup(LookupError::NoSuchRef { .. })), "{unknown}");

        record(&journals, 1, COMMIT);
        record(&journals, 2, "main");
        for flake in [None, Some(&flake)] {
            assert_eq!(resolved("8c1f0e2", flake, &journals).await.unwrap().as_str(), COMMIT);
            assert!(resolved("8c1f0e", flake, &journals).await.is_err(), "it is too short");
        }
        let other = format!("8c1f0e2{}", "0".repeat(33));
        record(&journals, 3, &other);
        let two = resolved("8c1f0e2", Some(&flake), &journals).await.unwrap_err();
        assert_eq!(two.to_string(), format!("several commits begin with 8c1f0e2: {other}, {COMMIT}"));

        git(folder.path(), &["branch", "8c1f0e2", "v1"]);
        assert_eq!(resolved("8c1f0e2", Some(&flake), &journals).await.unwrap().as_str(), commit("v1"));
    }
}
