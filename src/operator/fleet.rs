//! Connects the driver to NATS by two channels: outgoing messages go in, responses of hosts come out.

mod logs;
mod task;

use tokio::sync::{Semaphore, mpsc};

pub use self::logs::{LogError, LogLines, LogReader, LogView};
pub use self::task::FleetTask;
use crate::bus::Violation;
use crate::protocol::{HostName, RolloutReport};
use crate::rollout::{Dispatch, Input};

/// How many events may wait for the driver. Further ones wait in the subscription, whose buffer is far larger.
const EVENTS: usize = 4096;

/// The driver's ends of the two channels.
#[derive(Debug)]
pub struct Fleet {
    /// Has room for any number of messages, so that neither side waits for the other.
    pub outbound: mpsc::Sender<Outbound>,
    pub events: mpsc::Receiver<FleetEvent>,
}

/// The other ends, for [`FleetTask::serve`] or a test.
#[derive(Debug)]
pub struct FleetEnd {
    pub outbound: mpsc::Receiver<Outbound>,
    pub events: mpsc::Sender<FleetEvent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    Publish(Dispatch),
    CallRoll,
    /// Ask the server for a proof that it has read everything published before; [`FleetEvent::Proved`] is the answer.
    Prove,
    /// Tell other operators who call the roll that this rollout is running. Each tier has its own report.
    Announce(Vec<RolloutReport>),
    /// Send [`FleetEvent::LogsRead`] once the hosts' logs are read to their ends.
    FinishLogs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetEvent {
    Input(Input),
    /// The server has read everything published before the request for proof, and its earlier messages were passed on.
    Proved,
    Refused(Violation),
    Log {
        host: HostName,
        /// Without control characters.
        lines: Vec<String>,
    },
    LogsRead,
}

impl Fleet {
    /// Creates the two channels, not connected to NATS yet.
    pub fn channels() -> (Self, FleetEnd) {
        let (outbound, outbound_end) = mpsc::channel(Semaphore::MAX_PERMITS);
        let (events_end, events) = mpsc::channel(EVENTS);
        (Self { outbound, events }, FleetEnd { outbound: outbound_end, events: events_end })
    }
}
