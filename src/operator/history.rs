//! What a clone on this machine knows of commits. It is a courtesy: without one, or without git, nothing is known.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::protocol::{Commit, FlakeUrl};

/// How long git may take over a question whose answer is a courtesy.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The clones that may know the commits of a fleet.
#[derive(Debug)]
pub struct History {
    clones: Vec<PathBuf>,
}

impl History {
    /// The clone that the operator stands in, and the repository itself where it is on this machine.
    pub fn near(flake: Option<&FlakeUrl>) -> Self {
        let local = flake.and_then(FlakeUrl::git_remote).and_then(|remote| remote.strip_prefix("file://"));
        Self { clones: std::iter::once(PathBuf::from(".")).chain(local.map(PathBuf::from)).collect() }
    }

    /// The first line of a commit's message.
    pub async fn subject(&self, commit: &Commit) -> Option<String> {
        for clone in &self.clones {
            let shown = git(clone, &["show", "--no-patch", "--format=%s", commit.as_str()]).await;
            if let Some(output) = shown.filter(|output| output.status.success()) {
                return Some(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            }
        }
        None
    }

    /// Whether one commit is an ancestor of another, and so older; `None` where no clone knows both.
    pub async fn is_ancestor(&self, old: &Commit, new: &Commit) -> Option<bool> {
        for clone in &self.clones {
            let compared = git(clone, &["merge-base", "--is-ancestor", old.as_str(), new.as_str()]).await;
            match compared.and_then(|output| output.status.code()) {
                Some(0) => return Some(true),
                Some(1) => return Some(false),
                // This clone does not know one of them.
                Some(_) | None => {}
            }
        }
        None
    }
}

async fn git(clone: &Path, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("git");
    command.arg("-C").arg(clone).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    timeout(ANSWER_WITHIN, command.output()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::testing::{git, repository};

    #[tokio::test]
    async fn a_clone_knows_subjects_and_ages() {
        let (folder, flake) = repository();
        let commit = |name: &str| git(folder.path(), &["rev-parse", &format!("{name}^{{commit}}")]).parse().unwrap();
        let (old, new) = (commit("v1"), commit("main"));
        let history = History::near(Some(&flake));
        assert_eq!(history.subject(&new).await.as_deref(), Some("two"));
        assert_eq!(history.is_ancestor(&old, &new).await, Some(true));
        assert_eq!(history.is_ancestor(&new, &old).await, Some(false));

        let unknown = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap();
        assert_eq!(history.subject(&unknown).await, None);
        assert_eq!(history.is_ancestor(&unknown, &new).await, None);
    }
}
