//! The listener of a host: accepts requests, runs them, and reports their progress and end.
//!
//! The process that serves NATS does nothing slow or risky. Each run has a [`supervisor`], a process that outlives the
//! listener. They only share files: a switch that restarts the listener does not touch the run, and the new one takes
//! it up.
//!
//! ```text
//! request ─► admission (pure) ─► run directory ─► supervisor ─► lookup and nixos-rebuild, or fetch; verdict (pure)
//!                ▲                                    │
//!             history ◄──── phase, commit, result ◄───┘
//! ```

mod config;
mod nixos;
mod output;
mod run;
mod service;
pub mod supervisor;
mod systemd;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

pub use self::config::{Config, RebuildFlag, RunSettings, SystemKey, UserUnits, deploy_subjects};
use self::nixos::Host;
pub use self::run::UnitEnd;
use self::service::Service;
pub use self::service::discovery::{flake_problem, missing};
use self::service::history::RequestHistory;
pub use self::service::inbox::SUBSCRIPTION_CAPACITY;
use self::service::metrics::{self, Metrics};
use self::service::state_dir::StateDir;
pub use self::service::state_dir::StateError;
pub use self::systemd::Systemd;
use crate::bus::{Bus, BusError, Settings};

/// The namespace of all UUIDs that the listener derives from names.
const NAMESPACE: Uuid = Uuid::from_u128(0x7d3c_2c52_54a1_4c0e_9d5f_686f_6d65_6c61);

/// The time after which a listener without a server reports itself as up to systemd.
const UP_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Error, Diagnostic)]
pub enum ListenerError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Bus(#[from] BusError),
    #[error("the server has refused this key for a minute")]
    #[diagnostic(help(
        "the server's configuration has another key, or none, for this host: a listener that is started again reads \
         the seed file anew, and systemd starts it again"
    ))]
    LockedOut,
    #[error("cannot bind the metrics address {0}: {1}")]
    #[diagnostic(help("--metrics-listen takes a free address of this machine, as in 127.0.0.1:9811"))]
    Metrics(SocketAddr, #[source] io::Error),
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// Serves until `stop` resolves. A run that is still going is left to its supervisor.
pub async fn listen(
    config: Config,
    settings: &Settings,
    mut systemd: Systemd,
    stop: impl Future<Output = ()>,
) -> Result<(), ListenerError> {
    let history = RequestHistory::new(config.run.host.clone());
    let recovered = StateDir::open(&config.state_dir, config.runtime_dir.as_deref(), history)?;
    let (sender, watched) = watch::channel(Metrics::of(&recovered.history));
    let mut tasks = JoinSet::new();
    if let Some(address) = config.metrics_listen {
        let socket = TcpListener::bind(address).await.map_err(|error| ListenerError::Metrics(address, error))?;
        tracing::info!("metrics on http://{}/metrics", socket.local_addr().unwrap_or(address));
        tasks.spawn(metrics::serve(socket, watched, Host::new(config.run.root.clone())));
    }

    let mut stop = pin!(stop);
    let bus = tokio::select! {
        bus = connect(settings, &mut systemd) => bus?,
        () = &mut stop => return Ok(()),
    };
    // Boxed, since every caller's future would otherwise contain that of the loop.
    Box::pin(Service::new(config, (bus.client, bus.renewal), recovered, systemd, sender).serve(bus.events, stop)).await
}

/// Connects to the server, however long it takes.
///
/// After a moment the listener tells systemd that it is up even without a connection. Otherwise the boot and every
/// switch would wait with it, and the server may be what they are about to start.
async fn connect(settings: &Settings, systemd: &mut Systemd) -> Result<Bus, BusError> {
    let mut connecting = pin!(Bus::connect_patiently(settings));
    let mut moment = pin!(sleep(UP_WITHIN));
    loop {
        tokio::select! {
            bus = &mut connecting => return bus,
            () = &mut moment, if !systemd.is_up => {
                systemd.status("no NATS server can be reached, trying again".to_owned());
                systemd.ready();
            }
            () = systemd.beat_due() => systemd.beat(),
        }
    }
}
