//! What a host adds to each call of `nixos-rebuild`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One more word for `nixos-rebuild`, such as `--show-trace`. Only who configures the host says it, never a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RebuildFlag(String);

/// A flag by which `nixos-rebuild` deploys something else, or somewhere else, than what the request asks for. Whether that
/// succeeded could not be seen on this host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0} makes nixos-rebuild deploy something else than the request asks for, or somewhere else")]
pub struct RebuildFlagError(String);

/// The flags that choose what is deployed and where.
#[rustfmt::skip]
const CHOOSING: [&str; 15] = [
    "--flake", "--no-flake", "--file", "-f", "--attr", "-A", "--store-path", "--target-host", "--profile-name", "-p",
    "--specialisation", "-c", "--rollback", "--upgrade", "--upgrade-all",
];

impl RebuildFlag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RebuildFlag {
    type Err = RebuildFlagError;

    fn from_str(word: &str) -> Result<Self, RebuildFlagError> {
        let name = word.split('=').next().unwrap_or(word);
        if CHOOSING.contains(&name) { Err(RebuildFlagError(name.to_owned())) } else { Ok(Self(word.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_may_say_how_and_not_what_or_where() {
        let refused = |word: &str| word.parse::<RebuildFlag>().map_err(|error| error.to_string()).err();
        for how in ["--show-trace", "--option", "cores", "2", "--build-host=nas", "--impure", "-L", "--flakes"] {
            assert_eq!(refused(how), None);
        }
        for what in CHOOSING {
            assert!(refused(what).is_some(), "{what}");
        }
        insta::assert_snapshot!(refused("--target-host=ns2").unwrap(), @"--target-host makes nixos-rebuild deploy something else than the request asks for, or somewhere else");
    }
}
