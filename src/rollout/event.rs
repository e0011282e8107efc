//! The events of a rollout. The journal, `--json` and all displays are folds over them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::description::Rollout;
use crate::plan::Hook;
use crate::protocol::{Commit, HostName, Phase, RequestId, Response, Status, Tier};
use crate::text::words;

/// An event and its time by the operator's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The rollout begins; all later events refer to this description.
    Begun(Arc<Rollout>),
    /// The rollout is resumed. Hosts that are neither completed nor in flight become pending again.
    Resumed,
    AwaitingConfirmation {
        wave: WaveIndex,
    },
    WaveStarted {
        wave: WaveIndex,
    },
    /// A request is about to be published.
    Dispatched {
        host: HostName,
        request: RequestId,
        /// How many requests the host has been sent, including this one.
        attempt: u32,
    },
    Accepted {
        host: HostName,
    },
    /// The host runs the request; repeated when the phase changes.
    Started {
        host: HostName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
    },
    /// The host was unreachable or busy, and will be sent a new request.
    Retrying {
        host: HostName,
        #[serde(flatten)]
        outcome: HostOutcome,
        /// The delay until the new request, in seconds.
        #[serde(rename = "delay_s", with = "seconds")]
        delay: Duration,
    },
    /// The outcome of a host, recorded once for each host. Only `Resumed` and `Staged` make a host pending again.
    Final {
        host: HostName,
        #[serde(flatten)]
        outcome: HostOutcome,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response: Option<Arc<Response>>,
    },
    /// A rollback request is about to be published: the host completed, but its wave failed.
    #[serde(rename = "returning")]
    RollingBack {
        host: HostName,
        request: RequestId,
    },
    /// The outcome of a host's rollback: `Completed` if the host rolled back.
    #[serde(rename = "returned")]
    RollbackEnded {
        host: HostName,
        #[serde(flatten)]
        outcome: HostOutcome,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response: Option<Arc<Response>>,
    },
    /// The wave fails because of `cause`: it sends no further requests and waits for its hosts in flight.
    Draining {
        wave: WaveIndex,
        #[serde(flatten)]
        cause: FailureReason,
    },
    /// All hosts of the wave are final, and its bake time runs.
    Baking {
        wave: WaveIndex,
        /// The rest of the bake time, in seconds.
        #[serde(rename = "for_s", with = "seconds")]
        remaining: Duration,
    },
    Checking {
        wave: WaveIndex,
    },
    WaveEnded {
        wave: WaveIndex,
        #[serde(flatten)]
        verdict: WaveVerdict,
    },
    /// All hosts fetched their systems. None has changed yet; each is deployed in its own wave next.
    Staged,
    Interrupted {
        how: Interrupt,
    },
    Connection {
        state: Connection,
    },
    /// A host resolved the revision to a commit, which all later requests carry. Only journals of earlier versions have
    /// this event: today a host never chooses the commit of others.
    Resolved {
        /// The host that was sent its request before all others.
        host: HostName,
        revision: Commit,
    },
    /// A host of one of the plan's groups answered only after the plan was resolved. It is not deployed.
    #[serde(rename = "turned_up")]
    AnsweredLate {
        host: HostName,
        wave: WaveIndex,
    },
    /// A response that was not expected. Only [`UnexpectedResponse::TwoMachines`] changes the outcome of a host.
    #[serde(rename = "anomaly")]
    UnexpectedResponse {
        host: HostName,
        #[serde(flatten)]
        anomaly: UnexpectedResponse,
    },
    /// A hook, a program on the operator's machine, failed. That does not affect the rollout.
    HookFailed {
        hook: Hook,
        reason: String,
    },
    Ended {
        outcome: Outcome,
    },
}

/// Writes events as the JSON objects that serde would write, without the copies that a flattened field costs. Many
/// events share a time, which is serialized only once.
#[derive(Debug, Default)]
pub struct EventWriter {
    time: Option<Timestamp>,
    /// The beginning of an object, up to the fields of the kind.
    head: Vec<u8>,
}

