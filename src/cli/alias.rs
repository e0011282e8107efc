//! Resolves words of the command line: hosts, and aliases of deploy subjects from the environment and the context.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use miette::Diagnostic;
use thiserror::Error;

use super::exit::{CommandError, Exit, OrUsage};
use crate::plan::{Aliases, Selector};
use crate::protocol::{HostName, Target, Tier, alias_variable};

/// The subjects of the context's aliases, by the variable that overrides each of them.
static OF_CONTEXT: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Stores the aliases of the context. A process has one context, so this happens once.
pub(super) fn remember(aliases: BTreeMap<String, String>) {
    let by_variable = aliases.into_iter().map(|(alias, subject)| (alias_variable(&alias), subject));
    OF_CONTEXT.set(by_variable.collect()).ok();
}

/// The aliases of the environment and the context.
pub(super) struct KnownAliases;

impl Aliases for KnownAliases {
    fn subject(&self, variable: &str) -> Option<String> {
        lookup(variable)
    }

    fn names(&self) -> Vec<String> {
        names()
    }
}

pub(super) fn names() -> Vec<String> {
    let of_context = OF_CONTEXT.get().into_iter().flat_map(BTreeMap::keys).cloned();
    let set = std::env::vars_os().filter_map(|(variable, _)| variable.into_string().ok());
    let name = |variable: String| {
        let alias = variable.strip_prefix(&alias_variable(""))?.to_lowercase().replace('_', "-");
        (!alias.is_empty()).then_some(alias)
    };
    of_context.chain(set).filter_map(name).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns the subject of an alias by its variable: from the environment, else from the context.
#[expect(clippy::disallowed_methods, reason = "which variables are asked for depends on the words of the user")]
pub(super) fn lookup(variable: &str) -> Option<String> {
    let of_environment = std::env::var(variable).ok().filter(|subject| !subject.is_empty());
    of_environment.or_else(|| OF_CONTEXT.get()?.get(variable).cloned())
}

#[derive(Debug, Error, Diagnostic)]
#[error("{0} is not one host")]
#[diagnostic(help("name one host, such as prod.ns1: `homelab-deploy hosts` lists them"))]
struct NotOneHost(String);

/// Parses the name of one host. A name without a tier may be a host of any tier.
pub(super) fn one_host(word: &str) -> Result<(Option<Tier>, HostName), CommandError> {
    if let Ok(name) = word.parse()
        && lookup(&alias_variable(word)).is_none()
    {
        return Ok((None, name));
    }
    only_host(Selector::parse(word, &KnownAliases).or_usage()?)
}

pub(super) fn only_host(selector: Selector) -> Result<(Option<Tier>, HostName), CommandError> {
    match selector.target {
        Target::Host(tier, host) => Ok((Some(tier), host)),
        Target::Role(..) | Target::All(_) | Target::Custom(_) => Err(Exit::Usage.with(NotOneHost(selector.text))),
    }
}
