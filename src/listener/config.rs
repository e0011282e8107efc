//! What the one who configures a host says: never a request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::protocol::{FlakeAttr, FlakeUrl, HostName, Role, Subject, SubjectError, SubjectTemplate, Tier};

#[rustfmt::skip]
const CHOOSING: [&str; 15] = [
    "--flake", "--no-flake", "--file", "-f", "--attr", "-A", "--store-path", "--target-host", "--profile-name", "-p",
    "--specialisation", "-c", "--rollback", "--upgrade", "--upgrade-all",
];

/// The length of a public key in base 64, without the sign that fills it up.
const PUBLIC_KEY_DIGITS: usize = 43;

#[derive(Debug, Clone)]
pub struct Config {
    pub tier: Tier,
    pub role: Option<Role>,
    pub deploy_subjects: Vec<Subject>,
    pub discover_subject: Subject,
    pub run: RunSettings,
    pub heartbeat: Duration,
    pub metrics_listen: Option<SocketAddr>,
    pub state_dir: PathBuf,
    /// A directory in memory, which is emptied at each boot of the host and has room whatever fills the disks: for what must be
    /// known for sure. Without one the state directory has it.
    pub runtime_dir: Option<PathBuf>,
    /// The program that supervises a run; it is called with `supervise` and the directory of the run.
    pub supervisor: PathBuf,
}

/// What holds for each run of a host. It is written down with the run, for a supervisor that outlives its listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSettings {
    pub flake: FlakeUrl,
    pub host: HostName,
    /// The name of its configuration in the flake, where it is not that of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attr: Option<FlakeAttr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuild_flags: Vec<RebuildFlag>,
    /// The keys one of which has signed each system that is taken from elsewhere; without any, none is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub system_keys: Vec<SystemKey>,
    /// Where the host's file system begins; `/` but for tests.
    pub root: PathBuf,
    /// What becomes of a run after which units of a user fail.
    #[serde(default)]
    pub user_units: UserUnits,
    /// How long a run may take in all, in milliseconds.
    pub timeout_ms: u64,
    /// How long what is told to end may take to do so, in milliseconds.
    pub grace_ms: u64,
}

impl RunSettings {
    /// The name of the host's configuration in `nixosConfigurations`.
    pub(super) fn configuration(&self) -> &str {
        self.attr.as_ref().map_or(self.host.as_str(), FlakeAttr::as_str)
    }

    pub(super) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

/// What becomes of a run after which units of a user fail, and none of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserUnits {
    /// It has failed.
    #[default]
    Fail,
    /// It has not, and names them.
    Warn,
}

/// One more word for `nixos-rebuild`, such as `--show-trace`. Only who configures the host says it, never a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RebuildFlag(String);

/// A flag by which `nixos-rebuild` deploys something else, or somewhere else, than what the request asks for. Whether that
/// succeeded could not be seen on this host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0} makes nixos-rebuild deploy something else than the request asks for, or somewhere else")]
pub struct RebuildFlagError(String);

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

/// The public half of a key that signs systems, as Nix writes it: `NAME:BASE64`. No request says which ones a host trusts.
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
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(name, _)| name)
    }

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

/// The subjects that a host listens on, by these templates; each once.
pub fn deploy_subjects(
    templates: &[SubjectTemplate],
    host: &HostName,
    tier: Tier,
    role: Option<&Role>,
) -> Result<Vec<Subject>, SubjectError> {
    let mut subjects: Vec<Subject> = Vec::new();
    for template in templates {
        if let Some(subject) = template.expand(host, tier, role)?
            && !subjects.contains(&subject)
        {
            subjects.push(subject);
        }
    }
    Ok(subjects)
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