impl EventWriter {
    pub fn write(&mut self, event: &Event, json: &mut Vec<u8>) -> serde_json::Result<()> {
        if self.time != Some(event.at) {
            self.time = Some(event.at);
            self.head.clear();
            self.head.extend_from_slice(b"{\"at\":");
            serde_json::to_writer(&mut self.head, &event.at)?;
        }
        json.extend_from_slice(&self.head);
        let kind_begins = json.len();
        serde_json::to_writer(&mut *json, &event.kind)?;
        // The kind is an object too, and never empty: its opening brace becomes the comma after the time.
        if let Some(brace) = json.get_mut(kind_begins) {
            *brace = b',';
        }
        Ok(())
    }
}

impl EventKind {
    /// Whether a rollout cannot be understood or resumed without this event. All others only show progress.
    pub const fn is_fact(&self) -> bool {
        !matches!(self, Self::Accepted { .. } | Self::Started { .. } | Self::Connection { .. })
    }
}

/// A wave by its place in the plan. People and JSON count from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaveIndex(pub usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "cause", rename_all = "snake_case")]
pub enum HostOutcome {
    /// The host did what the request asked.
    Completed,
    /// The host was sent no request because it already runs and boots the requested system. Counts as completed.
    Current,
    Failed,
    Rejected,
    Unreachable,
    /// The host responded but did not finish in time.
    TimedOut,
    Skipped(SkipReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Too many hosts of its wave failed, or (in earlier versions) its first host did not resolve the commit.
    #[serde(alias = "unresolved")]
    WaveHalted,
    EarlierWave,
    Interrupt,
    NotConfirmed,
    /// The connection to the bus was gone for longer than a host may take.
    Disconnected,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum FailureReason {
    TooManyFailures {
        failures: usize,
        max_failures: usize,
    },
    TooFewCompleted {
        completed: usize,
        min_hosts: usize,
    },
    CheckFailed {
        reason: String,
    },
    /// The connection to the bus was gone for longer than a host may take.
    Disconnected,
    /// A host that completed in an earlier wave turned out to be two machines.
    TwoMachines {
        host: HostName,
    },
    /// A reason that only another version of this program knows.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum WaveVerdict {
    Succeeded,
    Failed(FailureReason),
    Interrupted,
    Skipped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Failed,
    Interrupted,
    Declined,
    /// A wave needs a confirmation, and nobody could give it.
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interrupt {
    /// Send nothing new, and wait for the hosts in flight.
    Drain,
    /// Leave at once. The hosts go on with what they run.
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "anomaly", rename_all = "snake_case")]
pub enum UnexpectedResponse {
    /// The host responded after the rollout had given it up.
    Late { status: Status },
    /// The host sent a second, different final response.
    Conflict { status: Status },
    /// Another host responded, by the subject of the response or by the name in it.
    #[serde(rename = "impostor")]
    WrongHost {
        said: HostName,
        /// The tier of the other host, if it differs from this host's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<Tier>,
    },
    /// The response names another request than its subject does, or none although the listener supports ids.
    AnotherRequest,
    /// Two machines respond under the host's name. The host has failed, since the state of either is unknown.
    TwoMachines,
}

impl HostOutcome {
    pub const fn of(status: Status) -> Option<Self> {
        match status {
            Status::Completed => Some(Self::Completed),
            Status::Failed => Some(Self::Failed),
            Status::Rejected => Some(Self::Rejected),
            Status::Accepted | Status::Started => None,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Current => "current",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Skipped(_) => "skipped",
        }
    }
}

words!(
    SkipReason: WaveHalted = "wave_halted", EarlierWave = "earlier_wave", Interrupt = "interrupt",
    NotConfirmed = "not_confirmed", Disconnected = "disconnected",
);

words!(
    Outcome: Succeeded = "succeeded", Failed = "failed", Interrupted = "interrupted", Declined = "declined",
    Paused = "paused",
);

impl Serialize for WaveIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0 + 1).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WaveIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = usize::deserialize(deserializer)?;
        number.checked_sub(1).map(Self).ok_or_else(|| serde::de::Error::custom("waves are counted from 1"))
    }
}

impl fmt::Display for WaveIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&(self.0 + 1), f)
    }
}

impl fmt::Display for HostOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Serializes durations as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
