//! What `nixos-rebuild` is told to do.

use std::process::Command;

use crate::listener::config::RebuildFlag;
use crate::listener::run::Spec;
use crate::lookup::Remote;
use crate::protocol::{FlakeUrl, Revision};

/// One system of a flake, as `nixos-rebuild` is told of it. Every user of the machine can read a command line, and so no
/// password stands on one: git has it from its environment.
#[derive(Debug)]
pub(super) struct Order {
    installable: String,
    remote: Option<Remote>,
    /// What root's own configuration adds.
    flags: Vec<RebuildFlag>,
}

impl Order {
    /// The configuration that a run is for, of this flake at this revision.
    pub(super) fn new(spec: &Spec, flake: &FlakeUrl, revision: &Revision) -> Self {
        let remote = flake.git_remote().map(Remote::at);
        // Where git does not fetch, whatever does has its own place for passwords.
        let plain = remote.as_ref().map_or_else(|| flake.public(), |remote| flake.from_git_remote(remote.url()));
        Self {
            installable: plain.installable(revision, spec.configuration()),
            remote,
            flags: spec.rebuild_flags.clone(),
        }
    }

    /// What carries it out. No part of it is read by a shell, and none can be taken for an option: the flake URL begins
    /// with its scheme, and the action is one of ours.
    pub(super) fn command(&self, action: &str) -> Command {
        let mut command = Command::new("nixos-rebuild");
        command.args([action, "--flake", &self.installable]);
        command.args(self.flags.iter().map(RebuildFlag::as_str));
        if let Some(remote) = &self.remote {
            remote.introduce(&mut command);
        }
        command
    }
}
