//! The server of a repository, and what it told before.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::time::{Instant, timeout};

use super::repository::Repository;
use crate::lookup::Remote;
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::process_group::output_within;
use crate::protocol::{Commit, FlakeUrl};

/// How long may be waited for a server in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server of a repository. What it told is kept in a bare repository of commits without files.
#[derive(Debug)]
pub(super) struct Server {
    remote: Remote,
    kept: Repository,
    patience: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The commit alone.
    Alone,
    /// The commit with all that came before it.
    WithAncestors,
}

impl Server {
    /// The server at this URL, for which there is a folder below `cache`. Its name follows from the URL of the flake.
    pub(super) fn new(url: &str, cache: &Path, flake: &FlakeUrl) -> Result<Self, PrivateDirError> {
        let digest = Sha256::digest(flake.as_str());
        let name = digest.iter().take(16).fold(String::new(), |mut name, byte| {
            write!(name, "{byte:02x}").ok();
            name
        });
        // git believes what the configuration of a repository says, which can name programs.
        let folder = PrivateDir::create(cache)?.create_folder("commits")?.create_folder(&name)?;
        let kept = Repository::bare(folder.path().to_owned());
        Ok(Self { remote: Remote::at(url), kept, patience: PATIENCE })
    }

    /// What it told before.
    pub(super) fn kept(&self) -> &Repository {
        &self.kept
    }

    /// Asks for a commit, and returns where it is then; `None` where the server does not tell or not in time.
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
        // It may be the folder that is broken, and will be made again the next time.
        fs::remove_dir_all(self.kept.folder()).await.ok();
        None
    }

    async fn try_fetch(&self, commit: &Commit, depth: Depth) -> Option<ExitStatus> {
        // It may have been removed, as below.
        PrivateDir::create(self.kept.folder()).ok()?;
        self.kept.ask(&["init", "--quiet", "--bare", "--template="]).await?;
        let mut git = self.kept.git();
        git.args(["-c", &format!("remote.origin.url={}", self.remote.url())]);
        self.remote.introduce(git.as_std_mut());
        // Nothing goes on in the background: not its housekeeping, and no fetch outlives its operator.
        git.args(["-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false"]);
        git.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]);
        git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=tree:0"]);
        // git's word for all of them, even if it had fewer before.
        git.arg(if depth == Depth::Alone { "--depth=1" } else { "--depth=2147483647" });
        // What has a name is not asked for again.
        git.arg("origin").arg(format!("{commit}:refs/commits/{commit}"));
        // A courtesy is not worth a question.
        git.envs([("GIT_TERMINAL_PROMPT", "0"), ("SSH_ASKPASS", "false"), ("SSH_ASKPASS_REQUIRE", "force")]);
        output_within(&mut git, PATIENCE).await.ok().map(|output| output.status)
    }
}
