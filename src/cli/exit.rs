//! Exit codes of commands, and the format of their errors.

use std::fmt::Debug;
use std::io;
use std::process::ExitCode;

use miette::{Diagnostic, MietteDiagnostic, MietteHandlerOpts, Report};
use textwrap::{WordSeparator, WordSplitter};
use thiserror::Error;

use crate::rollout::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Success,
    Failed,
    /// The command line or the plan is wrong; nothing was sent.
    Usage,
    /// Something needed to start is missing: NATS, a permission, the revision. Nothing was deployed.
    Precondition,
    /// The operator answered no, or could not be asked.
    Declined,
    Interrupted,
}

/// An error that ends a command, and its exit code.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) exit: Exit,
    pub(super) report: Report,
}

pub(super) type CommandResult = Result<Exit, CommandError>;

/// An error ends a command before anything is deployed, unless the command chooses another exit code.
impl<E: Diagnostic + Send + Sync + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        Exit::Precondition.with(error)
    }
}

/// Marks the error of a result as a mistake on the command line, or in a file that it names.
pub(super) trait OrUsage<T> {
    fn or_usage(self) -> Result<T, CommandError>;
}

impl<T, E: Diagnostic + Send + Sync + 'static> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> Result<T, CommandError> {
        self.map_err(|error| Exit::Usage.with(error))
    }
}

impl Exit {
    pub(super) fn with(self, error: impl Diagnostic + Send + Sync + 'static) -> CommandError {
        CommandError { exit: self, report: Report::new(error) }
    }

    /// Returns an error of a command itself: what is wrong, and what to do.
    pub(super) fn error(self, what: impl Into<String>, help: impl Into<String>) -> CommandError {
        self.with(MietteDiagnostic::new(what).with_help(help))
    }
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot set up the process: {0}")]
#[diagnostic(help("it may be out of memory or of file descriptors"))]
pub(super) struct SetupError(pub(super) io::Error);

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

pub(super) fn choose_reports() {
    // Only tests set the hook again, and the first one stays.
    miette::set_hook(Box::new(|_| Box::new(opts().build()))).ok();
}

/// Options without the chain of causes: each error says its cause in its own message, which is all that a log has, and
/// the chain would repeat it. Lines are broken at spaces only: an id, a flag or a path in two pieces cannot be copied.
fn opts() -> MietteHandlerOpts {
    MietteHandlerOpts::new()
        .without_cause_chain()
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
}

/// Formats an error for people. miette puts `Error:` above each mistake of a plan, in a line that says nothing else.
pub(super) fn one_by_one(report: &impl Debug) -> String {
    format!("{report:?}").replace("\nError: \n", "\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use miette::{GraphicalTheme, MietteHandler, ReportHandler};

    use super::*;
    use crate::plan::Plan;

    struct Shown<'a>(MietteHandler, &'a dyn Diagnostic);

    impl Debug for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.debug(self.1, f)
        }
    }

    /// Returns the text of an error on a terminal of this width.
    fn shown(width: usize, error: &dyn Diagnostic) -> String {
        let handler = opts().width(width).graphical_theme(GraphicalTheme::unicode_nocolor()).build();
        one_by_one(&Shown(handler, error))
    }

    #[test]
    fn each_mistake_of_a_plan_stands_by_itself() {
        let text = "[[wave]]\ntargets = 'prod.all'\nmax_parralel = 2\n[[wave]]\ntargets = 'prod.x'\ntimeout = 30\n";
        let mistakes = Plan::parse(text, "sunday", &|_: &str| None).unwrap_err().named("sunday.toml", text);
        insta::assert_snapshot!(shown(80, &mistakes), @r#"
         × the plan has 2 mistakes

         × unknown key `max_parralel`
          ╭─[sunday.toml:3:1]
        2 │ targets = 'prod.all'
        3 │ max_parralel = 2
          · ──────┬─────
          ·       ╰── in this wave
        4 │ [[wave]]
          ╰────
         help: did you mean `max_parallel`?

         × `timeout` is not a duration above zero and of at most 30 days
          ╭─[sunday.toml:6:11]
        5 │ targets = 'prod.x'
        6 │ timeout = 30
          ·           ─┬
          ·            ╰── this value
          ╰────
         help: write it like timeout = "30s"
        "#);
    }

    #[test]
    fn what_may_be_copied_is_in_one_piece() {
        let id = "1e737f6d-aa7f-4650-a479-de541b638240";
        let path = "/a/path/of-more/than/sixty/columns/that-leads/to/a/key/and/is/called/operator.seed";
        let error = miette::miette!(help = format!("see {path}"), "several rollouts begin with 1e737f6d: {id}, {id}");
        let shown = shown(60, error.as_ref());
        assert_eq!(shown.matches(id).count(), 2, "{shown}");
        assert!(shown.contains(path), "{shown}");
    }
}
