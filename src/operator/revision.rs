//! The one commit that every request of a rollout will carry.

use miette::Diagnostic;
use thiserror::Error;

use crate::lookup::{LookupError, commit_of};
use crate::protocol::{Commit, FlakeUrl, Revision};

/// Why it is not known which commit to deploy.
#[derive(Debug, Error, Diagnostic)]
pub enum UnresolvedError {
    /// It is not known where to look.
    #[error("it is not known in which repository to look up \"{0}\"")]
    #[diagnostic(help("set `flake` in the plan, or give the full commit id of 40 digits"))]
    NoFlake(Revision),
    /// Looking did not help.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lookup(#[from] LookupError),
}

/// Resolves a revision by the flake that hosts deploy from; a commit needs none.
pub async fn resolve_revision(asked: &Revision, flake: Option<&FlakeUrl>) -> Result<Commit, UnresolvedError> {
    match (asked.commit(), flake) {
        (Some(commit), _) => Ok(commit),
        (None, Some(flake)) => Ok(commit_of(asked, flake).await?),
        (None, None) => Err(UnresolvedError::NoFlake(asked.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_commit_needs_no_flake() {
        let commit = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
        assert_eq!(resolve_revision(&commit.parse().unwrap(), None).await.unwrap().as_str(), commit);
        let unresolved = resolve_revision(&"main".parse().unwrap(), None).await;
        assert!(matches!(unresolved, Err(UnresolvedError::NoFlake(_))));
    }
}
