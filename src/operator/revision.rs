//! Finding the one commit that a branch or tag stands for, on the operator's machine.

use std::io;
use std::process::Output;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

use crate::protocol::{Commit, FlakeUrl, Revision};

/// How long git or Nix may take to answer.
const LOOKUP_WITHIN: Duration = Duration::from_mins(1);

/// What git says last when a repository cannot be reached. Why, it has said before.
const UNREACHABLE: &str = "fatal: Could not read from remote repository";

/// Why a revision could not be looked up.
#[derive(Debug, Error, Diagnostic)]
pub enum LookupError {
    /// It is not known where to look.
    #[error("it is not known in which repository to look up \"{0}\"")]
    #[diagnostic(help(
        "set `flake` in the plan, give the full commit id of 40 digits, or let the first host look: --resolve-on-host"
    ))]
    NoFlake(Revision),
    /// The repository has neither a branch nor a tag of that name.
    #[error("{remote} has no branch or tag \"{revision}\"")]
    NoSuchRef {
        /// Where it was looked up.
        remote: String,
        /// What was looked up.
        revision: Revision,
        /// What to do.
        #[help]
        help: Option<String>,
    },
    /// The repository could not be asked.
    #[error("cannot look up \"{revision}\": `{command}` failed: {reason}")]
    #[diagnostic(help(
        "check that the repository can be reached from this machine, or give the full commit id of 40 digits"
    ))]
    Failed {
        /// What was looked up.
        revision: Revision,
        /// What was run.
        command: String,
        /// What it said.
        reason: String,
    },
}

/// Resolves a revision to the one commit that every request will carry.
pub async fn resolve_revision(asked: &Revision, flake: Option<&FlakeUrl>) -> Result<Commit, LookupError> {
    if let Some(commit) = asked.commit() {
        return Ok(commit);
    }
    let flake = flake.ok_or_else(|| LookupError::NoFlake(asked.clone()))?;
    match flake.git_remote() {
        Some(remote) => ask_git(remote, asked).await,
        None => ask_nix(flake, asked).await,
    }
}

async fn ask_git(remote: &str, asked: &Revision) -> Result<Commit, LookupError> {
    let (branch, tag) = (format!("refs/heads/{asked}"), format!("refs/tags/{asked}"));
    let peeled = format!("{tag}^{{}}");
    let arguments = ["ls-remote", "--exit-code", "--", remote, &branch, &tag, &peeled];
    let (output, command) = run("git", &arguments, asked).await?;
    // git answers 2 when it could ask and there is no such ref, and 128 when it could not ask.
    if output.status.code() == Some(2) {
        let help = asked
            .looks_like_short_commit()
            .then(|| "servers cannot look up the beginning of a commit id: give all 40 digits".to_owned());
        return Err(LookupError::NoSuchRef { remote: remote.to_owned(), revision: asked.clone(), help });
    }
    if !output.status.success() {
        return Err(failed(asked, command, &output.stderr));
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    // A branch comes before a tag of the same name, and the commit that a tag names before the tag object itself.
    let found = [&branch, &peeled, &tag].into_iter().find_map(|wanted| commit_of(&listing, wanted));
    found.ok_or_else(|| failed(asked, command, b"its answer has no commit in it"))
}

/// The commit of one ref in the output of `git ls-remote`.
fn commit_of(listing: &str, wanted: &str) -> Option<Commit> {
    let mut lines = listing.lines().filter_map(|line| line.split_once('\t'));
    lines.find(|(_, name)| *name == wanted).and_then(|(commit, _)| commit.parse().ok())
}

async fn ask_nix(flake: &FlakeUrl, asked: &Revision) -> Result<Commit, LookupError> {
    let url = flake.at(asked);
    let features = ["--extra-experimental-features", "nix-command flakes"];
    let arguments = [&features[..], &["flake", "metadata", "--refresh", "--json", "--", &url]].concat();
    let (output, command) = run("nix", &arguments, asked).await?;
    if !output.status.success() {
        return Err(failed(asked, command, &output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let commit = metadata.get("revision").and_then(|revision| revision.as_str()).and_then(|text| text.parse().ok());
    commit.ok_or_else(|| failed(asked, command, b"its answer names no revision"))
}

/// Runs a program that may ask nothing and may not take for ever.
async fn run(program: &str, arguments: &[&str], asked: &Revision) -> Result<(Output, String), LookupError> {
    let shown = format!("{program} {}", arguments.join(" "));
    let problem = |reason: &str| failed(asked, shown.clone(), reason.as_bytes());
    let mut command = Command::new(program);
    command.args(arguments).env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    match timeout(LOOKUP_WITHIN, command.output()).await {
        Ok(Ok(output)) => Ok((output, shown)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(problem(&format!("{program} is not installed on this machine")))
        }
        Ok(Err(error)) => Err(problem(&error.to_string())),
        Err(_) => Err(problem(&format!("no answer within {} s", LOOKUP_WITHIN.as_secs()))),
    }
}

fn failed(asked: &Revision, command: String, said: &[u8]) -> LookupError {
    let said = String::from_utf8_lossy(said);
    let said = said.split_once(UNREACHABLE).map(|(why, _)| why).filter(|why| !why.trim().is_empty()).unwrap_or(&said);
    // The last line that begins with `fatal:` or `error:` is the reason; what follows it is advice.
    let reason = said.lines().rfind(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let reason = reason.or_else(|| said.lines().rfind(|line| !line.trim().is_empty())).unwrap_or("it said nothing");
    LookupError::Failed { revision: asked.clone(), command, reason: reason.trim().to_owned() }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
