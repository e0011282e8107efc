//! Discovery: the question on the discovery subject, and what listeners and running rollouts answer.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::Not;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::flake::FlakeUrl;
use super::ids::RolloutId;
use super::names::{HostName, Role, Tier};
use super::reply_subject::{ReplySubject, Sender};
use super::response::{BusyWith, ErrorCode, Status};
use super::revision::Commit;
use super::subject::Subject;
use super::text::{self, checked_text, clean_line, empty_is_none, from_json, to_json};

pub const MAX_PROBLEMS: usize = 8;

/// The longest text of a problem, in bytes.
pub const MAX_PROBLEM_BYTES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryRequest {
    pub reply_to: ReplySubject,
    /// Only hosts of this tier answer.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Each host answers on a subject of its own, `deploy.responses.<tier>.<host>.<the last token of reply_to>`: the server
    /// lets no other key publish there. A listener that does not know this field answers on `reply_to`.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub per_host: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DiscoveryAnswer {
    /// A deployer that is running a rollout.
    Operator {
        rollout: RolloutReport,
    },
    Host(Box<HostReport>),
}

/// What a listener says of its host, and whether it is proved that the host says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostAnswer {
    #[serde(flatten)]
    pub report: Box<HostReport>,
    /// Whether the answer came on a subject on which no other key may publish. Listeners of the old form answer on one that
    /// any of them may use.
    pub proved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub hostname: HostName,
    pub tier: Tier,
    #[serde(default, deserialize_with = "empty_is_none")]
    pub role: Option<Role>,
    /// The subjects on which it takes requests. The first listeners take patterns as well, to which nothing can be sent.
    #[serde(default, deserialize_with = "text::those_that_can_be_read")]
    pub deploy_subjects: Vec<Subject>,
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the listener can do beyond the original protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// The flake it deploys from, without user name and password. One that nothing can be looked up in counts as none.
    #[serde(default, deserialize_with = "if_possible", skip_serializing_if = "Option::is_none")]
    pub flake: Option<FlakeUrl>,
    /// Tells machines apart that go by the same name: a random id, made once a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// Tells machines apart that go by the same name: a hash of the machine id, which a cloned machine shares.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The store path of the system that runs.
    #[serde(default, deserialize_with = "text::optional_line", skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether a reboot would change what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_system_differs: Option<bool>,
    /// Whether the last boot was of another kernel, initrd or kernel modules than the next, or the next is of another system than
    /// the one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_required: Option<bool>,
    /// Whether the next boot starts another system than the one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_boot_differs: Option<bool>,
    /// Whether another system runs than the one that was deployed last: somebody has switched the host by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployed_differs: Option<bool>,
    /// Since when the machine is up, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// The time by the clock of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<Box<BusyWith>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<LastRun>>,
    /// What the host lacks or found wrong: at most [`MAX_PROBLEMS`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "first_problems")]
    pub problems: Vec<Problem>,
}

/// Something that a listener lacks or found wrong, told before it spoils a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of problem it is, as one word with underscores.
    pub code: String,
    /// The same in words, at most [`MAX_PROBLEM_BYTES`] long.
    pub message: String,
}

/// What a listener can do beyond the original protocol. Features that are not known here are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// It knows request ids, and so never runs a request twice.
    Id,
    /// It refuses a request that is older than its sender wanted it to become.
    Expires,
    /// While it is at work it says so again and again.
    Heartbeat,
    /// It finds the commit of a branch itself, and names it as soon as it is found.
    Resolve,
    /// It returns to what ran before: unless it is confirmed, and when it is asked to.
    Rollback,
    /// It gives out the logs of its runs.
    Log,
    /// It deploys systems that were built elsewhere, as its configuration trusts a key that signs them.
    System,
    /// It fetches such a system without activating it.
    Fetch,
    /// A feature of another version.
    Other(Box<str>),
}

impl Feature {
    /// Those of every listener of this version.
    pub const ALWAYS: [Self; 6] = [Self::Id, Self::Expires, Self::Heartbeat, Self::Resolve, Self::Rollback, Self::Log];

    /// Those of a listener whose configuration trusts a key that signs systems.
    pub const OF_TRUST: [Self; 2] = [Self::System, Self::Fetch];

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
        let known = Self::ALWAYS.into_iter().chain(Self::OF_TRUST).find(|known| known.as_str() == name);
        Ok(known.unwrap_or_else(|| Self::Other(clean_line(name).into())))
    }
}

checked_text!(Feature);

impl HostReport {
    /// Whose report it is, as it says itself.
    pub fn sender(&self) -> Sender {
        Sender { tier: self.tier, host: self.hostname.clone() }
    }

    /// Whether another machine says this, which goes by the same name.
    ///
    /// A clone has the machine id of the first, but boots by itself; listeners that know nothing of instances have only that id.
    pub fn is_of_another_machine(&self, other: &Self) -> bool {
        let differ = |one: Option<&str>, two: Option<&str>| one.zip(two).is_some_and(|(one, two)| one != two);
        let instances = self.instance.zip(other.instance).is_some_and(|(one, two)| one != two);
        instances || differ(self.machine.as_deref(), other.machine.as_deref())
    }

    /// Whether a switch to this commit would change nothing: the last run was one, and nothing happened since.
    pub fn is_current(&self, commit: &Commit) -> bool {
        let is_it = |last: &LastRun| {
            last.status == Status::Completed && last.current == Some(true) && last.revision.as_ref() == Some(commit)
        };
        self.busy.is_none() && self.last.as_deref().is_some_and(is_it)
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
    /// Whether the system that it switched to runs and is what boots next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<bool>,
}

/// What a deployer says of the rollout that it is running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    pub id: RolloutId,
    #[serde(deserialize_with = "text::line")]
    pub name: String,
    /// The operator, as `user@machine`.
    #[serde(deserialize_with = "text::line")]
    pub operator: String,
    pub tiers: Vec<Tier>,
    /// The wave it is in, counted from 1.
    pub wave: usize,
    pub waves: usize,
    pub since: Timestamp,
}

impl Problem {
    /// A problem with a text that is cut where it is too long.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = clean_line(&message.into());
        message.truncate(message.floor_char_boundary(MAX_PROBLEM_BYTES));
        Self { code: clean_line(&code.into()), message }
    }
}

/// Reads the problems that are worth showing: another program may send any number of any length.
fn first_problems<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Problem>, D::Error> {
    let problems = Vec::<Problem>::deserialize(deserializer)?;
    Ok(problems.into_iter().take(MAX_PROBLEMS).map(|problem| Problem::new(problem.code, problem.message)).collect())
}

/// What another version may spell in a way that is not known here, and that can be done without.
fn if_possible<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()))
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
    /// Reads an answer of a listener or of a deployer.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        // Of an untagged enum serde makes a copy before it tries the variants, and nearly all answers are those of hosts.
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
