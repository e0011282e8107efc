//! Discovery messages: the request on the discovery subject, and the answers of listeners and running rollouts.

use std::convert::Infallible;
use std::ops::Not;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::flake::FlakeUrl;
use super::ids::RolloutId;
use super::names::{HostName, Role, Tier};
use super::reply_subject::{ReplySubject, Sender};
use super::response::{BusyWith, ErrorCode, Status};
use super::revision::{Commit, SystemPath};
use super::subject::Subject;
use super::text::{self, checked_text, clean_line, empty_is_none, from_json, to_json};

pub const MAX_PROBLEMS: usize = 8;

/// The longest message of a problem, in bytes.
pub const MAX_PROBLEM_BYTES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryRequest {
    pub reply_to: ReplySubject,
    /// Only hosts of this tier answer.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Each host answers on its own subject, `deploy.responses.<tier>.<host>.<last token of reply_to>`, where the
    /// server lets no other key publish. A listener that does not know this field answers on `reply_to`.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub per_host: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DiscoveryAnswer {
    /// The answer of a deployer that runs a rollout.
    Operator {
        rollout: RolloutReport,
    },
    Host(Box<HostReport>),
}

/// The answer of a listener, and whether its sender is proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostAnswer {
    #[serde(flatten)]
    pub report: Box<HostReport>,
    /// Whether no other key may publish on the subject of the answer. Old listeners answer on a subject that all of
    /// them may use.
    pub proved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub hostname: HostName,
    pub tier: Tier,
    #[serde(default, deserialize_with = "empty_is_none")]
    pub role: Option<Role>,
    /// The subjects on which the listener accepts requests. The patterns among those of the predecessor's listeners are left out.
    #[serde(default, deserialize_with = "text::parsable")]
    pub deploy_subjects: Vec<Subject>,
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the listener supports beyond the original protocol.
    #[serde(default, deserialize_with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// The flake that the host deploys from, without user name and password. A URL that does not parse counts as none.
    #[serde(default, deserialize_with = "if_readable", skip_serializing_if = "Option::is_none")]
    pub flake: Option<FlakeUrl>,
    /// A random id of this boot, which differs between two machines with the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// A hash of the machine id, which differs between two machines with the same name unless one is a clone.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The store path of the running system.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether the booted system differs from the running one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_system_differs: Option<bool>,
    /// Whether the next boot has another kernel, initrd or kernel modules than the last one, or another system than the
    /// running one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_required: Option<bool>,
    /// Whether the next boot starts another system than the running one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_boot_differs: Option<bool>,
    /// Whether another system runs than the last deployed one: somebody has switched the host by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployed_differs: Option<bool>,
    /// The uptime of the machine, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// The time by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<Box<BusyWith>>,
    #[serde(default, deserialize_with = "if_readable", skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<LastRun>>,
    /// At most [`MAX_PROBLEMS`] problems of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "first_problems")]
    pub problems: Vec<Problem>,
}

/// Something that a host lacks or that is wrong with it, reported before it makes a deployment fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The kind of problem, as words joined by underscores.
    pub code: String,
    /// The problem in words, at most [`MAX_PROBLEM_BYTES`] long.
    pub message: String,
}

/// A capability of a listener beyond the original protocol. Unknown ones are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// It supports request ids, and so never runs a request twice.
    Id,
    /// It rejects expired requests.
    Expires,
    /// It repeats `started` while it runs a request.
    Heartbeat,
    /// It resolves a branch to a commit itself, and reports the commit as soon as it is found.
    Resolve,
    /// It rolls back when it is not confirmed in time, and when it is asked to.
    Rollback,
    /// It serves the logs of its runs.
    Log,
    /// It deploys systems that were built elsewhere, since its configuration trusts a key that signs them.
    System,
    /// It fetches such a system without activating it.
    Fetch,
    /// A feature of another version.
    Other(Box<str>),
}

impl Feature {
    /// The features of every listener of this version.
    pub const ALWAYS: [Self; 6] = [Self::Id, Self::Expires, Self::Heartbeat, Self::Resolve, Self::Rollback, Self::Log];

    /// The features of a listener whose configuration trusts a key that signs systems.
    pub const WITH_TRUSTED_KEYS: [Self; 2] = [Self::System, Self::Fetch];

    pub fn as_str(&self) -> &str {
        match self {
            Self::Id => "id",
            Self::Expires => "expires",
            Self::Heartbeat => "heartbeat",
            Self::Resolve => "resolve",
            Self::Rollback => "rollback",
            Self::Log => "log",
            Self::System => "system",
            Self::Fetch => "fetch",
            Self::Other(name) => name,
        }
    }
}

impl FromStr for Feature {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        let known = Self::ALWAYS.into_iter().chain(Self::WITH_TRUSTED_KEYS).find(|known| known.as_str() == name);
        Ok(known.unwrap_or_else(|| Self::Other(clean_line(name).into())))
    }
}

