//! Reads commits from git repositories on this machine, and from git servers with a local cache.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::lookup::Remote;
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::process_group::output_within;
use crate::protocol::{Commit, FlakeUrl, Revision};
use crate::text::safe;

/// How long git may take to answer. No answer is essential.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The path of a repository on this machine, which need not exist.
#[derive(Debug)]
pub(super) struct Repository {
    /// The option of git that takes the folder.
    option: &'static str,
    folder: PathBuf,
}

impl Repository {
    /// Returns the repository that contains this folder, if any. Finds out without starting git.
    pub(super) fn around(folder: &Path) -> Option<Self> {
        let is_one = |folder: &Path| {
            let has = |name: &str| folder.join(name).exists();
            has(".git") || (has("HEAD") && has("objects"))
        };
        let folder = folder.canonicalize().ok()?;
        let is_told = std::env::var_os("GIT_DIR").is_some();
        (is_told || folder.ancestors().any(is_one)).then_some(Self { option: "-C", folder })
    }

    /// The bare repository in this folder.
    pub(super) fn bare(folder: PathBuf) -> Self {
        Self { option: "--git-dir", folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) async fn subject(&self, commit: &Commit) -> Option<String> {
        // `git show` would read the files of the commit, which a partial clone may not have.
        let shown = self.ask(&["log", "--max-count=1", "--format=%s", commit.as_str()]).await?;
        shown.status.success().then(|| safe(String::from_utf8_lossy(&shown.stdout).trim()))
    }

    /// Returns the commits whose ids begin with these hexadecimal digits.
    pub(super) async fn commits_beginning_with(&self, beginning: &Revision) -> Vec<Commit> {
        let mut commits = Vec::new();
        let Some(listed) = self.ask(&["rev-parse", &format!("--disambiguate={beginning}")]).await else {
            return commits;
        };
        let objects = String::from_utf8_lossy(&listed.stdout).into_owned();
        for object in objects.lines().filter_map(|id| id.parse::<Commit>().ok()) {
            let kind = self.ask(&["cat-file", "-t", object.as_str()]).await;
            if kind.is_some_and(|kind| kind.stdout.trim_ascii() == b"commit") {
                commits.push(object);
            }
        }
        commits
    }

    /// Returns the names of the branches, local and remote.
    pub(super) async fn branches(&self) -> Vec<String> {
        let format = "--format=%(refname:lstrip=2)";
        let here = self.ask(&["for-each-ref", format, "refs/heads"]).await;
        let there = self.ask(&["for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes"]).await;
        let listed = here
            .into_iter()
            .chain(there)
            .flat_map(|listed| String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect::<Vec<_>>());
        listed.filter(|branch| branch != "HEAD").collect()
    }

    pub(super) async fn head(&self) -> Option<Commit> {
        let head = self.ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?;
        String::from_utf8_lossy(&head.stdout).trim().parse().ok()
    }

    pub(super) async fn is_ancestor(&self, old: &Commit, new: &Commit) -> Option<bool> {
        let compared = self.ask(&["merge-base", "--is-ancestor", old.as_str(), new.as_str()]).await?;
        match compared.status.code() {
            Some(0) => Some(true),
            Some(1) if self.is_whole().await => Some(false),
            // The repository lacks one of them, or the commits between them.
            Some(_) | None => None,
        }
    }

    /// Returns the first lines of the messages of the commits in `new` but not in `old`, newest first.
    pub(super) async fn subjects_between(&self, old: &Commit, new: &Commit) -> Option<Vec<String>> {
        if old != new && self.is_ancestor(old, new).await.is_none() {
            return None;
        }
        let listed = self.ask(&["log", "--format=%s", &format!("{old}..{new}")]).await?;
        let subjects = String::from_utf8_lossy(&listed.stdout).lines().map(safe).collect();
        listed.status.success().then_some(subjects)
    }

    /// Whether the repository is not a shallow clone, and so has all ancestors of its commits.
    async fn is_whole(&self) -> bool {
        let answer = self.ask(&["rev-parse", "--is-shallow-repository"]).await;
        answer.is_some_and(|answer| answer.stdout.trim_ascii() == b"false")
    }

    pub(super) fn git(&self) -> Command {
        let mut command = Command::new("git");
        command.arg(self.option).arg(&self.folder).env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
        command
    }

    /// Runs git on the objects that are already here, without fetching more.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Option<Output> {
        output_within(self.git().args(arguments).env("GIT_NO_LAZY_FETCH", "1"), ANSWER_WITHIN).await.ok()
    }
}

