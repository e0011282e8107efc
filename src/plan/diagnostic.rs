//! Errors and warnings about a plan, with their place in the file and help.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct PlanDiagnostic {
    message: String,
    severity: Severity,
    labels: Vec<LabeledSpan>,
    help: Option<String>,
    is_absence: bool,
}

/// All mistakes of a plan, sorted by their place in the file; at least one.
#[derive(Debug, Error, Diagnostic)]
pub struct PlanErrors {
    #[related]
    pub(super) mistakes: Vec<PlanDiagnostic>,
    #[source_code]
    file: Option<NamedSource<String>>,
}

impl PlanDiagnostic {
    /// Creates an error, which keeps the plan from being carried out.
    pub(super) fn mistake(message: impl Into<String>) -> Self {
        Self { message: message.into(), severity: Severity::Error, labels: Vec::new(), help: None, is_absence: false }
    }

    pub(super) fn absence(message: impl Into<String>) -> Self {
        Self { is_absence: true, ..Self::mistake(message) }
    }

    /// Creates a warning about something that the author may not have meant.
    pub(super) fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::mistake(message) }
    }

    /// Adds a labelled place. Ignores an empty one, which is not in the file.
    pub(super) fn at(mut self, span: &Range<usize>, label: impl Into<String>) -> Self {
        if !span.is_empty() {
            let label = LabeledSpan::new_with_span(Some(label.into()), span.clone());
            self.labels.push(label);
        }
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) const fn is_absence(&self) -> bool {
        self.is_absence
    }

    /// Returns the place of the first label, in bytes.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        let label = self.labels.first()?;
        Some(label.offset()..label.offset() + label.len())
    }
}

impl PlanErrors {
    /// Adds the file's name and text, so that the report can show the places.
    #[must_use]
    pub fn named(self, file: &str, text: &str) -> Self {
        Self { file: Some(NamedSource::new(file, text.to_owned())), ..self }
    }

    pub fn iter(&self) -> impl Iterator<Item = &PlanDiagnostic> {
        self.mistakes.iter()
    }

    /// Returns `Ok` if there are no mistakes. Drops duplicates: a wrong default is found in each wave.
    pub(super) fn unless_none(mut mistakes: Vec<PlanDiagnostic>) -> Result<(), Self> {
        mistakes.sort_by_key(|mistake| mistake.span().map(|span| span.start));
        mistakes.dedup();
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Self { mistakes, file: None })
    }
}

impl From<PlanDiagnostic> for PlanErrors {
    fn from(mistake: PlanDiagnostic) -> Self {
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

impl Diagnostic for PlanDiagnostic {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
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
