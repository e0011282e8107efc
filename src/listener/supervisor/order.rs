//! What `nixos-rebuild` is told to do.

use std::process::Command;

use crate::lookup::Remote;
use crate::protocol::{FlakeUrl, HostName, Revision};

/// One system of a flake, as `nixos-rebuild` is told of it. Every user of the machine can read a command line, and so no
/// password stands on one: git has it from its environment.
#[derive(Debug)]
pub(super) struct Order {
    installable: String,
    remote: Option<Remote>,
}

impl Order {
    /// The system of this host, of this flake at this revision.
    pub(super) fn new(flake: &FlakeUrl, revision: &Revision, host: &HostName) -> Self {
        let remote = flake.git_remote().map(Remote::at);
        // Where git does not fetch, whatever does has its own place for passwords.
        let plain = remote.as_ref().map_or_else(|| flake.public(), |remote| flake.from_git_remote(remote.url()));
        Self { installable: plain.installable(revision, host), remote }
    }

    /// What carries it out. No part of it is read by a shell, and none can be taken for an option: the flake URL begins
    /// with its scheme, and the action is one of ours.
    pub(super) fn command(&self, action: &str) -> Command {
        let mut command = Command::new("nixos-rebuild");
        command.args([action, "--flake", &self.installable]);
        if let Some(remote) = &self.remote {
            remote.introduce(&mut command);
        }
        command
    }
}
