//! How the program ends.

use std::process::ExitCode;

use miette::{Diagnostic, Report};

use crate::rollout::Outcome;

/// What a finished command tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Everything that was asked for is done.
    Success,
    Failed,
    /// The command line or the plan is wrong; nothing was sent.
    Usage,
    /// What is needed to begin is not there: NATS, a permission, the revision. Nothing was deployed.
    Precondition,
    /// The operator said no, or could not be asked.
    Declined,
    /// Ended by the operator before it was over.
    Interrupted,
}

/// A command that did not come to its end, and what to tell the user.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) exit: Exit,
    pub(super) report: Report,
}

pub(super) type CommandResult = Result<Exit, CommandError>;

impl Exit {
    pub(super) fn with(self, error: impl Diagnostic + Send + Sync + 'static) -> CommandError {
        CommandError { exit: self, report: Report::new(error) }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Precondition => 3,
            Exit::Declined => 4,
            Exit::Interrupted => 130,
        })
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Success,
            Outcome::Failed => Self::Failed,
            Outcome::Interrupted => Self::Interrupted,
            Outcome::Declined | Outcome::Paused => Self::Declined,
        }
    }
}
