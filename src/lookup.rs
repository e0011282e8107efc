//! Looks up the commit of a branch or tag in a flake's repository. Operators and listeners share it, and with it the
//! meaning of failures: only "there is no such ref" is an answer.
//!
//! Every user of a machine can read command lines, also those of git's children: the user name and password of a repository
//! go through the environment, which no other user can read.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;
use std::{fmt, io};

use data_encoding::BASE64;
use miette::Diagnostic;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::process::Command;

use crate::process_group::output_within;
use crate::protocol::{Commit, FlakeUrl, Revision};
use crate::text::{nearest, safe};

const LOOKUP_WITHIN: Duration = Duration::from_mins(1);

/// The last line of git when a repository cannot be reached. The lines before it say why.
const UNREACHABLE: &str = "fatal: Could not read from remote repository";

/// The messages of Nix about a missing ref, for URLs that git cannot query: that of GitHub, those of Nix for two other
/// forges, and that of Mercurial.
const NO_SUCH_REF: [&str; 4] =
    ["No commit found for SHA", "does the git ref really exist", "couldn't find ref", "unknown revision"];

/// The prefixes that a clone gives the names of branches and tags.
const LONG_FORMS: [&str; 5] = ["refs/heads/", "refs/tags/", "refs/remotes/origin/", "remotes/origin/", "origin/"];

/// The most branches and tags that are listed for a name that is similar to none of them.
const FEW: usize = 8;

/// The message of Nix when it cannot reach the server and answers from its cache, with exit code 0.
const STALE: &str = "using cached version";

/// The schemes with a user name and password. With ssh, the name is the login, which is no secret.
const WITH_PASSWORD: [&str; 2] = ["http", "https"];

#[derive(Debug, Error, Diagnostic)]
pub enum LookupError {
    #[error("{remote} has no branch or tag \"{revision}\"")]
    NoSuchRef {
        remote: String,
        revision: Revision,
        #[help]
        help: Option<String>,
    },
    #[error("cannot look up \"{revision}\": {reason} (`{command}`)")]
    #[diagnostic(help(
        "check that the repository can be reached from this machine, or give the full commit id of 40 digits"
    ))]
    Failed { revision: Revision, command: String, reason: String },
    #[error("cannot look up \"{revision}\": no answer after {} s (`{command}`)", LOOKUP_WITHIN.as_secs())]
    #[diagnostic(help("check that the server of the repository works, or give the full commit id of 40 digits"))]
    NoAnswer { revision: Revision, command: String },
}

/// Resolves a revision to its current commit. A full commit id resolves to itself.
pub async fn commit_of(asked: &Revision, flake: &FlakeUrl) -> Result<Commit, LookupError> {
    if let Some(commit) = asked.commit() {
        return Ok(commit);
    }
    match flake.git_remote() {
        Some(remote) => ask_git(&Remote::at(remote), asked).await,
        None => ask_nix(flake, asked).await,
    }
}

async fn ask_git(remote: &Remote, asked: &Revision) -> Result<Commit, LookupError> {
    let (branch, tag) = (format!("refs/heads/{asked}"), format!("refs/tags/{asked}"));
    let peeled = format!("{tag}^{{}}");
    let mut git = remote.git();
    git.args(["ls-remote", "--exit-code", "--", &remote.url, &branch, &tag, &peeled]);
    let (output, command) = run(git, asked).await?;
    // git exits with 2 if the repository has no such ref, and with 128 if it cannot be reached.
    if output.status.code() == Some(2) {
        return Err(no_such_ref(&remote.url, asked, &ref_names(remote, asked).await));
    }
    if !output.status.success() {
        return Err(failed(asked, command, &output.stderr));
    }
    // A branch takes precedence over a tag of the same name.
    let mut commits = parse_refs(&String::from_utf8_lossy(&output.stdout));
    let found = commits.remove(&branch).or_else(|| commits.remove(&tag));
    found.ok_or_else(|| failed(asked, command, b"its answer has no commit in it"))
}

