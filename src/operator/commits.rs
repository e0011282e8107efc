//! Looks up commits: that of a revision, which all requests of a rollout carry, and the subjects and ancestors of commits. It
//! asks clones on this machine and the git server. Both are optional: without them nothing is known about commits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use jiff::Timestamp;
use miette::Diagnostic;
use thiserror::Error;
use tokio::fs;
use tokio::process::Command;
use tokio::time::Instant;

use super::journal::Journals;
use crate::lookup::{LookupError, Remote, commit_of, commits_of_all_refs, in_english};
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::process_group::output_within;
use crate::protocol::{Commit, FlakeUrl, Revision};
use crate::text::{fingerprint, safe};

/// How long git may take to answer. No answer is essential.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

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

/// The repositories that know the commits of a flake.
#[derive(Debug)]
pub struct History {
    clones: Vec<Repository>,
    /// The error keeps the server from being used.
    server: Result<Option<RepositoryServer>, PrivateDirError>,
}

impl History {
    /// Uses the clone around the current directory, and the repository itself if it is on this machine. If it is not,
    /// its server is used too, provided that there is a cache folder for the fetched commits.
    pub fn of(flake: Option<&FlakeUrl>, cache: Option<&Path>) -> Self {
        let repository = flake.and_then(FlakeUrl::repository);
        let local = repository.as_deref().and_then(|repository| repository.strip_prefix("file://"));
        let here = std::env::current_dir().ok();
        let clones = here.as_deref().into_iter().chain(local.map(Path::new)).filter_map(Repository::around).collect();
        let server = match (flake, cache, &repository) {
            (Some(flake), Some(cache), Some(repository)) if local.is_none() => {
                RepositoryServer::new(repository, cache, &flake.public()).map(Some)
            }
            _ => Ok(None),
        };
        Self { clones, server }
    }

    pub fn problem(&self) -> Option<String> {
        let problem = self.server.as_ref().err()?;
        Some(format!("the git server was not asked about commits: {problem}"))
    }

    /// Returns the branches of all clones, sorted.
    pub async fn branches(&self) -> Vec<String> {
        let mut branches = BTreeSet::new();
        for clone in &self.clones {
            branches.extend(clone.branches().await);
        }
        branches.into_iter().collect()
    }

    pub(super) async fn commits_beginning_with(&self, beginning: &Revision) -> BTreeSet<Commit> {
        let mut commits = BTreeSet::new();
        for clone in &self.clones {
            commits.extend(clone.commits_beginning_with(beginning).await);
        }
        commits
    }

    /// Returns the first line of a commit's message.
    pub async fn subject(&mut self, commit: &Commit) -> Option<String> {
        self.ask(commit, Depth::Alone, |repository| async move { repository.subject(commit).await }).await
    }

    /// Returns the subjects of the commits in `new` but not in `old`, newest first; `None` if unknown.
    pub async fn subjects_between(&mut self, old: &Commit, new: &Commit) -> Option<Vec<String>> {
        let subjects = |repository: Repository| async move { repository.subjects_between(old, new).await };
        self.ask(new, Depth::WithAncestors, subjects).await
    }

    /// Whether `old` is an ancestor of `new`; `None` if no repository has both.
    pub async fn is_ancestor(&mut self, old: &Commit, new: &Commit) -> Option<bool> {
        let is_ancestor = |repository: Repository| async move { repository.is_ancestor(old, new).await };
        self.ask(new, Depth::WithAncestors, is_ancestor).await
    }

    /// Asks each clone until one knows the answer, then the server's cache, and then that with the commit fetched.
    async fn ask<T, F: Future<Output = Option<T>>>(
        &mut self,
        commit: &Commit,
        depth: Depth,
        question: impl Fn(Repository) -> F,
    ) -> Option<T> {
        let server = self.server.as_mut().ok().and_then(Option::as_mut);
        for repository in self.clones.iter().chain(server.as_ref().map(|server| &server.cache)) {
            let answer = question(repository.clone()).await;
            if answer.is_some() {
                return answer;
            }
        }
        question(server?.fetch(commit, depth).await?).await
    }

