//! Looks up subjects and ancestors of commits, in a clone on this machine or on the git server. Both are optional:
//! without them nothing is known about commits.

mod repository;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::repository::{Depth, Repository, RepositoryServer};
use crate::private_dir::PrivateDirError;
use crate::protocol::{Commit, FlakeUrl, Revision};

#[derive(Debug)]
pub struct History {
    clones: Vec<Repository>,
    server: Option<RepositoryServer>,
    /// The error that keeps the server from being used.
    problem: Option<PrivateDirError>,
}

impl History {
    /// Uses the clone around the current directory, and the repository itself if it is on this machine. If it is not,
    /// its server is used too, provided that there is a cache folder for the fetched commits.
    pub fn of(flake: Option<&FlakeUrl>, cache: Option<&Path>) -> Self {
        let repository = flake.and_then(FlakeUrl::repository);
        let local = repository.as_deref().and_then(|repository| repository.strip_prefix("file://"));
        let here = std::env::current_dir().ok();
        let clones = here.as_deref().into_iter().chain(local.map(Path::new)).filter_map(Repository::around).collect();
        let (server, problem) = match (flake, cache, &repository) {
            (Some(flake), Some(cache), Some(repository)) if local.is_none() => {
                let server = RepositoryServer::new(repository, cache, &flake.public());
                server.map_or_else(|problem| (None, Some(problem)), |server| (Some(server), None))
            }
            _ => (None, None),
        };
        Self { clones, server, problem }
    }

    /// Describes why the server is not used.
    pub fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("the git server was not asked about commits: {problem}"))
    }

    /// Returns the branches of all clones, sorted.
    pub async fn branches(&self) -> Vec<String> {
        let mut branches = BTreeSet::new();
        for clone in &self.clones {
            branches.extend(clone.branches().await);
        }
        branches.into_iter().collect()
    }

    /// Returns the commits of all clones whose ids begin with this.
    pub(super) async fn commits_beginning_with(&self, beginning: &Revision) -> BTreeSet<Commit> {
        let mut commits = BTreeSet::new();
        for clone in &self.clones {
            commits.extend(clone.commits_beginning_with(beginning).await);
        }
        commits
    }

    /// Returns the first line of a commit's message.
    pub async fn subject(&mut self, commit: &Commit) -> Option<String> {
        for turn in 0.. {
            if let Some(subject) = self.repository(turn, commit, Depth::Alone).await?.subject(commit).await {
                return Some(subject);
            }
        }
        None
    }

    /// Returns the subjects of the commits in `new` but not in `old`, newest first; `None` if unknown.
    pub async fn subjects_between(&mut self, old: &Commit, new: &Commit) -> Option<Vec<String>> {
        for turn in 0.. {
            if let Some(subjects) =
                self.repository(turn, new, Depth::WithAncestors).await?.subjects_between(old, new).await
            {
                return Some(subjects);
            }
        }
        None
    }

    /// Whether `old` is an ancestor of `new`; `None` if no repository has both.
    pub async fn is_ancestor(&mut self, old: &Commit, new: &Commit) -> Option<bool> {
        for turn in 0.. {
            if let Some(is_older) = self.repository(turn, new, Depth::WithAncestors).await?.is_ancestor(old, new).await
            {
                return Some(is_older);
            }
        }
        None
    }

    /// Returns the repository to try at this turn: each clone, then the server's cache, then the server itself.
    async fn repository(&mut self, turn: usize, commit: &Commit, depth: Depth) -> Option<&Repository> {
        let Some(after_clones) = turn.checked_sub(self.clones.len()) else { return self.clones.get(turn) };
        let server = self.server.as_mut()?;
        match after_clones {
            0 => Some(server.kept()),
            1 => server.fetch(commit, depth).await,
            _ => None,
        }
    }

    /// Counts how many commits each of these is behind a clone's checked-out commit. Omits unknown commits.
    pub async fn behind_here<'a>(&self, commits: impl IntoIterator<Item = &'a Commit>) -> BTreeMap<Commit, usize> {
        let commits: BTreeSet<&Commit> = commits.into_iter().collect();
        let mut behind = BTreeMap::new();
        for clone in &self.clones {
            let Some(head) = clone.head().await else { continue };
            for commit in &commits {
                if !behind.contains_key(*commit)
                    && let Some(missing) = clone.subjects_between(commit, &head).await
                {
                    behind.insert((*commit).clone(), missing.len());
                }
            }
        }
        behind
    }

    /// The same by what the server tells: how many commits each of these is behind its default branch.
    pub async fn behind_there<'a>(&mut self, commits: impl IntoIterator<Item = &'a Commit>) -> BTreeMap<Commit, usize> {
        let mut behind = BTreeMap::new();
        let Some(server) = &mut self.server else { return behind };
        let Some(head) = server.head().await else { return behind };
        for commit in commits {
            if let Some(missing) = self.subjects_between(commit, &head).await {
                behind.insert(commit.clone(), missing.len());
            }
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::testing::{git, repository};

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
        let behind = history.behind_here([&old, &new, &unknown]).await;
        assert_eq!(behind, BTreeMap::from([(old.clone(), 1), (new.clone(), 0)]));
        assert_eq!(history.subject(&unknown).await, None);
        assert_eq!(history.is_ancestor(&unknown, &new).await, None);
    }
}
