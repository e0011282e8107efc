//! The host that a word on the command line means.

use miette::Diagnostic;
use thiserror::Error;

use super::alias;
use super::exit::{CommandError, Exit};
use crate::plan::Selector;
use crate::protocol::{HostName, Target, Tier, alias_variable};

#[derive(Debug, Error, Diagnostic)]
#[error("{0} is not one host")]
#[diagnostic(help("name one host, such as prod.ns1: `homelab-deploy hosts` lists them"))]
struct NotOneHost(String);

/// Which host is meant. A name alone may be that of any tier.
pub(super) fn read(word: &str) -> Result<(Option<Tier>, HostName), CommandError> {
    if let Ok(name) = word.parse()
        && alias::lookup(&alias_variable(word)).is_none()
    {
        return Ok((None, name));
    }
    only(Selector::parse(word, &alias::KnownAliases).map_err(|mistake| Exit::Usage.with(mistake))?)
}

/// The host that a target means alone.
pub(super) fn only(selector: Selector) -> Result<(Option<Tier>, HostName), CommandError> {
    match selector.target {
        Target::Host(tier, host) => Ok((Some(tier), host)),
        Target::Role(..) | Target::All(_) | Target::Custom(_) => Err(Exit::Usage.with(NotOneHost(selector.text))),
    }
}
