//! Drives a rollout from the operator's machine. The pure machine of [`crate::rollout`] decides; this module does the
//! work: it publishes requests, calls the roll, looks up revisions and runs checks.
//!
//! It does not depend on the listener, the command line or any display.

pub mod check;
pub mod detach;
pub mod drive;
pub mod flake;
pub mod fleet;
pub mod history;
pub mod hooks;
pub mod journal;
pub mod nix;
pub mod plan_file;
pub mod prepare;
pub mod resumption;
pub mod revision;
pub mod rollback;
#[cfg(test)]
mod testing;

pub use drive::{DriveError, Driver};
pub use fleet::{
    Awaited, Discovered, Discovery, Fleet, FleetError, FleetTask, KnownHosts, LogError, LogReader, LogWatch, Purpose,
    RollCall,
};
pub use history::History;
pub use nix::{BuildOptions, NixError};
pub use prepare::{
    Kind, OperatorContext, Part, PreflightError, PrepareError, PrepareOptions, Prepared, RollCallResult, SystemsFrom,
};
pub use revision::{UnresolvedError, resolve_revision};
pub use rollback::{RollbackError, RollbackPlan};
