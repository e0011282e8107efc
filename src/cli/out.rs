//! How a command ends, and what it prints: exit codes, errors, data to stdout, and everything for people to stderr.

use std::env;
use std::ffi::OsString;
use std::fmt::{Debug, Display};
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use miette::{Diagnostic, MietteDiagnostic, MietteHandlerOpts, Report};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use terminal_size::{Height, Width, terminal_size_of};
use textwrap::{WordSeparator, WordSplitter};
use thiserror::Error;

use crate::report::{Size, Style};
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

/// Turns an error into that of a mistake on the command line, or in a file that it names.
pub(super) fn usage(error: impl Diagnostic + Send + Sync + 'static) -> CommandError {
    Exit::Usage.with(error)
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
#[diagnostic(help("often a limit of memory or of open files"))]
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

/// The first error of writing output.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// A standard stream of this process. Writes are unbuffered, and wait while the stream takes nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    /// For data.
    Stdout,
    /// For people.
    Stderr,
}

impl Stream {
    /// Returns the style of text: colored on a terminal that can, unless `NO_COLOR` is set: <https://no-color.org>.
    pub(super) fn style(self) -> Style {
        let is_wanted = variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|term| term != "dumb");
        if is_wanted && self.is_terminal() { Style::Colored } else { Style::Plain }
    }

    /// Whether what was printed can be drawn over.
    pub(super) fn can_redraw(self) -> bool {
        self.is_terminal() && variable("TERM").is_some_and(|term| term != "dumb")
    }

    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        }
    }
}

/// Returns a variable that describes the terminal. An empty one counts as unset.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let stream = match self {
            Self::Stdout => stdout.as_fd(),
            Self::Stderr => stderr.as_fd(),
        };
        loop {
            match rustix::io::write(stream, bytes).map_err(io::Error::from) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::from_borrowed_fd(stream, PollFlags::OUT)], None).ok();
                }
                Err(error) => {
                    record_loss(&error);
                    return Err(error);
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Error, Diagnostic)]
#[error("the output is incomplete: {0}")]
#[diagnostic(help("only the output is affected; make room where it goes"))]
struct Incomplete(&'static io::Error);

/// Records that output could not be written. A pipe that its reader closed is no loss: the reader has what it wanted.
pub(super) fn record_loss(error: &io::Error) {
    if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) {
        LOST.set(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)).ok();
    }
}

/// Returns the exit code of a command that would end with `exit`. Lost output turns a success into a failure.
pub(super) fn final_exit(exit: Exit) -> Exit {
    // Libraries print to the buffered stdout of the standard library.
    io::stdout().flush().map_err(|error| record_loss(&error)).ok();
    let Some(reason) = LOST.get() else { return exit };
    error(&Report::new(Incomplete(reason)));
    if exit == Exit::Success { Exit::Failed } else { exit }
}

/// Prints data, and returns whether more can be printed.
pub(super) fn data(text: &str) -> bool {
    Stream::Stdout.write_all(text.as_bytes()).is_ok()
}

pub(super) fn json(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("what is printed has string keys only, so this cannot fail");
    data(&format!("{text}\n"));
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot write {path}: {error}", path = .0.display(), error = .1)]
#[diagnostic(help("name a place that exists, and that you may write to"))]
pub(super) struct Unwritable(pub(super) PathBuf, #[source] pub(super) io::Error);

/// Writes the file that `--out` names, or to the pipe or terminal.
pub(super) fn file(path: &Path, text: &str) -> Result<(), CommandError> {
    let is_file = fs::metadata(path).map_or(true, |there| there.is_file());
    let written = if is_file { replace_file(path, text) } else { fs::write(path, text) };
    Ok(written.map_err(|error| Unwritable(path.to_owned(), error))?)
}

/// Writes a file atomically: it has all of the text, or stays as it was.
pub(super) fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    // A draft that was left behind is not written to: it may be somebody's link to another file.
    fs::remove_file(&draft).ok();
    fs::File::create_new(&draft)?.write_all(text.as_bytes())?;
    fs::rename(draft, path)
}

/// Returns the size of the terminal, or 80 columns and 24 rows without one.
pub(super) fn size() -> Size {
    let (Width(columns), Height(rows)) = terminal_size_of(io::stderr()).unwrap_or((Width(80), Height(24)));
    Size { columns: columns.into(), rows: rows.into() }
}

/// Returns the width for lines that are written once: that of the terminal, or no limit for a file.
pub(super) fn stderr_line_limit() -> usize {
    terminal_size_of(io::stderr()).map_or(usize::MAX, |(Width(columns), _)| columns.into())
}

/// Like [`stderr_line_limit`], for stdout.
pub(super) fn stdout_line_limit() -> usize {
    terminal_size_of(io::stdout()).map_or(usize::MAX, |(Width(columns), _)| columns.into())
}

/// Prints data over the previous data, cut to the height of the terminal, or below it without a terminal. Returns
/// whether more can be printed.
pub(super) fn in_place(text: &str) -> bool {
    match terminal_size_of(io::stdout()) {
        Some((_, Height(rows))) if Stream::Stdout.can_redraw() => {
            let shown: String = text.split_inclusive('\n').take(usize::from(rows).saturating_sub(1)).collect();
            data(&format!("\x1b[H\x1b[2J{shown}"))
        }
        Some(_) | None => data(&format!("{text}\n")),
    }
}

/// Wraps lines that are longer than `width`, at spaces only, with `margin` before each continuation.
pub(super) fn wrapped(text: &str, width: usize, margin: &str) -> String {
    let options = textwrap::Options::new(width).subsequent_indent(margin).break_words(false);
    let options = options.word_separator(WordSeparator::AsciiSpace).word_splitter(WordSplitter::NoHyphenation);
    text.split('\n').map(|line| textwrap::fill(line, &options)).collect::<Vec<_>>().join("\n")
}

/// Prints prose for the person at the terminal.
pub(super) fn note(text: &str) {
    Stream::Stderr.write_all(format!("{}\n", wrapped(text, stderr_line_limit(), "  ")).as_bytes()).ok();
}

/// Prints warnings of a command that goes on.
pub(super) fn warnings<T: Display>(warnings: &[T]) {
    for warning in warnings {
        note(&format!("warning: {warning}"));
    }
}

/// Prints an error as a report: what, where, and what to do next.
pub(super) fn error(report: &Report) {
    Stream::Stderr.write_all(format!("{}\n", one_by_one(report)).as_bytes()).ok();
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
    fn a_file_is_replaced_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [file, other] = ["plan.json", "other"].map(|name| folder.path().join(name));
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join("plan.json.draft")).unwrap();
        for text in ["one", "two"] {
            replace_file(&file, text).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(folder.path().read_dir().unwrap().count(), 2);
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