checked_text!(Feature);

impl HostReport {
    /// Returns the sender that the report itself names.
    pub fn sender(&self) -> Sender {
        Sender { tier: self.tier, host: self.hostname.clone() }
    }

    /// Whether the two reports come from two machines with the same name.
    ///
    /// A clone has the same machine id but boots by itself. Listeners without instances have only the machine id.
    pub fn is_of_another_machine(&self, other: &Self) -> bool {
        let differ = |one: Option<&str>, two: Option<&str>| one.zip(two).is_some_and(|(one, two)| one != two);
        let instances = self.instance.zip(other.instance).is_some_and(|(one, two)| one != two);
        instances || differ(self.machine.as_deref(), other.machine.as_deref())
    }

    /// Whether a switch to this commit would change nothing: the last run switched to it, and nothing happened since.
    pub fn is_current(&self, commit: &Commit) -> bool {
        let is_it = |last: &LastRun| {
            last.status == Status::Completed && last.current == Some(true) && last.revision.as_ref() == Some(commit)
        };
        self.busy.is_none() && self.last.as_deref().is_some_and(is_it)
    }

    /// Whether a switch to this system would change nothing: the host runs and boots it, and no run failed or is active.
    pub fn is_current_system(&self, system: &SystemPath) -> bool {
        let has_failed = self.last.as_ref().is_some_and(|last| last.status != Status::Completed);
        self.busy.is_none()
            && !has_failed
            && self.system.as_deref() == Some(system.as_str())
            && self.next_boot_differs != Some(true)
    }

    pub fn has(&self, feature: &Feature) -> bool {
        self.features.contains(feature)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The id of the request, or its reply subject when it had none.
    #[serde(deserialize_with = "text::line")]
    pub id: String,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorCode>,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    /// Whether the system that it switched to still runs and boots next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<bool>,
}

/// The rollout that a deployer runs, as it reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    pub id: RolloutId,
    #[serde(deserialize_with = "text::line")]
    pub name: String,
    /// The operator, as `user@machine`.
    #[serde(deserialize_with = "text::line")]
    pub operator: String,
    pub tiers: Vec<Tier>,
    /// The current wave, counted from 1.
    pub wave: usize,
    pub waves: usize,
    pub since: Timestamp,
}

impl Problem {
    /// Creates a problem. A message that is too long is cut.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = clean_line(&message.into());
        message.truncate(message.floor_char_boundary(MAX_PROBLEM_BYTES));
        Self { code: clean_line(&code.into()), message }
    }
}

/// Reads at most [`MAX_PROBLEMS`] problems and cuts them: another program may send any number of any length.
fn first_problems<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Problem>, D::Error> {
    let problems = text::list::<D, Problem>(deserializer)?.into_iter().take(MAX_PROBLEMS);
    Ok(problems.map(|problem| Problem::new(problem.code, problem.message)).collect())
}

/// Reads an optional value, and takes one that cannot be read for none: another version may write it differently.
fn if_readable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Readable<T> {
        Yes(T),
        No(IgnoredAny),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(Readable::Yes(value)) => Some(value),
        Some(Readable::No(_)) | None => None,
    })
}

