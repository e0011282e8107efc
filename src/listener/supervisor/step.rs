//! What is done to a host with a system that is in its store, forwards and on the way back.

use std::process::Command;

use crate::listener::host::{Host, PROFILE};
use crate::protocol::Action;

/// A part of the way from one system to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Let the system profile point at this system.
    SetProfile(String),
    /// Let this system do this to the host.
    Activate(String, Action),
}

impl Step {
    /// What carries it out.
    pub(super) fn command(&self, host: &Host) -> Command {
        match self {
            Self::SetProfile(system) => {
                let mut command = Command::new("nix-env");
                command.arg("--profile").arg(host.at(PROFILE)).arg("--set").arg(system);
                command
            }
            Self::Activate(system, how) => {
                let mut command = Command::new(host.at(system).join("bin/switch-to-configuration"));
                command.arg(how.as_str()).env("NIXOS_INSTALL_BOOTLOADER", "0");
                command
            }
        }
    }
}
