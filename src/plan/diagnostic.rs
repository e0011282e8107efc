//! What is wrong or odd about a plan: said in words, at its place, with what to do about it.

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

/// Every mistake of a plan, in the order of their places in the file; at least one.
#[derive(Debug, Error, Diagnostic)]
pub struct PlanErrors {
    #[related]
    mistakes: Vec<PlanDiagnostic>,
    #[source_code]
    file: Option<NamedSource<String>>,
}

impl PlanDiagnostic {
    /// Something that keeps the plan from being carried out.
    pub(super) fn mistake(message: impl Into<String>) -> Self {
        Self { message: message.into(), severity: Severity::Error, labels: Vec::new(), help: None, is_absence: false }
    }

    pub(super) fn absence(message: impl Into<String>) -> Self {
        Self { is_absence: true, ..Self::mistake(message) }
    }

    /// Something that may well not be what its author meant.
    pub(super) fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::mistake(message) }
    }

    /// Adds the place where it is, and what stands there. A place that is not in the file is left out.
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

    /// Where it is in the file, in bytes: the first label.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        let label = self.labels.first()?;
        Some(label.offset()..label.offset() + label.len())
    }
}

impl PlanErrors {
    /// Lets the report show the places in the text of the plan, under the name of its file.
    #[must_use]
    pub fn named(self, file: &str, text: &str) -> Self {
        Self { file: Some(NamedSource::new(file, text.to_owned())), ..self }
    }

    /// The mistakes; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &PlanDiagnostic> {
        self.mistakes.iter()
    }

    /// `Ok` when there are none. The same mistake is not told twice: a wrong default shows in each wave.
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

/// Joins words as people do, up to a bound: `a, b and 3 more`. `None` when there are none.
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