impl DiscoveryRequest {
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        from_json(bytes)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl DiscoveryAnswer {
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        // serde copies an untagged enum before it tries the variants, and nearly all answers are those of hosts.
        from_json(bytes).map(Self::Host).or_else(|_| from_json(bytes))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{COMMIT, at, text};

    #[test]
    fn a_last_run_of_another_version_does_not_hide_the_host() {
        let last = |last: &str| {
            let answer = format!(r#"{{"hostname":"ns1","tier":"prod","deploy_subjects":[],"last":{last}}}"#);
            match DiscoveryAnswer::parse(answer.as_bytes()).unwrap() {
                DiscoveryAnswer::Host(host) => host.last,
                DiscoveryAnswer::Operator { .. } => panic!("not a host"),
            }
        };
        assert!(last(r#"{"id":"r-0","status":"completed","at":"2026-11-23T10:00:00Z"}"#).is_some());
        for unreadable in [r#"{"id":"r-0","status":"superseded","at":"2026-11-23T10:00:00Z"}"#, "[]", "7", "null"] {
            assert_eq!(last(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn golden_discovery() {
        let request =
            DiscoveryRequest { reply_to: ReplySubject::single(Uuid::nil()), tier: Some(Tier::Prod), per_host: false };
        insta::assert_snapshot!(text(&request.to_bytes()), @r#"{"reply_to":"deploy.responses.00000000-0000-0000-0000-000000000000","tier":"prod"}"#);

        let bare =
            r#"{"hostname":"ns1","tier":"prod","role":"dns","deploy_subjects":["deploy.prod.ns1","deploy.prod.all"]}"#;
        let DiscoveryAnswer::Host(host) = DiscoveryAnswer::parse(bare.as_bytes()).unwrap() else {
            panic!("not a host")
        };
        assert_eq!(text(&DiscoveryAnswer::Host(host.clone()).to_bytes()), bare);

        let full = DiscoveryAnswer::Host(Box::new(HostReport {
            version: Some("0.1.0".to_owned()),
            features: vec![Feature::Id],
            flake: Some("git+https://git.example.com/nixos".parse().unwrap()),
            instance: Some(Uuid::nil()),
            machine: Some("6f1c".to_owned()),
            revision: Some(COMMIT.parse().unwrap()),
            generation: Some(42),
            system: Some("/nix/store/x".to_owned()),
            booted_system_differs: Some(false),
            uptime_s: Some(86_400),
            busy: Some(Box::new(BusyWith { id: "r-1".to_owned(), operator: None, since: at("2026-11-23T10:00:00Z") })),
            last: Some(Box::new(LastRun {
                id: "r-0".to_owned(),
                status: Status::Failed,
                error: Some(ErrorCode::BuildFailed),
                at: at("2026-11-23T10:00:00Z"),
                revision: Some(COMMIT.parse().unwrap()),
                current: Some(false),
            })),
            problems: vec![Problem::new("no_git", "git is not on the PATH")],
            ..*host
        }));
        insta::assert_snapshot!(text(&full.to_bytes()), @r#"{"hostname":"ns1","tier":"prod","role":"dns","deploy_subjects":["deploy.prod.ns1","deploy.prod.all"],"version":"0.1.0","features":["id"],"flake":"git+https://git.example.com/nixos","instance":"00000000-0000-0000-0000-000000000000","machine":"6f1c","revision":"8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b","generation":42,"system":"/nix/store/x","booted_system_differs":false,"uptime_s":86400,"busy":{"id":"r-1","since":"2026-11-23T10:00:00Z"},"last":{"id":"r-0","status":"failed","error":"build_failed","at":"2026-11-23T10:00:00Z","revision":"8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b","current":false},"problems":[{"code":"no_git","message":"git is not on the PATH"}]}"#);
        assert_eq!(DiscoveryAnswer::parse(&full.to_bytes()).unwrap(), full);
    }

    #[test]
    fn golden_presence_of_a_rollout() {
        let answer = DiscoveryAnswer::Operator {
            rollout: RolloutReport {
                id: RolloutId::from(Uuid::nil()),
                name: "sunday".to_owned(),
                operator: "ops@desk".to_owned(),
                tiers: vec![Tier::Test, Tier::Prod],
                wave: 2,
                waves: 5,
                since: at("2026-11-23T10:00:00Z"),
            },
        };
        insta::assert_snapshot!(text(&answer.to_bytes()), @r#"{"rollout":{"id":"00000000-0000-0000-0000-000000000000","name":"sunday","operator":"ops@desk","tiers":["test","prod"],"wave":2,"waves":5,"since":"2026-11-23T10:00:00Z"}}"#);
        assert_eq!(DiscoveryAnswer::parse(&answer.to_bytes()).unwrap(), answer);
    }

    #[test]
    fn a_host_whose_subjects_are_patterns_is_there() {
        let subjects = |json: &str| {
            let json = format!(r#"{{"hostname":"a","tier":"test","role":"","deploy_subjects":{json}}}"#);
            let DiscoveryAnswer::Host(host) = DiscoveryAnswer::parse(json.as_bytes()).unwrap() else {
                panic!("not a host")
            };
            host.deploy_subjects.iter().map(Subject::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(subjects(r#"["deploy.test.>", "deploy.test.a", "deploy.test.role.*", ""]"#), "deploy.test.a");
        assert_eq!((subjects("null"), subjects("[]")), (String::new(), String::new()));
        let null = r#"{"hostname":"a","tier":"test","features":null,"problems":null}"#;
        assert!(DiscoveryAnswer::parse(null.as_bytes()).is_ok(), "a host of another program is not hidden");
        let question = |tier: &str| {
            let json = format!(r#"{{"reply_to":"deploy.responses.x","tier":{tier}}}"#);
            DiscoveryRequest::parse(json.as_bytes()).map(|question| question.tier)
        };
        assert_eq!((question(r#""""#).unwrap(), question("null").unwrap()), (None, None));
        assert_eq!(question(r#""prod""#).unwrap(), Some(Tier::Prod));
        assert!(question(r#""staging""#).is_err());
    }

    #[test]
    fn a_host_without_a_role_is_read_however_that_is_written() {
        for role in [r#","role":"""#, r#","role":null"#, ""] {
            let json = format!(r#"{{"hostname":"a","tier":"test"{role},"deploy_subjects":[]}}"#);
            let DiscoveryAnswer::Host(host) = DiscoveryAnswer::parse(json.as_bytes()).unwrap() else {
                panic!("not a host")
            };
            assert_eq!(host.role, None);
        }
    }
}
