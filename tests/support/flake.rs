//! A repository with branches and commits.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use super::fleet;

/// A git repository on disk, for revisions to be looked up in.
#[derive(Debug)]
pub struct Flake {
    folder: PathBuf,
}

impl Flake {
    /// Makes a repository in `folder`, with one commit on the branches `main` and `master`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        let flake = Self { folder: folder.to_owned() };
        flake.git(&["init", "--quiet", "--initial-branch", "main"])?;
        flake.commit("flake: bump nixpkgs")?;
        // What `deploy` deploys when it is told nothing else.
        flake.branch("master")?;
        Ok(flake)
    }

    /// The URL that a listener and a plan take.
    pub fn url(&self) -> String {
        format!("git+file://{}", self.folder.display())
    }

    /// Adds a commit to the branch, with all that is in the folder, and returns its id.
    pub fn commit(&self, subject: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        let who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"];
        self.git(&[&who[..], &["commit", "--quiet", "--allow-empty", "--message", subject]].concat())?;
        self.head()
    }

    /// The id of the last commit on the branch.
    pub fn head(&self) -> Result<String> {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Makes a branch where the current one is, and returns the id of its commit.
    pub fn branch(&self, name: &str) -> Result<String> {
        self.git(&["branch", name])?;
        self.resolve(name)
    }

    /// The commit that a branch is at.
    pub fn resolve(&self, branch: &str) -> Result<String> {
        self.git(&["rev-parse", branch])
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut git = fleet::command(Path::new("git"), &self.folder, &[])?;
        let output = git.args(arguments).output().into_diagnostic().wrap_err("cannot run git")?;
        if !output.status.success() {
            bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
