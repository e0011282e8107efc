//! Errors and warnings about a plan, with their place in the file and help.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, MietteDiagnostic, NamedSource, Severity};
use thiserror::Error;

/// All mistakes of a plan, sorted by their place in the file; at least one.
#[derive(Debug, Error, Diagnostic)]
pub struct PlanErrors {
    #[related]
    pub(super) mistakes: Vec<MietteDiagnostic>,
    #[source_code]
    file: Option<NamedSource<String>>,
}

/// Creates a warning about something that the author may not have meant.
pub(super) fn warning(message: impl Into<String>) -> MietteDiagnostic {
    MietteDiagnostic::new(message).with_severity(Severity::Warning)
}

pub(super) trait Place {
    /// Adds a labelled place. Ignores an empty one, which is not in the file.
    fn at(self, span: &Range<usize>, label: impl Into<String>) -> Self;

    /// Returns the place of the first label, in bytes.
    fn span(&self) -> Option<Range<usize>>;
}

impl Place for MietteDiagnostic {
    fn at(self, span: &Range<usize>, label: impl Into<String>) -> Self {
        if span.is_empty() {
            return self;
        }
        self.and_label(LabeledSpan::new_with_span(Some(label.into()), span.clone()))
    }

    fn span(&self) -> Option<Range<usize>> {
        let label = self.labels.as_ref()?.first()?;
        Some(label.offset()..label.offset() + label.len())
    }
}

impl PlanErrors {
    /// Adds the file's name and text, so that the report can show the places.
    #[must_use]
    pub fn named(self, file: &str, text: &str) -> Self {
        Self { file: Some(NamedSource::new(file, text.to_owned())), ..self }
    }

    pub fn iter(&self) -> impl Iterator<Item = &MietteDiagnostic> {
        self.mistakes.iter()
    }

    /// Returns `Ok` if there are no mistakes. Drops duplicates: a wrong default is found in each wave.
    pub(super) fn unless_none(mut mistakes: Vec<MietteDiagnostic>) -> Result<(), Self> {
        mistakes.sort_by_key(|mistake| mistake.span().map(|span| span.start));
        mistakes.dedup();
        if mistakes.is_empty() { Ok(()) } else { Err(Self { mistakes, file: None }) }
    }
}

impl From<MietteDiagnostic> for PlanErrors {
    fn from(mistake: MietteDiagnostic) -> Self {
        Self { mistakes: vec![mistake], file: None }
    }
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => f.write_str("the plan has a mistake"),
            count => write!(f, "the plan has {count} mistakes"),
        }
    }
}

/// Joins the first 12 words: `a, b and 3 more`. Returns `None` if there are no words.
pub(super) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const SHOWN: usize = 12;
    let mut words: Vec<&str> = words.into_iter().collect();
    let hidden = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    let more = (hidden > 0).then(|| format!("{hidden} more"));
    let words: Vec<&str> = words.into_iter().chain(more.as_deref()).collect();
    match words.as_slice() {
        [] => None,
        [only] => Some((*only).to_owned()),
        [first @ .., last] => Some(format!("{} and {last}", first.join(", "))),
    }
}
