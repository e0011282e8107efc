//! Tests lookups with the real git, in temporary repositories.

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

#[test]
fn a_repository_is_found_from_within_and_where_there_is_none_git_is_not_asked() {
    let (folder, _) = repository();
    let within = folder.path().join("within");
    std::fs::create_dir(&within).unwrap();
    assert!(Repository::around(&within).is_some());

    let elsewhere = tempfile::tempdir().unwrap();
    assert!(Repository::around(elsewhere.path()).is_none());
    git(folder.path(), &["clone", "--quiet", "--bare", ".", elsewhere.path().to_str().unwrap()]);
    assert!(Repository::around(&elsewhere.path().join("refs")).is_some());
}

#[tokio::test]
async fn a_clone_knows_subjects_and_ages() {
    let (folder, flake) = repository();
    let commit = |name: &str| git(folder.path(), &["rev-parse", &format!("{name}^{{commit}}")]).parse().unwrap();
    let (old, new) = (commit("v1"), commit("main"));
    let mut history = History::of(Some(&flake), None);
    assert_eq!(history.subject(&new).await.as_deref(), Some("two"));
    assert_eq!(history.is_ancestor(&old, &new).await, Some(true));
    assert_eq!(history.is_ancestor(&new, &old).await, Some(false));

    let unknown = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap();
    let behind = history.behind([&old, &new, &unknown]).await;
    assert_eq!(behind, BTreeMap::from([(old.clone(), 1), (new.clone(), 0)]));
    assert_eq!(history.subject(&unknown).await, None);
    assert_eq!(history.is_ancestor(&unknown, &new).await, None);
}
