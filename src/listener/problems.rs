//! Problems of the host, such as a missing program: logged when they begin, and listed in discovery answers.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use super::output::clean;
use crate::lookup::{self, LookupError};
use crate::protocol::discovery::MAX_PROBLEMS;
use crate::protocol::{FlakeUrl, Problem, Revision};
use crate::text::safe;

const PROGRAMS: [(ProblemKind, &str); 3] =
    [(ProblemKind::NoNixosRebuild, "nixos-rebuild"), (ProblemKind::NoNix, "nix"), (ProblemKind::NoGit, "git")];

/// The interval at which an unreachable flake is tried again.
pub(super) const ASK_AGAIN: Duration = Duration::from_mins(10);

/// The plausible range of a request's expiry. Requests live for minutes; other values come from another clock.
const CLOCKS_DIFFER: [SignedDuration; 2] = [SignedDuration::from_mins(2), SignedDuration::from_hours(24)];

/// The kinds of problems, in the order in which an answer lists them if they do not all fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProblemKind {
    MayNotAnswer,
    CannotHear,
    NoNixosRebuild,
    NoNix,
    NoGit,
    FlakeUnreachable,
    Clock,
    PermissionsTooWide,
}

impl ProblemKind {
    const fn code(self) -> &'static str {
        match self {
            Self::MayNotAnswer => "may_not_answer",
            Self::CannotHear => "cannot_hear",
            Self::NoNixosRebuild => "no_nixos_rebuild",
            Self::NoNix => "no_nix",
            Self::NoGit => "no_git",
            Self::FlakeUnreachable => "flake_unreachable",
            Self::Clock => "clock",
            Self::PermissionsTooWide => "permissions_too_wide",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems {
    /// The messages, by kind and, where a kind can occur more than once, subject.
    known: BTreeMap<(ProblemKind, String), String>,
}

impl Problems {
    /// Adds a problem, or changes its message. `what` tells several of one kind apart.
    pub(super) fn found(&mut self, kind: ProblemKind, what: &str, message: &str) {
        let message = safe(message);
        let known = self.known.entry((kind, what.to_owned())).or_default();
        if *known != message {
            tracing::warn!(problem = kind.code(), "{message}");
            *known = message;
        }
    }

    /// Removes all problems of this kind.
    pub(super) fn solved(&mut self, kind: ProblemKind) {
        self.known.retain(|(known, _), _| *known != kind);
    }

    pub(super) fn told(&self) -> Vec<Problem> {
        let told = self.known.iter().take(MAX_PROBLEMS);
        told.map(|((kind, _), message)| Problem::new(kind.code(), message.as_str())).collect()
    }
}

/// Returns what this machine lacks for deployments of this flake.
pub async fn missing(flake: &FlakeUrl) -> Vec<String> {
    let mut problems = Problems::default();
    look_for_programs(flake, &mut problems);
    let told = problems.told().into_iter().map(|problem| problem.message);
    told.chain(ask(flake.clone(), Duration::ZERO).await).collect()
}

pub(super) fn look_for_programs(flake: &FlakeUrl, problems: &mut Problems) {
    let path = env::var_os("PATH").unwrap_or_default();
    for (kind, program) in PROGRAMS {
        let is_needed = kind != ProblemKind::NoGit || flake.git_remote().is_some();
        let mut places = env::split_paths(&path).map(|folder| folder.join(program));
        if is_needed && !places.any(|file| file.metadata().is_ok_and(|file| file.permissions().mode() & 0o111 != 0)) {
            let message = format!("{program} is not on the PATH of the listener: add it to the path of its unit");
            problems.found(kind, "", &message);
        }
    }
}

/// Tries to reach the flake's repository; returns why that fails. Only git is asked: Nix would fetch the whole flake.
pub async fn ask(flake: FlakeUrl, after: Duration) -> Option<String> {
    sleep(after).await;
    flake.git_remote()?;
    // Any name will do: `no such branch` is an answer, too.
    let revision: Revision = "main".parse().ok()?;
    let why = match lookup::commit_of(&revision, &flake).await {
        Ok(_) | Err(LookupError::NoSuchRef { .. }) => return None,
        Err(LookupError::Failed { reason, .. }) => reason,
        Err(LookupError::NoAnswer { .. }) => "no answer".to_owned(),
        Err(error @ LookupError::Secret { .. }) => error.to_string(),
    };
    Some(clean(&format!("the flake cannot be asked: {why} (git, {})", flake.public())))
}

/// Compares the host's clock with the operator's, by the expiry of a request.
pub(super) fn compare_clocks(expires_at: Timestamp, now: Timestamp, problems: &mut Problems) {
    let [past, future] = CLOCKS_DIFFER;
    let ahead = expires_at.duration_since(now);
    if ahead < -past || ahead > future {
        let by = SignedDuration::from_secs(ahead.as_secs().abs());
        let way = if ahead.is_negative() { "ahead of" } else { "behind" };
        let message = format!(
            "the clock here, which shows {now:.0}, is some {by:#} {way} that of a deployer: one of the two is wrong"
        );
        problems.found(ProblemKind::Clock, "", &message);
    } else {
        problems.solved(ProblemKind::Clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::discovery::MAX_PROBLEM_BYTES;

    #[test]
    fn problems_are_told_while_they_last_in_few_and_clean_words() {
        let mut problems = Problems::default();
        problems.found(ProblemKind::Clock, "", "the clock is \x1b[31mwrong\x1b[0m");
        for number in 0..20 {
            problems.found(ProblemKind::CannotHear, &number.to_string(), &"x".repeat(1_000));
        }
        let told = problems.told();
        assert_eq!(told.len(), MAX_PROBLEMS);
        assert!(told.iter().all(|problem| problem.code == "cannot_hear" && problem.message.len() <= MAX_PROBLEM_BYTES));
        problems.solved(ProblemKind::CannotHear);
        assert_eq!(problems.told(), [Problem::new("clock", "the clock is wrong")]);
    }

    #[test]
    fn a_clock_that_is_far_off_is_told_until_a_request_shows_that_it_is_right() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut problems = Problems::default();
        let mut told = |seconds: i64| {
            compare_clocks(now + SignedDuration::from_secs(seconds), now, &mut problems);
            problems.told().first().map(|problem| problem.message.clone())
        };
        assert_eq!((told(30), told(-30), told(3_600)), (None, None, None));
        insta::assert_snapshot!(told(-3_600).unwrap(), @"the clock here, which shows 2026-11-23T10:00:00Z, is some 1h ahead of that of a deployer: one of the two is wrong");
        assert!(told(-1_000_000).is_some() && told(1_000_000).is_some());
        assert_eq!(told(30), None);
    }

    #[tokio::test]
    async fn a_flake_that_cannot_be_asked_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let missing = format!("git+file://{}/missing", folder.path().display());
        let why = ask(missing.parse().unwrap(), Duration::ZERO).await.unwrap();
        assert!(why.starts_with("the flake cannot be asked: fatal: "), "{why}");
        let secret = ask("git+https://user:hunter2@localhost:1/x".parse().unwrap(), Duration::ZERO).await.unwrap();
        assert!(secret.contains("localhost") && !secret.contains("hunter2"), "{secret}");
        assert_eq!(ask("github:owner/name".parse().unwrap(), Duration::ZERO).await, None);
    }

    #[test]
    fn git_is_needed_for_flakes_that_git_fetches() {
        let mut problems = Problems::default();
        look_for_programs(&"github:owner/name".parse().unwrap(), &mut problems);
        assert!(problems.told().iter().all(|problem| problem.code != "no_git"));
    }
}
