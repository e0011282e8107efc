//! Parses the selectors of hosts: short forms, whole subjects, and aliases.

use miette::Diagnostic;
use thiserror::Error;

use crate::protocol::{HostName, ParseError, Subject, Target, Tier, alias_variable};

use crate::text::did_you_mean;

/// A lookup of the aliases for subjects.
pub trait Aliases {
    /// Returns the subject of an alias, given the environment variable that defines the alias.
    fn subject(&self, variable: &str) -> Option<String>;

    /// Returns the names of the aliases, as far as known.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl<F: Fn(&str) -> Option<String>> Aliases for F {
    fn subject(&self, variable: &str) -> Option<String> {
        self(variable)
    }
}

/// A target and its text in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub text: String,
    pub target: Target,
}

#[derive(Debug, Error, Diagnostic)]
#[error("{what}")]
pub struct TargetError {
    pub(super) what: String,
    #[help]
    pub(super) help: String,
}

const HELP: &str = "a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is \
                    a single word without dots";

impl Selector {
    /// Parses a target.
    ///
    /// A text whose first word is a tier is a short form, so that no dotted host name is taken for a custom subject.
    pub fn parse(text: &str, aliases: &dyn Aliases) -> Result<Self, TargetError> {
        let target = match text.split_once('.') {
            None => of_alias(text, aliases)?,
            Some((first, rest)) => match first.parse::<Tier>() {
                Ok(tier) => of_short_form(tier, rest),
                Err(_) => of_subject(text),
            }
            .map_err(|error| TargetError { what: error.to_string(), help: HELP.to_owned() })?,
        };
        Ok(Self { text: text.to_owned(), target })
    }
}

/// Parses the part after the tier: `all`, `role.<role>` or `<host>`.
fn of_short_form(tier: Tier, rest: &str) -> Result<Target, ParseError> {
    match rest.split_once('.') {
        Some(("role", role)) => Ok(Target::Role(tier, role.parse()?)),
        None if rest == "all" => Ok(Target::All(tier)),
        _ => Ok(Target::Host(tier, rest.parse::<HostName>()?)),
    }
}

fn of_subject(text: &str) -> Result<Target, ParseError> {
    text.parse::<Subject>()?.target()
}

fn of_alias(word: &str, aliases: &dyn Aliases) -> Result<Target, TargetError> {
    let is_alias = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if word.is_empty() || !word.chars().all(is_alias) {
        return Err(TargetError { what: format!("{word:?} is not a target"), help: HELP.to_owned() });
    }
    let variable = alias_variable(word);
    let Some(subject) = aliases.subject(&variable) else {
        let near = did_you_mean(word, aliases.names().iter().map(String::as_str));
        let help =
            format!("{near}set {variable} to a subject; if `{word}` is a host, write test.{word} or prod.{word}");
        return Err(TargetError { what: format!("there is no alias `{word}`"), help });
    };
    of_subject(&subject).map_err(|error| TargetError {
        what: format!("the alias `{word}` stands for no subject: {error}"),
        help: format!("set {variable} to a subject such as deploy.prod.all"),
    })
}
