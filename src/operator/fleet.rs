//! Connects the driver to NATS by two channels: outgoing messages go in, responses of hosts come out.

mod answers;
mod expected;
mod follow_logs;
mod known_hosts;
mod log;
mod presence;
mod roll_call;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{Notify, mpsc};

pub use self::follow_logs::LogWatch;
pub use self::known_hosts::{KnownHosts, fleet_name};
pub use self::log::{LogError, LogReader};
pub use self::roll_call::{Awaited, Discovered, Purpose, RollCall, SilentHost};
pub use self::task::FleetTask;
use crate::bus::Violation;
use crate::protocol::{HostName, RolloutReport, Subject, Tier};
use crate::rollout::{Dispatch, Input};

/// How many events may wait for the driver. Further ones wait in the subscription, whose buffer is far larger.
const INPUTS: usize = 4096;

/// The driver's ends of the two channels.
#[derive(Debug)]
pub struct Fleet {
    pub orders: OrderSender,
    pub news: mpsc::Receiver<FleetEvent>,
}

/// The other ends, for [`FleetTask::serve`] or a test.
#[derive(Debug)]
pub struct FleetEnd {
    pub orders: OrderReceiver,
    pub news: mpsc::Sender<FleetEvent>,
}

/// Sends messages to the fleet task. The channel is unbounded, so that neither side waits for the other.
#[derive(Debug)]
pub struct OrderSender {
    orders: mpsc::UnboundedSender<Outbound>,
    waiting: Arc<Waiting>,
}

#[derive(Debug)]
pub struct OrderReceiver {
    orders: mpsc::UnboundedReceiver<Outbound>,
    waiting: Arc<Waiting>,
}

/// The number of messages that were sent and not yet received.
#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    none: Notify,
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
    /// The server denied a permission that the rollout needs.
    Refused(Violation),
    /// Lines of a host's log.
    Log {
        host: HostName,
        /// Without control characters.
        lines: Vec<String>,
    },
    LogsRead,
}

/// The subject of the roll call and the time it waits for answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The subject of the question. Hosts of one tier are also asked on a subject below it.
    pub subject: Subject,
    /// How long to wait for answers. If not set, two seconds, or less once all expected hosts have answered.
    pub window: Option<Duration>,
    pub known: KnownHosts,
}

const WINDOW: Duration = Duration::from_secs(2);

impl Discovery {
    pub fn longest(&self) -> Duration {
        self.window.unwrap_or(WINDOW)
    }
}

impl Fleet {
    /// Creates the two channels, not connected to NATS yet.
    pub fn channels() -> (Self, FleetEnd) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let orders = OrderSender { orders: sender, waiting: Arc::clone(&waiting) };
        let orders_end = OrderReceiver { orders: receiver, waiting };
        let (news_end, news) = mpsc::channel(INPUTS);
        (Self { orders, news }, FleetEnd { orders: orders_end, news: news_end })
    }
}

impl OrderSender {
    /// Sends a message; fails if the receiver is gone.
    pub fn send(&self, order: Outbound) -> Result<(), SendError<Outbound>> {
        self.waiting.count.fetch_add(1, Ordering::Relaxed);
        self.orders.send(order)
    }

    /// Waits until all messages were received. The driver prepares more only then, to keep fewer in memory.
    pub async fn all_taken(&self) {
        while self.waiting.count.load(Ordering::Relaxed) > 0 {
            self.waiting.none.notified().await;
        }
    }
}

impl OrderReceiver {
    /// Receives the next message; `None` once the driver is gone.
    pub async fn recv(&mut self) -> Option<Outbound> {
        let order = self.orders.recv().await?;
        if self.waiting.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.waiting.none.notify_one();
        }
        Some(order)
    }
}

#[derive(Debug, Error, Diagnostic)]
pub enum FleetError {
    #[error("{0}")]
    #[diagnostic(help(
        "nothing was sent. A deployer publishes to the subjects of its tier and to deploy.discover, and hears the answers of that \
         tier; `homelab-deploy nats-config` prints such permissions for the server's configuration"
    ))]
    Refused(Violation),
    #[error("this credential may not deploy to {tier}: {violation}")]
    #[diagnostic(help(
        "nothing was sent. A deployer of a tier publishes to deploy.{tier}.>, and subscribes to deploy.responses.{tier}.>; \
         `homelab-deploy nats-config` prints such permissions for the server's configuration"
    ))]
    NotForTier { tier: Tier, violation: Violation },
    #[error("this is the key of a listener, and hosts cannot deploy")]
    #[diagnostic(help(
        "nothing was sent. Use the key of an operator, such as the keys/operator.seed that `homelab-deploy init` writes"
    ))]
    OfListener,
    #[error("the connection to NATS was lost during the roll call")]
    #[diagnostic(help("nothing was deployed; try again when the server is back"))]
    Disconnected,
}
