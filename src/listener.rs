//! The listener of a host: it takes requests and says how they go.
//!
//! Nothing that is slow or that may end badly happens in the process that serves NATS. A run is a process of its own,
//! with a [`supervisor`] that outlives the listener, and all that both know of each other is in files: a switch that
//! restarts the listener does not touch the run, and the new listener takes it up where it is.
//!
//! ```text
//! request ─► admission (pure) ─► run directory ─► supervisor ─► nixos-rebuild
//!                ▲                                    │ result, output, phase
//!             ledger ◄──────────── verdict (pure) ◄───┘
//! ```

mod admission;
mod busy;
mod host;
mod launch;
mod ledger;
mod loss;
mod memory;
mod output;
mod rebuild;
mod report;
mod run;
mod serve;
pub mod supervisor;
mod unit;
mod verdict;
mod voice;

use std::path::PathBuf;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use self::memory::Memory;
pub use self::memory::StateError;
pub use self::run::Limits;
use self::serve::Service;
pub use self::unit::UnitEnd;
use crate::bus::{Bus, BusError, Settings};
use crate::protocol::{FlakeUrl, HostName, Role, Subject, SubjectError, SubjectTemplate, Tier};

/// Where the names that are made up here come from, so that they meet no others.
const NAMESPACE: Uuid = Uuid::from_u128(0x7d3c_2c52_54a1_4c0e_9d5f_686f_6d65_6c61);

/// What a listener is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The host, and the name of its configuration in the flake.
    pub hostname: HostName,
    /// The tier of the host.
    pub tier: Tier,
    /// Its role.
    pub role: Option<Role>,
    /// The flake that is deployed.
    pub flake: FlakeUrl,
    /// The subjects on which requests are taken.
    pub deploy_subjects: Vec<Subject>,
    /// The subject on which it is asked who is there.
    pub discover_subject: Subject,
    /// How long a run may take.
    pub limits: Limits,
    /// How often a run that goes on is reported.
    pub heartbeat: Duration,
    /// Where runs and what is known of them are kept.
    pub state_dir: PathBuf,
    /// The program that supervises a run; it is called with `supervise` and the directory of the run.
    pub supervisor: PathBuf,
    /// Where the host's file system begins; `/` but for tests.
    pub root: PathBuf,
}

/// Why a listener does not run.
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
    /// The connection cannot be used.
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
pub async fn listen(config: Config, settings: &Settings, stop: impl Future<Output = ()>) -> Result<(), ListenerError> {
    let (memory, recalled) = Memory::open(&config.state_dir)?;
    let mut stop = std::pin::pin!(stop);
    let bus = tokio::select! {
        bus = Bus::connect_patiently(settings) => bus?,
        () = &mut stop => return Ok(()),
    };
    Service::new(config, bus.client, memory, recalled).serve(bus.events, stop).await
}