/// The answers of a git server are optional, so git must not prompt for a password.
const NO_QUESTIONS: [(&str, &str); 3] =
    [("GIT_TERMINAL_PROMPT", "0"), ("SSH_ASKPASS", "false"), ("SSH_ASKPASS_REQUIRE", "force")];

/// How long all requests to a server may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// A git server. Its commits are cached in a bare repository, without their files.
#[derive(Debug)]
pub(super) struct RepositoryServer {
    remote: Remote,
    kept: Repository,
    patience: Duration,
    /// What its HEAD was at when it was asked.
    head: Option<Commit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only the commit.
    Alone,
    /// The commit with all its ancestors.
    WithAncestors,
}

impl RepositoryServer {
    /// Uses the server at this URL. Its folder in `cache` is named by a hash of the flake's URL.
    pub(super) fn new(url: &str, cache: &Path, flake: &FlakeUrl) -> Result<Self, PrivateDirError> {
        let digest = Sha256::digest(flake.as_str());
        let name = digest.iter().take(16).fold(String::new(), |mut name, byte| {
            write!(name, "{byte:02x}").ok();
            name
        });
        // The folder is private, as git runs programs that a repository's configuration names.
        let folder = PrivateDir::create(cache)?.create_folder("commits")?.create_folder(&name)?;
        let kept = Repository::bare(folder.path().to_owned());
        Ok(Self { remote: Remote::at(url), kept, patience: PATIENCE, head: None })
    }

    /// Returns the repository of the commits that were fetched earlier.
    pub(super) fn kept(&self) -> &Repository {
        &self.kept
    }

    /// Returns the commit of the default branch; `None` if the request fails or takes too long.
    pub(super) async fn head(&mut self) -> Option<Commit> {
        if self.head.is_none() && !self.patience.is_zero() {
            let began = Instant::now();
            let mut git = Command::new("git");
            git.args(["ls-remote", "--", self.remote.url(), "HEAD"]).envs(NO_QUESTIONS);
            self.remote.configure_git(git.as_std_mut());
            let told = output_within(&mut git, self.patience).await;
            self.patience = self.patience.saturating_sub(began.elapsed());
            self.head = String::from_utf8_lossy(&told.ok()?.stdout).split_whitespace().next()?.parse().ok();
        }
        self.head.clone()
    }

    /// Fetches a commit and returns the repository with it; `None` if the fetch fails or takes too long.
    pub(super) async fn fetch(&mut self, commit: &Commit, depth: Depth) -> Option<&Repository> {
        if self.patience.is_zero() {
            return None;
        }
        let began = Instant::now();
        let fetched = timeout(self.patience, self.try_fetch(commit, depth)).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        if fetched.ok()??.success() {
            return Some(&self.kept);
        }
        // The cached repository may be damaged. The next fetch creates a new one.
        fs::remove_dir_all(self.kept.folder()).await.ok();
        None
    }

    async fn try_fetch(&self, commit: &Commit, depth: Depth) -> Option<ExitStatus> {
        // A failed fetch removes the folder.
        PrivateDir::create(self.kept.folder()).ok()?;
        self.kept.ask(&["init", "--quiet", "--bare", "--template="]).await?;
        let mut git = self.kept.git();
        git.args(["-c", &format!("remote.origin.url={}", self.remote.url())]);
        self.remote.configure_git(git.as_std_mut());
        // Nothing runs in the background: no housekeeping, and no fetch that outlives this process.
        git.args(["-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false"]);
        git.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]);
        git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=tree:0"]);
        // This depth means all ancestors, even in a repository that was shallow.
        git.arg(if depth == Depth::Alone { "--depth=1" } else { "--depth=2147483647" });
        // git does not fetch a commit again that has a ref.
        git.arg("origin").arg(format!("{commit}:refs/commits/{commit}"));
        git.envs(NO_QUESTIONS);
        output_within(&mut git, PATIENCE).await.ok().map(|output| output.status)
    }
}
