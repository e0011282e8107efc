//! The one vocabulary of what happens in a rollout: displays, `--json` and the journal are all folds over it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::description::Rollout;
use crate::plan::Hook;
use crate::protocol::{Commit, HostName, Phase, RequestId, Response, Status, Tier};

/// Something that happened, and when by the operator's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The rollout begins; all that follows is about what is settled here.
    Begun(Arc<Rollout>),
    /// The rollout is taken up again where it was left. What is not completed and not in flight is to be done anew.
    Resumed,
    /// The operator is asked whether the wave may begin.
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
        /// How many requests the host has been sent with this one.
        attempt: u32,
    },
    Accepted {
        host: HostName,
    },
    /// The host runs it; repeated when the phase changes.
    Started {
        host: HostName,
        /// What it is doing, where it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
    },
    /// The host was unreachable or busy, and will be asked again.
    Retrying {
        host: HostName,
        #[serde(flatten)]
        outcome: HostOutcome,
        /// How long until it is asked again, in seconds.
        #[serde(rename = "delay_s", with = "seconds")]
        delay: Duration,
    },
    /// What has become of a host. There is exactly one of these for each host.
    Final {
        host: HostName,
        #[serde(flatten)]
        outcome: HostOutcome,
        /// The host's own last word, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response: Option<Arc<Response>>,
    },
    /// A request to return to what ran before is about to be published: the host completed, and its wave failed.
    Returning {
        host: HostName,
        request: RequestId,
    },
    /// What has become of a host that was asked to return: it completed when it did.
    Returned {
        host: HostName,
        #[serde(flatten)]
        outcome: HostOutcome,
        /// The host's own last word, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response: Option<Arc<Response>>,
    },
    /// Too many hosts of the wave have failed: nothing new is sent, hosts in flight are awaited.
    Draining {
        wave: WaveIndex,
        #[serde(flatten)]
        cause: FailureReason,
    },
    /// The wave's hosts are done, and it is left running for a while.
    Baking {
        wave: WaveIndex,
        /// For how much longer, in seconds.
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
    Interrupted {
        how: Interrupt,
    },
    /// The connection to the bus went down or came back.
    Connection {
        state: Connection,
    },
    /// A host has found the commit, which every later request carries. Only records of earlier versions have this: today a
    /// host never chooses the commit of others.
    Resolved {
        /// The host, which was asked before all others.
        host: HostName,
        revision: Commit,
    },
    /// A host of a group of the plan answers that did not when the hosts were settled. It is not deployed.
    TurnedUp {
        host: HostName,
        /// The wave that it would have been in.
        wave: WaveIndex,
    },
    /// Something that should not be, and that changed nothing.
    #[serde(rename = "anomaly")]
    UnexpectedResponse {
        host: HostName,
        #[serde(flatten)]
        anomaly: UnexpectedResponse,
    },
    /// A program on the operator's machine was to be told of the rollout, in vain. That changes nothing.
    HookFailed {
        hook: Hook,
        reason: String,
    },
    Ended {
        outcome: Outcome,
    },
}

/// Writes events as JSON objects: what serde makes of them, without the copies that a flattened field costs. Many events
/// happen at the same time, which is written out once.
#[derive(Debug, Default)]
pub struct EventWriter {
    time: Option<Timestamp>,
    /// All of an object that comes before what happened.
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
        // What happened is an object too, and never an empty one: its fields go on where the time ends.
        if let Some(brace) = json.get_mut(kind_begins) {
            *brace = b',';
        }
        Ok(())
    }
}

impl EventKind {
    /// Whether a rollout cannot be understood or resumed without this event. All others show progress.
    pub const fn is_fact(&self) -> bool {
        !matches!(self, Self::Accepted { .. } | Self::Started { .. } | Self::Connection { .. })
    }
}

/// A wave by its place in the plan. People and JSON count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaveIndex(pub usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "cause", rename_all = "snake_case")]
pub enum HostOutcome {
    /// It runs what it was asked to.
    Completed,
    /// It was not asked, since it runs and boots already what it would have been asked for. As good as completed.
    Current,
    Failed,
    Rejected,
    Unreachable,
    /// It answered, and did not finish in time.
    TimedOut,
    Skipped(SkipReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Too many hosts of its wave had failed. Earlier versions also halted a wave whose first host named no commit.
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
    /// The check says that the hosts are not well.
    CheckFailed {
        reason: String,
    },
    /// The connection to the bus was gone for longer than a host may take.
    Disconnected,
    /// A host of an earlier wave that had completed turned out to be two machines.
    TwoMachines {
        host: HostName,
    },
    /// A cause that only another version of this program knows.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum WaveVerdict {
    /// Its hosts are as they should be.
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
    /// A wave asks first, and there was nobody to answer.
    Paused,
}

/// How urgently the operator wants to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interrupt {
    /// Send nothing new, and wait for the hosts in flight.
    Drain,
    /// Leave at once. What runs on the hosts goes on.
    Abort,
}

/// The state of the connection to the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    Up,
    Down,
}

/// Something that should not be, and that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "anomaly", rename_all = "snake_case")]
pub enum UnexpectedResponse {
    /// The host answered after it had been given up.
    Late { status: Status },
    /// The host said one final thing and then another.
    Conflict { status: Status },
    /// Another host answered in its place: by the subject of the answer, or by the name in it.
    #[serde(rename = "impostor")]
    WrongHost {
        said: HostName,
        /// Its tier, where that is another one than the host's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<Tier>,
    },
    /// The answer names another request than the one on whose subject it came, or none although the listener supports ids.
    AnotherRequest,
    /// Two machines answer under its name, so nobody knows what became of either: the host has failed.
    TwoMachines,
}

impl HostOutcome {
    /// The outcome that a final status means.
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

/// Durations as a number of seconds.
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
