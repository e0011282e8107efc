//! Aliases of deploy subjects, which the environment and the context define.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::plan::Aliases;
use crate::protocol::alias_variable;

/// The aliases of the context, by the variables that go before them.
static OF_CONTEXT: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Takes up the aliases of the context. There is one context in a process, and so it is done once.
pub(super) fn remember(aliases: BTreeMap<String, String>) {
    let by_variable = aliases.into_iter().map(|(alias, subject)| (alias_variable(&alias), subject));
    OF_CONTEXT.set(by_variable.collect()).ok();
}

/// The aliases that there are.
pub(super) struct KnownAliases;

impl Aliases for KnownAliases {
    fn subject(&self, variable: &str) -> Option<String> {
        lookup(variable)
    }

    fn names(&self) -> Vec<String> {
        names()
    }
}

/// The names of the aliases that there are.
pub(super) fn names() -> Vec<String> {
    let of_context = OF_CONTEXT.get().into_iter().flat_map(BTreeMap::keys).cloned();
    let set = std::env::vars_os().filter_map(|(variable, _)| variable.into_string().ok());
    let name = |variable: String| {
        let alias = variable.strip_prefix(&alias_variable(""))?.to_lowercase().replace('_', "-");
        (!alias.is_empty()).then_some(alias)
    };
    of_context.chain(set).filter_map(name).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What an alias stands for, by the variable that defines it: what the environment says, else what the context does.
#[expect(clippy::disallowed_methods, reason = "which variables are asked for depends on the words of the user")]
pub(super) fn lookup(variable: &str) -> Option<String> {
    let of_environment = std::env::var(variable).ok().filter(|subject| !subject.is_empty());
    of_environment.or_else(|| OF_CONTEXT.get()?.get(variable).cloned())
}
