//! The listener of a host: it takes requests and says how they go.
//!
//! Nothing that is slow or that may end badly happens in the process that serves NATS. A run is a process of its own,
//! with a [`supervisor`] that outlives the listener, and all that both know of each other is in files: a switch that
//! restarts the listener does not touch the run, and the new listener takes it up where it is.
//!
//! ```text
//! request ─► admission (pure) ─► run directory ─► supervisor ─► lookup, nixos-rebuild, verdict (pure)
//!                ▲                                    │
//!             ledger ◄───── phase, commit, result ◄───┘
//! ```

mod activation_lock;
mod admission;
mod allowance;
mod exporter;
mod failing;
mod history;
mod host;
mod inbox;
mod instance;
mod launch;
mod metrics;
mod missing_result;
mod output;
mod problems;
mod publisher;
mod rebuild;
mod rebuild_flag;
mod report;
mod rights;
mod run;
mod serve;
mod snapshot;
mod state_dir;
mod status_reporting;
pub mod supervisor;
mod surroundings;
mod system_key;
mod unit;
mod verdict;
mod watchdog;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use self::exporter::Exporter;
use self::history::RequestHistory;
use self::host::Host;
pub use self::inbox::SUBSCRIPTION_CAPACITY;
use self::metrics::Metrics;
pub use self::rebuild_flag::RebuildFlag;
pub use self::run::{Limits, UserUnits};
use self::serve::{Past, Service};
use self::state_dir::StateDir;
pub use self::state_dir::StateError;
use self::status_reporting::StatusReporting;
pub use self::surroundings::{ask, missing};
pub use self::system_key::SystemKey;
pub use self::unit::UnitEnd;
pub use self::watchdog::Watchdog;
use crate::bus::{Bus, BusError, Settings};
use crate::protocol::{FlakeAttr, FlakeUrl, HostName, Role, Subject, SubjectError, SubjectTemplate, Tier};

/// Where the names that are made up here come from, so that they meet no others.
const NAMESPACE: Uuid = Uuid::from_u128(0x7d3c_2c52_54a1_4c0e_9d5f_686f_6d65_6c61);

/// How long systemd waits for a listener that finds no server, until it takes it for up.
const UP_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Config {
    pub hostname: HostName,
    pub tier: Tier,
    pub role: Option<Role>,
    pub flake: FlakeUrl,
    /// The name of the configuration in the flake; absent where it is that of the host.
    pub flake_attr: Option<FlakeAttr>,
    /// What is added to each call of `nixos-rebuild`.
    pub rebuild_flags: Vec<RebuildFlag>,
    /// The keys one of which has signed each system that is taken from elsewhere; without any, none is taken.
    pub system_keys: Vec<SystemKey>,
    /// The subjects on which requests are taken.
    pub deploy_subjects: Vec<Subject>,
    pub discover_subject: Subject,
    pub limits: Limits,
    /// What becomes of a run after which units of a user fail.
    pub user_units: UserUnits,
    /// How often a run that goes on is reported.
    pub heartbeat: Duration,
    /// The address to serve Prometheus metrics on; off when absent.
    pub metrics_listen: Option<SocketAddr>,
    /// Where runs and what is known of them are kept.
    pub state_dir: PathBuf,
    /// A directory in memory, which is emptied at each boot of the host and has room whatever fills the disks: for what must be
    /// known for sure. Without one the state directory has it.
    pub runtime_dir: Option<PathBuf>,
    /// The program that supervises a run; it is called with `supervise` and the directory of the run.
    pub supervisor: PathBuf,
    /// Where the host's file system begins; `/` but for tests.
    pub root: PathBuf,
}

#[derive(Debug, Error, Diagnostic)]
pub enum ListenerError {
    /// It cannot keep what it must remember.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
    /// It cannot connect, and trying again would not help.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Bus(#[from] BusError),
    #[error("the server has refused this key for a minute")]
    #[diagnostic(help(
        "the key was changed on the server, or the user removed: a listener that is started again reads the seed file anew, as \
         systemd does for its service"
    ))]
    LockedOut,
    #[error("cannot bind the metrics address {0}: {1}")]
    #[diagnostic(help("--metrics-listen takes a free address of this machine, as in 127.0.0.1:9811"))]
    Metrics(SocketAddr, #[source] io::Error),
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
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

/// Serves until told to stop. A run that goes on then is left to itself and its supervisor.
pub async fn listen(
    config: Config,
    settings: &Settings,
    mut pulse: Watchdog,
    stop: impl Future<Output = ()>,
) -> Result<(), ListenerError> {
    let (memory, mut recalled) = StateDir::open(&config.state_dir, config.runtime_dir.as_deref())?;
    let mut ledger = RequestHistory::new(config.hostname.clone());
    for (spec, response) in recalled.finals.drain(..) {
        ledger.ended(spec, response);
    }
    for (name, end) in recalled.damaged.drain(..) {
        ledger.damaged(name, end);
    }
    let mut metrics = Metrics::new();
    metrics.recall(&ledger);
    let (metrics, watched) = watch::channel(metrics);
    let mut beside = JoinSet::new();
    if let Some(address) = config.metrics_listen {
        let exporter = Exporter::bind(address, watched, Host::new(config.root.clone())).await;
        beside.spawn(exporter.map_err(|error| ListenerError::Metrics(address, error))?.serve());
    }

    let mut stop = pin!(stop);
    let bus = tokio::select! {
        bus = connect(settings, &mut pulse) => bus?,
        () = &mut stop => return Ok(()),
    };
    let past = Past { memory, ledger, recalled };
    // On the heap, since every future above would hold all of the loop's otherwise.
    Box::pin(
        Service::new(config, bus.client, bus.renewal, past, StatusReporting { pulse, metrics }).serve(bus.events, stop),
    )
    .await
}

/// Connects, however long it takes.
///
/// systemd takes the service for up after a moment anyway. A listener that waits for its server does all that it can;
/// were it not up, the boot and every switch would wait with it, and the server may well be what they are about to start.
async fn connect(settings: &Settings, pulse: &mut Watchdog) -> Result<Bus, BusError> {
    let mut connecting = pin!(Bus::connect_patiently(settings));
    let mut moment = pin!(sleep(UP_WITHIN));
    loop {
        tokio::select! {
            bus = &mut connecting => return bus,
            () = &mut moment, if !pulse.is_up() => {
                pulse.status("no NATS server can be reached, trying again".to_owned());
                pulse.up();
            }
            () = pulse.due() => pulse.beat(),
        }
    }
}
