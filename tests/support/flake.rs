//! Creates git repositories with branches and commits.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use super::fleet;

/// A git repository on disk in which revisions are looked up.
#[derive(Debug)]
pub struct Flake {
    folder: PathBuf,
}

impl Flake {
    /// Creates a repository in `folder`, with one commit on the branches `main` and `master`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        let flake = Self { folder: folder.to_owned() };
        flake.git(&["init", "--quiet", "--initial-branch", "main"])?;
        flake.commit("flake: bump nixpkgs")?;
        // `deploy` deploys this branch by default.
        flake.branch("master")?;
        Ok(flake)
    }

    /// Returns the URL for a listener or a plan.
    pub fn url(&self) -> String {
        format!("git+file://{}", self.folder.display())
    }

    /// Commits all files in the folder to the current branch and returns the commit.
    pub fn commit(&self, subject: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        let who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"];
        self.git(&[&who[..], &["commit", "--quiet", "--allow-empty", "--message", subject]].concat())?;
        self.head()
    }

    /// Returns the last commit on the current branch.
    pub fn head(&self) -> Result<String> {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Creates a branch at the current commit and returns that.
    pub fn branch(&self, name: &str) -> Result<String> {
        self.git(&["branch", name])?;
        self.resolve(name)
    }

    /// Returns the commit of a branch.
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
