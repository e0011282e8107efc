//! The keys that may sign what a host runs.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The length of a public key in base 64, without the sign that fills it up.
const PUBLIC_KEY_DIGITS: usize = 43;

/// The public half of a key that signs systems, as Nix writes it: `NAME:BASE64`. Only who configures the host says which ones
/// it trusts, never a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemKey(String);

/// Not such a key. What was given is not repeated: it may be a secret one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "a key is NAME:BASE64, as `nix key convert-secret-to-public` prints it: a name without spaces, and 44 characters with = at the end"
)]
pub struct SystemKeyError;

impl SystemKey {
    /// What the key is called.
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(name, _)| name)
    }

    /// The key as Nix writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SystemKey {
    type Err = SystemKeyError;

    fn from_str(text: &str) -> Result<Self, SystemKeyError> {
        let (name, key) = text.split_once(':').ok_or(SystemKeyError)?;
        let digits = key.strip_suffix('=').filter(|digits| digits.len() == PUBLIC_KEY_DIGITS).ok_or(SystemKeyError)?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
        let is_key = digits.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/'));
        if is_name && is_key { Ok(Self(text.to_owned())) } else { Err(SystemKeyError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_with_a_name_and_a_public_key() {
        let key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        assert_eq!(key.parse::<SystemKey>().unwrap().as_str(), key);
        let secret = format!("x:{}==", "A".repeat(86));
        let spaced = format!("a b:{}=", "A".repeat(43));
        for refused in ["", "x", ":", &key[18..], &format!("{key} {key}"), &secret, &spaced, "x:AAAA="] {
            assert!(refused.parse::<SystemKey>().is_err(), "{refused}");
        }
    }
}
