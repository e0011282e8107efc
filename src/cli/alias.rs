//! Aliases of deploy subjects, which the environment defines.

use miette::Diagnostic;
use thiserror::Error;

use crate::protocol::subject::alias_variable;

/// A word that stands for no subject.
#[derive(Debug, Error, Diagnostic)]
#[error("{word:?} is neither a subject nor an alias")]
#[diagnostic(help("a subject has dots, such as deploy.test.all; to make {word} an alias, set {variable} to one"))]
pub(super) struct UnknownAlias {
    word: String,
    variable: String,
}

/// The subject that a word stands for; a text with a dot in it is one already.
pub(super) fn expand(word: &str) -> Result<String, UnknownAlias> {
    if word.contains('.') {
        return Ok(word.to_owned());
    }
    lookup(word).ok_or_else(|| UnknownAlias { word: word.to_owned(), variable: alias_variable(word) })
}

/// What the environment says an alias stands for.
#[expect(clippy::disallowed_methods, reason = "which variables there are depends on the words on the command line")]
pub(super) fn lookup(word: &str) -> Option<String> {
    std::env::var(alias_variable(word)).ok().filter(|subject| !subject.is_empty())
}