/// Returns the commits of all branches and tags, or none if only Nix can query the repository.
pub async fn commits_of_all_refs(flake: &FlakeUrl, asked: &Revision) -> Result<Vec<Commit>, LookupError> {
    let Some(repository) = flake.repository() else { return Ok(Vec::new()) };
    match ls_remote(&Remote::at(&repository), asked).await {
        Ok(refs) => Ok(refs.into_values().collect()),
        Err(_) if flake.git_remote().is_none() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn ref_names(remote: &Remote, asked: &Revision) -> Vec<String> {
    let refs = ls_remote(remote, asked).await.unwrap_or_default();
    let short = |name: &String| {
        let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
        short.map(safe)
    };
    refs.keys().filter_map(short).collect()
}

async fn ls_remote(remote: &Remote, asked: &Revision) -> Result<BTreeMap<String, Commit>, LookupError> {
    let mut git = remote.git();
    git.args(["ls-remote", "--", &remote.url, "refs/heads/*", "refs/tags/*"]);
    match run(git, asked).await? {
        (output, _) if output.status.success() => Ok(parse_refs(&String::from_utf8_lossy(&output.stdout))),
        (output, command) => Err(failed(asked, command, &output.stderr)),
    }
}

/// Parses the output of `git ls-remote`. The commit of an annotated tag, which comes after it, replaces the tag object.
fn parse_refs(listing: &str) -> BTreeMap<String, Commit> {
    let mut commits = BTreeMap::new();
    for (commit, name) in listing.lines().filter_map(|line| line.split_once('\t')) {
        commits.extend(commit.parse().ok().map(|commit| (name.strip_suffix("^{}").unwrap_or(name).to_owned(), commit)));
    }
    commits
}

async fn ask_nix(flake: &FlakeUrl, asked: &Revision) -> Result<Commit, LookupError> {
    // Every user of the machine can read the arguments of a program.
    if *flake != flake.public() {
        let command = format!("nix flake metadata {}", flake.public());
        return Err(failed(
            asked,
            command,
            b"put its user name and password where Mercurial finds them, and not in its URL",
        ));
    }
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command flakes"]);
    nix.args(["flake", "metadata", "--refresh", "--json", "--"]).arg(flake.at(asked));
    let (output, command) = run(nix, asked).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let is_answer = NO_SUCH_REF.iter().any(|words| said.contains(words));
        if !is_answer {
            return Err(failed(asked, command, &output.stderr));
        }
        let known = match flake.repository() {
            Some(repository) => ref_names(&Remote::at(&repository), asked).await,
            None => Vec::new(),
        };
        return Err(no_such_ref(flake.public().as_str(), asked, &known));
    }
    if let Some(line) = said.lines().find(|line| line.contains(STALE)) {
        return Err(failed(asked, command, line.as_bytes()));
    }
    commit_in_metadata(&output.stdout, asked).map_err(|reason| failed(asked, command, reason.as_bytes()))
}

/// Parses the commit in the output of `nix flake metadata`. Fails if that is about another ref.
fn commit_in_metadata(metadata: &[u8], asked: &Revision) -> Result<Commit, &'static str> {
    let metadata: serde_json::Value = serde_json::from_slice(metadata).map_err(|_| "its answer is no JSON")?;
    let text = |pointer: &str| metadata.pointer(pointer).and_then(serde_json::Value::as_str);
    if ["/original/ref", "/resolved/ref"].iter().filter_map(|of| text(of)).any(|of| of != asked.as_str()) {
        return Err("its answer is about another ref");
    }
    let commit = text("/revision").and_then(|text| text.parse().ok());
    commit.ok_or("its answer names no revision")
}

/// Runs a program without prompts and with a time limit.
async fn run(mut command: Command, asked: &Revision) -> Result<(Output, String), LookupError> {
    in_english(command.as_std_mut());
    command.env("GIT_TERMINAL_PROMPT", "0");
    let words = std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args());
    let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match output_within(&mut command, LOOKUP_WITHIN).await {
        Ok(output) => Ok((output, shown)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let program = command.as_std().get_program().to_string_lossy();
            Err(failed(asked, shown, format!("{program} is not on the PATH").as_bytes()))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(LookupError::NoAnswer { revision: asked.clone(), command: shown })
        }
        Err(error) => Err(failed(asked, shown, error.to_string().as_bytes())),
    }
}