    /// Counts how many commits each of these is behind a clone's checked-out commit, or else behind the default branch of
    /// the git server. Omits unknown commits.
    pub async fn behind<'a>(&mut self, commits: impl IntoIterator<Item = &'a Commit>) -> BTreeMap<Commit, usize> {
        let mut unknown: BTreeSet<&Commit> = commits.into_iter().collect();
        let mut behind = BTreeMap::new();
        for clone in &self.clones {
            let Some(head) = clone.head().await else { continue };
            for commit in unknown.clone() {
                if let Some(missing) = clone.subjects_between(commit, &head).await {
                    behind.insert(commit.clone(), missing.len());
                    unknown.remove(commit);
                }
            }
        }
        if unknown.is_empty() {
            return behind;
        }
        let Ok(Some(server)) = &mut self.server else { return behind };
        let Some(head) = server.head().await else { return behind };
        for commit in unknown {
            if let Some(missing) = self.subjects_between(commit, &head).await {
                behind.insert(commit.clone(), missing.len());
            }
        }
        behind
    }
}

/// The path of a repository on this machine, which need not exist.
#[derive(Debug, Clone)]
struct Repository {
    /// The option by which git takes the folder.
    option: &'static str,
    folder: PathBuf,
}

impl Repository {
    /// Returns the repository that contains this folder, if any. Finds out without starting git.
    fn around(folder: &Path) -> Option<Self> {
        let is_one = |folder: &Path| {
            let has = |name: &str| folder.join(name).exists();
            has(".git") || (has("HEAD") && has("objects"))
        };
        let folder = folder.canonicalize().ok()?;
        let is_told = std::env::var_os("GIT_DIR").is_some();
        (is_told || folder.ancestors().any(is_one)).then_some(Self { option: "-C", folder })
    }

    async fn subject(&self, commit: &Commit) -> Option<String> {
        // `git show` would read the files of the commit, which a partial clone may not have.
        let shown = self.text(&["log", "--max-count=1", "--format=%s", commit.as_str()]).await?;
        Some(safe(shown.trim()))
    }

    async fn commits_beginning_with(&self, beginning: &Revision) -> Vec<Commit> {
        let mut commits = Vec::new();
        let objects = self.text(&["rev-parse", &format!("--disambiguate={beginning}")]).await.unwrap_or_default();
        for object in objects.lines().filter_map(|id| id.parse::<Commit>().ok()) {
            if self.text(&["cat-file", "-t", object.as_str()]).await.as_deref().map(str::trim) == Some("commit") {
                commits.push(object);
            }
        }
        commits
    }

    async fn branches(&self) -> Vec<String> {
        let here = self.text(&["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads"]).await;
        let there = self.text(&["for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes"]).await;
        let listed = [here, there].map(Option::unwrap_or_default).concat();
        listed.lines().filter(|branch| *branch != "HEAD").map(str::to_owned).collect()
    }

