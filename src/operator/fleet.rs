//! NATS behind two channels: what the executor wants said goes in, what the hosts say comes out.

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

/// How many inputs may wait for the executor. Beyond that they wait in the subscription, which is far larger.
const INPUTS: usize = 4096;

/// The executor's ends of the two channels.
#[derive(Debug)]
pub struct Fleet {
    pub orders: OrderSender,
    pub news: mpsc::Receiver<FleetEvent>,
}

/// The other ends: those of [`FleetTask::serve`], or of a test.
#[derive(Debug)]
pub struct FleetEnd {
    pub orders: OrderReceiver,
    pub news: mpsc::Sender<FleetEvent>,
}

/// Where the executor puts what is to be said. There is always room, so that the two sides never wait for each other.
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

/// How many orders were put there and not taken yet.
#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    none: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    Publish(Dispatch),
    CallRoll,
    /// Have the server prove that it has read all that was published before: [`FleetEvent::Proved`] comes back.
    Prove,
    /// Tell other operators, when they call the roll, that this rollout runs: for each tier what concerns that one.
    Announce(Vec<RolloutReport>),
    /// Say [when](FleetEvent::LogsRead) all that the runs have written was read.
    FinishLogs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetEvent {
    Input(Input),
    /// The server has read all that was published, and what it had sent before was passed on.
    Proved,
    /// The server refuses something that the rollout cannot do without.
    Refused(Violation),
    /// A run has written these lines.
    Log {
        /// On this host.
        host: HostName,
        /// Clean enough for a terminal.
        lines: Vec<String>,
    },
    /// Nothing is left to read of the logs.
    LogsRead,
}

/// Where the roll is called, and for how long answers are awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The subject to ask on; hosts of one tier are asked on one below it as well.
    pub subject: Subject,
    /// How long answers are waited for, where that was said. Else it is two seconds, or less where all have answered that
    /// are expected.
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
    /// Two channels that are not connected to anything yet.
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
    /// Has something said; an error when there is nobody any more who would.
    pub fn send(&self, order: Outbound) -> Result<(), SendError<Outbound>> {
        self.waiting.count.fetch_add(1, Ordering::Relaxed);
        self.orders.send(order)
    }

    /// How much was not taken yet of what was to be said.
    pub fn not_taken(&self) -> usize {
        self.waiting.count.load(Ordering::Relaxed)
    }

    /// Waits until all was taken that was to be said. More than that is better prepared then than kept in memory.
    pub async fn all_taken(&self) {
        while self.not_taken() > 0 {
            self.waiting.none.notified().await;
        }
    }
}

impl OrderReceiver {
    /// What is to be said next; nothing any more when the executor is gone.
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