/// Makes a program print English in UTF-8 whatever the machine's language, to parse its output. Removes `LANGUAGE`,
/// which takes precedence over any locale but plain `C`.
pub fn in_english(command: &mut std::process::Command) {
    command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
}

fn no_such_ref(remote: &str, asked: &Revision, known: &[String]) -> LookupError {
    let short = LONG_FORMS.iter().find_map(|form| asked.as_str().strip_prefix(form));
    let short = short.filter(|short| known.iter().any(|name| name == short));
    let help = if asked.looks_like_short_commit() {
        Some(
            "no branch, tag, clone or earlier rollout has a commit that begins like this: give all 40 digits"
                .to_owned(),
        )
    } else if let Some(short) = short {
        Some(format!("did you mean \"{short}\"? Give a branch the name that it has in the repository"))
    } else if let Some(near) = nearest(asked.as_str(), known.iter().map(String::as_str)) {
        Some(format!("did you mean \"{near}\"?"))
    } else {
        let few = (1..=FEW).contains(&known.len());
        few.then(|| format!("its branches and tags are {}", known.join(", ")))
    };
    LookupError::NoSuchRef { remote: remote.to_owned(), revision: asked.clone(), help }
}

fn failed(asked: &Revision, command: String, said: &[u8]) -> LookupError {
    let said = String::from_utf8_lossy(said);
    let said = said.split_once(UNREACHABLE).map(|(why, _)| why).filter(|why| !why.trim().is_empty()).unwrap_or(&said);
    // The last line that begins with `fatal:` or `error:` is the reason; the lines after it are advice.
    let reason = said.lines().rfind(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let reason = reason.or_else(|| said.lines().rfind(|line| !line.trim().is_empty())).unwrap_or("it said nothing");
    LookupError::Failed { revision: asked.clone(), command, reason: safe(reason.trim()) }
}

/// The URL of a repository without secrets, and the secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// For command lines and messages.
    pub(crate) url: String,
    /// Settings for git besides the user's configuration.
    settings: Vec<(String, String)>,
}

impl Remote {
    /// Splits a URL, which may contain a user name and password.
    pub(crate) fn at(url: &str) -> Self {
        let plain = || Self { url: url.to_owned(), settings: Vec::new() };
        let Some((scheme, rest)) = url.split_once("://") else { return plain() };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let Some((user, host)) = authority.rsplit_once('@') else { return plain() };
        if !WITH_PASSWORD.contains(&scheme) {
            let name = user.split(':').next().unwrap_or_default();
            let at = if scheme == "ssh" && !name.is_empty() { format!("{name}@") } else { String::new() };
            return Self { url: format!("{scheme}://{at}{host}{path}"), settings: Vec::new() };
        }
        let url = format!("{scheme}://{host}{path}");
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let setting = match user.split_once(':') {
            Some((name, password)) => {
                let credentials = BASE64.encode(&[&decoded(name)[..], b":", &decoded(password)].concat());
                (format!("http.{url}.extraHeader"), format!("Authorization: Basic {credentials}"))
            }
            // git asks its credential helpers for the password of this user.
            None => (format!("credential.{url}.username"), String::from_utf8_lossy(&decoded(user)).into_owned()),
        };
        Self { url, settings: vec![setting] }
    }

    /// Returns a git that gets the secrets by its environment.
    pub(crate) fn git(&self) -> Command {
        let mut git = Command::new("git");
        self.configure_git(git.as_std_mut());
        git
    }

    /// Adds the secrets to the environment of git, or of a program that runs it.
    pub(crate) fn configure_git(&self, git: &mut std::process::Command) {
        // Keeps settings that the user passes in the same way.
        let count = std::env::var_os("GIT_CONFIG_COUNT");
        let others: usize = count.and_then(|count| count.to_str()?.parse().ok()).unwrap_or_default();
        for (index, (key, value)) in (others..).zip(&self.settings) {
            git.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        git.env("GIT_CONFIG_COUNT", (others + self.settings.len()).to_string());
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.url)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