    async fn head(&self) -> Option<Commit> {
        self.text(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?.trim().parse().ok()
    }

    async fn is_ancestor(&self, old: &Commit, new: &Commit) -> Option<bool> {
        let compared = self.ask(&["merge-base", "--is-ancestor", old.as_str(), new.as_str()]).await?;
        match compared.status.code() {
            Some(0) => Some(true),
            Some(1) if self.is_whole().await => Some(false),
            // The repository lacks one of them, or the commits between them.
            Some(_) | None => None,
        }
    }

    async fn subjects_between(&self, old: &Commit, new: &Commit) -> Option<Vec<String>> {
        if old != new && self.is_ancestor(old, new).await.is_none() {
            return None;
        }
        let subjects = self.text(&["log", "--format=%s", &format!("{old}..{new}")]).await?;
        Some(subjects.lines().map(safe).collect())
    }

    /// Whether the repository is not a shallow clone, and so has all ancestors of its commits.
    async fn is_whole(&self) -> bool {
        self.text(&["rev-parse", "--is-shallow-repository"]).await.is_some_and(|answer| answer.trim() == "false")
    }

    fn git(&self) -> Command {
        let mut command = Command::new("git");
        in_english(command.arg(self.option).arg(&self.folder).as_std_mut());
        command
    }

    /// Runs git on the objects that are already here, without fetching more.
    async fn ask(&self, arguments: &[&str]) -> Option<Output> {
        output_within(self.git().args(arguments).env("GIT_NO_LAZY_FETCH", "1"), ANSWER_WITHIN).await.ok()
    }

    /// Does the same and returns the output if git succeeds.
    async fn text(&self, arguments: &[&str]) -> Option<String> {
        let output = self.ask(arguments).await.filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The answers of a git server are optional, so git must not prompt for a password.
const NO_QUESTIONS: [(&str, &str); 3] =
    [("GIT_TERMINAL_PROMPT", "0"), ("SSH_ASKPASS", "false"), ("SSH_ASKPASS_REQUIRE", "force")];

/// How long all requests to a server may take together.
const SERVER_WITHIN: Duration = Duration::from_secs(5);

/// A git server. Its commits are cached in a bare repository, without their files.
#[derive(Debug)]
struct RepositoryServer {
    remote: Remote,
    cache: Repository,
    time_left: Duration,
    /// What its HEAD was at when it was asked.
    head: Option<Commit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Alone,
    WithAncestors,
}

impl RepositoryServer {
    /// Uses the server at this URL. Its folder in `cache` is named by a hash of the flake's URL.
    fn new(url: &str, cache: &Path, flake: &FlakeUrl) -> Result<Self, PrivateDirError> {
        let name = fingerprint(flake.as_str());
        // The folder is private, as git runs programs that a repository's configuration names.
        let folder = PrivateDir::create(cache)?.create_folder("commits")?.create_folder(&name)?;
        let cache = Repository { option: "--git-dir", folder: folder.path().to_owned() };
        Ok(Self { remote: Remote::at(url), cache, time_left: SERVER_WITHIN, head: None })
    }

    /// Returns the commit of the default branch; `None` if the request fails or takes too long.
    async fn head(&mut self) -> Option<Commit> {
        if self.head.is_none() {
            let mut git = self.remote.git();
            git.args(["ls-remote", "--", &self.remote.url, "HEAD"]).envs(NO_QUESTIONS);
            let told = within(&mut self.time_left, &mut git).await?;
            self.head = String::from_utf8_lossy(&told.stdout).split_whitespace().next()?.parse().ok();
        }
        self.head.clone()
    }

    /// Fetches a commit and returns the repository with it; `None` if the fetch fails or takes too long.
    async fn fetch(&mut self, commit: &Commit, depth: Depth) -> Option<Repository> {
        if self.time_left.is_zero() {
            return None;
        }
        // A failed fetch removes the folder.
        PrivateDir::create(&self.cache.folder).ok()?;
        self.cache.ask(&["init", "--quiet", "--bare", "--template="]).await?;
        let mut git = self.cache.git();
        git.args(["-c", &format!("remote.origin.url={}", self.remote.url)]);
        self.remote.configure_git(git.as_std_mut());
        // Nothing runs in the background: no housekeeping, and no fetch that outlives this process.
        git.args(["-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false"]);
        git.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]);
        git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=tree:0"]);
        // This depth means all ancestors, even in a repository that was shallow.
        git.arg(if depth == Depth::Alone { "--depth=1" } else { "--depth=2147483647" });
        // git does not fetch a commit again that has a ref.
        git.arg("origin").arg(format!("{commit}:refs/commits/{commit}")).envs(NO_QUESTIONS);
        if within(&mut self.time_left, &mut git).await?.status.success() {
            return Some(self.cache.clone());
        }
        // The cached repository may be damaged. The next fetch creates a new one.
        fs::remove_dir_all(&self.cache.folder).await.ok();
        None
    }
}

/// Runs git as long as its server may take. Returns its output, unless it cannot be run or takes too long.
async fn within(time_left: &mut Duration, git: &mut Command) -> Option<Output> {
    if time_left.is_zero() {
        return None;
    }
    let began = Instant::now();
    let output = output_within(git, *time_left).await;
    *time_left = time_left.saturating_sub(began.elapsed());
    output.ok()
}

#[cfg(test)]
mod tests;
