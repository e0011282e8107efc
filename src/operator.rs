//! Drives a rollout from the operator's machine. The pure machine of [`crate::rollout`] decides; this module does the
//! work: it publishes requests, calls the roll, looks up revisions and runs checks.
//!
//! It does not depend on the listener, the command line or any display.

pub mod background;
pub mod commits;
pub mod discovery;
pub mod driver;
pub mod flake;
pub mod fleet;
pub mod journal;
pub mod nix;
pub mod plan_file;
pub mod preflight;
pub mod prepare;
mod programs;
pub mod rollback;
#[cfg(test)]
pub(crate) mod testing;

pub use commits::{History, UnresolvedError, resolve_revision};
pub use discovery::{Awaited, Discovered, Discovery, FleetError, KnownHosts, RollCall};
pub use driver::{DriveError, Driver, Reporter};
pub use fleet::{Fleet, FleetTask, LogError, LogLines, LogReader, LogView};
pub use nix::{BuildOptions, NixError, SystemsFrom};
pub use preflight::PreflightError;
pub use prepare::{
    OperatorContext, PrepareError, PrepareOptions, Prepared, RollCallResult, RolloutKind, WaveSelection,
};
pub use rollback::{RollbackError, RollbackPlan};
