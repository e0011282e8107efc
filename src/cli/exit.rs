//! Exit codes of commands, and the format of their errors.

use std::fmt::{self, Debug, Display};
use std::process::ExitCode;

use miette::{Diagnostic, LabeledSpan, MietteHandler, MietteHandlerOpts, Report, ReportHandler, Severity, SourceCode};
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

pub(super) fn choose_reports() {
    // Only tests set the hook again, and the first one stays.
    miette::set_hook(Box::new(|_| Box::new(OneByOne(opts().build())))).ok();
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

/// Shows related errors below the error that they belong to, each as if it were alone. miette would put `Error:` above
/// each of them, in a line that says nothing else.
struct OneByOne(MietteHandler);

impl ReportHandler for OneByOne {
    fn debug(&self, error: &dyn Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = error.source_code();
        self.0.debug(&Alone { error, text }, f)?;
        for error in error.related().into_iter().flatten() {
            f.write_str("\n")?;
            self.0.debug(&Alone { error, text: error.source_code().or(text) }, f)?;
        }
        Ok(())
    }
}

/// An error without its related errors, with the source text that its labels point into.
#[derive(Error)]
#[error("{error}")]
struct Alone<'a> {
    error: &'a dyn Diagnostic,
    text: Option<&'a dyn SourceCode>,
}

impl Diagnostic for Alone<'_> {
    fn severity(&self) -> Option<Severity> {
        self.error.severity()
    }

    fn help(&self) -> Option<Box<dyn Display + '_>> {
        self.error.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.text
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.error.labels()
    }
}

impl Debug for Alone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self.error, f)
    }
}

#[cfg(test)]
mod tests {
    use miette::GraphicalTheme;

    use super::*;
    use crate::plan::Plan;

    struct Shown<'a>(&'a OneByOne, &'a dyn Diagnostic);

    impl Debug for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.debug(self.1, f)
        }
    }

    #[test]
    fn each_mistake_of_a_plan_stands_by_itself() {
        let text = "[[wave]]\ntargets = 'prod.all'\nmax_parralel = 2\n[[wave]]\ntargets = 'prod.x'\ntimeout = 30\n";
        let mistakes = Plan::parse(text, "sunday", &|_: &str| None).unwrap_err().named("sunday.toml", text);
        let handler = OneByOne(opts().width(80).graphical_theme(GraphicalTheme::unicode_nocolor()).build());
        insta::assert_snapshot!(format!("{:?}", Shown(&handler, &mistakes)), @r#"
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
        let handler = OneByOne(opts().width(60).graphical_theme(GraphicalTheme::unicode_nocolor()).build());
        let shown = format!("{:?}", Shown(&handler, error.as_ref()));
        assert_eq!(shown.matches(id).count(), 2, "{shown}");
        assert!(shown.contains(path), "{shown}");
    }
}
