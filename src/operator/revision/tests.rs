//! Real git, on a repository of the test's own.

use super::testing::{git, repository};
use super::*;

async fn lookup(asked: &str, flake: Option<&FlakeUrl>) -> Result<Commit, LookupError> {
    resolve_revision(&asked.parse().unwrap(), flake).await
}

#[tokio::test]
async fn branches_and_tags_become_commits() {
    let (folder, flake) = repository();
    let head = git(folder.path(), &["rev-parse", "main"]);
    assert_eq!(lookup("main", Some(&flake)).await.unwrap().as_str(), head);
    // An annotated tag is an object of its own; what is deployed is the commit that it names.
    let tagged = git(folder.path(), &["rev-parse", "v1^{commit}"]);
    assert_eq!(lookup("v1", Some(&flake)).await.unwrap().as_str(), tagged);
}

#[tokio::test]
async fn a_branch_comes_before_a_tag_of_its_name() {
    let (folder, flake) = repository();
    git(folder.path(), &["branch", "v1"]);
    let branch = git(folder.path(), &["rev-parse", "refs/heads/v1"]);
    assert_eq!(lookup("v1", Some(&flake)).await.unwrap().as_str(), branch);
}

#[tokio::test]
async fn a_commit_needs_no_lookup() {
    let commit = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
    assert_eq!(lookup(commit, None).await.unwrap().as_str(), commit);
}

#[tokio::test]
async fn what_went_wrong_is_told_apart() {
    let (folder, flake) = repository();
    assert!(matches!(lookup("nothere", Some(&flake)).await, Err(LookupError::NoSuchRef { help: None, .. })));
    assert!(matches!(lookup("abcdef1", Some(&flake)).await, Err(LookupError::NoSuchRef { help: Some(_), .. })));
    assert!(matches!(lookup("main", None).await, Err(LookupError::NoFlake(_))));

    drop(folder);
    let error = lookup("main", Some(&flake)).await.unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("cannot look up \"main\": `git ls-remote"), "{said}");
    assert!(said.ends_with("does not appear to be a git repository"), "{said}");
}
