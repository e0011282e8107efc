//! The configuration of a listener: set by the host's administrator, never by a request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::{FlakeAttr, FlakeUrl, HostName, ParseError, Role, Subject, SubjectTemplate, Tier};

/// The flags that make `nixos-rebuild` deploy something else, or somewhere else, than the request asks for. The listener
/// could not see on this host whether that succeeded.
#[rustfmt::skip]
const FORBIDDEN_FLAGS: [&str; 15] = [
    "--flake", "--no-flake", "--file", "-f", "--attr", "-A", "--store-path", "--target-host", "--profile-name", "-p",
    "--specialisation", "-c", "--rollback", "--upgrade", "--upgrade-all",
];

/// The error about a text that is no public key. It does not repeat the text, which may be a secret key.
const NO_SYSTEM_KEY: &str = "a key is NAME:BASE64, as `nix key convert-secret-to-public` prints it: a name without spaces, \
    and 44 characters with = at the end";

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
    /// A directory in memory that is emptied at each boot and has room when the disks are full: for the records that
    /// must not be lost. Without one, the state directory holds them.
    pub runtime_dir: Option<PathBuf>,
    /// The program that supervises a run, called with `supervise` and the run's directory.
    pub supervisor: PathBuf,
}

/// The settings of every run of a host. They are written down with the run, as its supervisor outlives the listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSettings {
    pub flake: FlakeUrl,
    pub host: HostName,
    /// The name of the configuration in the flake, if it is not the host's name.
    pub attr: Option<FlakeAttr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuild_flags: Vec<RebuildFlag>,
    /// The keys that may sign systems built elsewhere. Without any, the host takes no such system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub system_keys: Vec<SystemKey>,
    /// The root of the host's file system: `/` except in tests.
    pub root: PathBuf,
    #[serde(default)]
    pub user_units: UserUnits,
    /// The time limit of a run.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// The time that processes get to end after SIGTERM.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
}

impl RunSettings {
    /// Returns the name of the host's configuration in `nixosConfigurations`.
    pub(super) fn configuration(&self) -> &str {
        self.attr.as_ref().map_or(self.host.as_str(), FlakeAttr::as_str)
    }
}

/// A duration in a record, in milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// The verdict on a run after which only units of users have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserUnits {
    /// The run has failed.
    #[default]
    Fail,
    /// The run has completed, and its message names the units.
    Warn,
}

/// An extra argument for `nixos-rebuild`, such as `--show-trace`. Set by the host's administrator, never by a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildFlag(pub(super) String);

impl FromStr for RebuildFlag {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let long = word.split('=').next().unwrap_or(word);
        // The value of a short flag may follow it directly.
        let names = [long, word.get(..2).unwrap_or(word)];
        match names.into_iter().find(|name| FORBIDDEN_FLAGS.contains(name)) {
            Some(name) => {
                Err(format!("{name} makes nixos-rebuild deploy something other than requested, or somewhere else"))
            }
            None => Ok(Self(word.to_owned())),
        }
    }
}

/// The public half of a key that signs systems, in Nix' format `NAME:BASE64`. No request says which keys a host trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemKey(pub(super) String);

impl FromStr for SystemKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (name, key) = text.split_once(':').ok_or(NO_SYSTEM_KEY)?;
        let digits = key.strip_suffix('=').filter(|digits| digits.len() == 43).ok_or(NO_SYSTEM_KEY)?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
        let is_key = digits.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/'));
        if is_name && is_key { Ok(Self(text.to_owned())) } else { Err(NO_SYSTEM_KEY) }
    }
}

/// Returns the subjects that a host listens on, expanded from these templates, without duplicates.
pub fn deploy_subjects(
    templates: &[SubjectTemplate],
    host: &HostName,
    tier: Tier,
    role: Option<&Role>,
) -> Result<Vec<Subject>, ParseError> {
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
        let refused = |word: &str| word.parse::<RebuildFlag>().err();
        for how in ["--show-trace", "--option", "cores", "2", "--build-host=nas", "--impure", "-L", "--flakes"] {
            assert_eq!(refused(how), None);
        }
        for what in FORBIDDEN_FLAGS.into_iter().chain(["-pother", "-c=x", "-fdefault.nix", "-Ahosts.ns2"]) {
            assert!(refused(what).is_some(), "{what}");
        }
        insta::assert_snapshot!(refused("--target-host=ns2").unwrap(), @"--target-host makes nixos-rebuild deploy something other than requested, or somewhere else");
    }

    #[test]
    fn a_key_is_one_word_with_a_name_and_a_public_key() {
        let key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        assert_eq!(key.parse::<SystemKey>().unwrap().0, key);
        let secret = format!("x:{}==", "A".repeat(86));
        let spaced = format!("a b:{}=", "A".repeat(43));
        for refused in ["", "x", ":", &key[18..], &format!("{key} {key}"), &secret, &spaced, "x:AAAA="] {
            assert!(refused.parse::<SystemKey>().is_err(), "{refused}");
        }
    }
}
