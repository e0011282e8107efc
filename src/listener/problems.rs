//! What the host lacks or found wrong: told in the log when it begins, and in each roll call while it lasts.

use std::collections::BTreeMap;

use crate::protocol::Problem;
use crate::protocol::discovery::MAX_PROBLEMS;
use crate::text::safe;

/// A kind of problem. The first ones are told first, where there are more than fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    MayNotAnswer,
    CannotHear,
    NoNixosRebuild,
    NoNix,
    NoGit,
    FlakeUnreachable,
    Clock,
    PermissionsTooWide,
}

impl Kind {
    /// The kind as the wire spells it.
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

/// The problems that there are right now.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// What each of them is about, where one kind can be there more than once, and the text of it.
    known: BTreeMap<(Kind, String), String>,
}

impl Problems {
    pub(super) fn found(&mut self, kind: Kind, message: impl Into<String>) {
        self.found_with(kind, "", message);
    }

    /// There is this problem with one of several things.
    pub(super) fn found_with(&mut self, kind: Kind, what: &str, message: impl Into<String>) {
        let message = safe(&message.into());
        let known = self.known.entry((kind, what.to_owned())).or_default();
        if *known != message {
            tracing::warn!(problem = kind.code(), "{message}");
            *known = message;
        }
    }

    /// There is no such problem any more, with whatever it was.
    pub(super) fn solved(&mut self, kind: Kind) {
        self.known.retain(|(known, _), _| *known != kind);
    }

    pub(super) fn told(&self) -> Vec<Problem> {
        let told = self.known.iter().take(MAX_PROBLEMS);
        told.map(|((kind, _), message)| Problem::new(kind.code(), message.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::discovery::MAX_PROBLEM_BYTES;

    #[test]
    fn problems_are_told_while_they_last_in_few_and_clean_words() {
        let mut problems = Problems::default();
        problems.found(Kind::Clock, "the clock is \x1b[31mwrong\x1b[0m");
        for number in 0..20 {
            problems.found_with(Kind::CannotHear, &number.to_string(), "x".repeat(1_000));
        }
        let told = problems.told();
        assert_eq!(told.len(), MAX_PROBLEMS);
        assert!(told.iter().all(|problem| problem.code == "cannot_hear" && problem.message.len() <= MAX_PROBLEM_BYTES));
        problems.solved(Kind::CannotHear);
        assert_eq!(problems.told(), [Problem::new("clock", "the clock is wrong")]);
    }
}
