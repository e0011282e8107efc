//! Errors of preparing a rollout, and reasons not to begin it.

use miette::Diagnostic;
use thiserror::Error;

use super::names;
use crate::clock;
use crate::operator::flake::FlakeError;
use crate::operator::fleet::FleetError;
use crate::operator::nix::NixError;
use crate::operator::revision::UnresolvedError;
use crate::plan::PlanErrors;
use crate::protocol::{HostName, Revision, RolloutReport};
use crate::text::did_you_mean;

#[derive(Debug, Error, Diagnostic)]
pub enum PrepareError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] PlanErrors),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Flake(#[from] FlakeError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lookup(#[from] UnresolvedError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Nix(#[from] NixError),
    #[error("it is not known which flake the systems are to be built from")]
    #[diagnostic(help("set `flake` in the plan, or give --flake"))]
    NoFlake,
    #[error("two machines answer to the name {0}")]
    #[diagnostic(help("stop one listener, or rename it; `homelab-deploy hosts` shows both"))]
    TwoMachines(HostName),
}

/// A mistake in the options that select a part of a plan.
#[derive(Debug, Error, Diagnostic)]
pub enum SelectionError {
    #[error("the plan has no wave {wave:?}")]
    #[diagnostic(help("{}its waves are: {}", did_you_mean(wave, waves.iter().map(String::as_str)), waves.join(", ")))]
    NoSuchWave { wave: String, waves: Vec<String> },
    #[error("wave {0:?} is empty")]
    #[diagnostic(help("every host that it names is excluded"))]
    EmptyWave(String),
    #[error("there is no host {host} to exclude")]
    #[diagnostic(help(
        "{near}it neither answers nor is named in the plan; `homelab-deploy hosts` lists those that answer"
    ))]
    NoSuchHost { host: HostName, near: String },
    #[error("nothing is left of the plan")]
    #[diagnostic(help("every wave was for hosts that are excluded"))]
    Nothing,
}

/// A reason not to begin, which the operator may override.
#[derive(Debug, Error, Diagnostic)]
pub enum PreflightError {
    #[error(
        "{} is rolling out {:?} since {}, and is in wave {} of {}",
        .0.operator, .0.name, clock::local(.0.since, &clock::zone()), .0.wave, .0.waves
    )]
    #[diagnostic(help(
        "wait until it is over, or add --force: then hosts that are busy with the other rollout reject this one, and a \
         host that both deploy ends up with whichever comes last"
    ))]
    AnotherRollout(Box<RolloutReport>),
    #[error("{hosts} would go back in history: what runs there comes after {commit}")]
    #[diagnostic(help("deploy what comes after it, or add --allow-downgrade"))]
    Downgrade { hosts: String, commit: String },
}

impl PreflightError {
    /// Returns an error if a host runs a newer commit than `revision`.
    pub(super) fn downgrade(ahead: &[HostName], revision: &Revision) -> Option<Self> {
        let short = revision.commit().map_or_else(|| revision.to_string(), |commit| commit.short().to_owned());
        (!ahead.is_empty()).then(|| Self::Downgrade { hosts: names(ahead), commit: short })
    }
}
