//! What a command prints: data to stdout, everything for people to stderr.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use miette::{Diagnostic, Report};
use serde::Serialize;
use terminal_size::{Height, Width, terminal_size_of};
use thiserror::Error;

use super::exit::{CommandError, Exit};
use crate::report::Size;

/// Prints data. A pipe that was closed by its reader is no error: it has what it wanted.
pub(super) fn data(text: &str) {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
}

pub(super) fn json(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("what is printed has string keys only, so this cannot fail");
    data(&format!("{text}\n"));
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot write {path}: {error}", path = .0.display(), error = .1)]
#[diagnostic(help("give --out a file that you may write"))]
struct Unwritable(PathBuf, #[source] io::Error);

/// Writes data to a file that is there as a whole or not at all.
pub(super) fn file(path: &Path, text: &str) -> Result<(), CommandError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let written = fs::write(&draft, text).and_then(|()| fs::rename(draft, path));
    written.map_err(|error| Exit::Precondition.with(Unwritable(path.to_owned(), error)))
}

pub(super) fn width() -> usize {
    size().columns
}

/// The room for text: that of the terminal, or 80 columns where there is no terminal.
pub(super) fn size() -> Size {
    let (Width(columns), Height(rows)) = terminal_size_of(io::stderr()).unwrap_or((Width(80), Height(24)));
    Size { columns: columns.into(), rows: rows.into() }
}

/// How wide lines may be that are written once and stay: a file has room for all.
pub(super) fn room() -> usize {
    terminal_size_of(io::stderr()).map_or(usize::MAX, |(Width(columns), _)| columns.into())
}

/// The same for data.
pub(super) fn data_room() -> usize {
    terminal_size_of(io::stdout()).map_or(usize::MAX, |(Width(columns), _)| columns.into())
}

/// Prints data in place of what was printed before, as far as a terminal has room for it; below that where there is no
/// terminal.
pub(super) fn in_place(text: &str) {
    match terminal_size_of(io::stdout()) {
        Some((_, Height(rows))) if std::env::var_os("TERM").is_some_and(|term| term != "dumb") => {
            let shown: String = text.split_inclusive('\n').take(usize::from(rows).saturating_sub(1)).collect();
            data(&format!("\x1b[H\x1b[2J{shown}"));
        }
        Some(_) | None => data(&format!("{text}\n")),
    }
}

/// Prints prose for the person at the terminal.
pub(super) fn note(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Prints what the user should know although the command goes on.
pub(super) fn warnings<T: Display>(warnings: &[T]) {
    for warning in warnings {
        note(&format!("warning: {warning}"));
    }
}

/// Prints an error as a report: what, where, and what to do next.
pub(super) fn error(report: &Report) {
    note(format!("{report:?}").trim_end());
}
