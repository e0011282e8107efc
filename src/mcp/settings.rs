//! What the server is started with.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::approval::Asking;
use super::plans::Plans;
use super::policy::RevisionPolicy;
use crate::bus;
use crate::operator::Discovery;
use crate::operator::journal::Journals;
use crate::protocol::{Subject, Tier};

/// What the server is started with. A client cannot change any of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the tools for everyone connect: with the key of a deployer to the test tier.
    pub test: bus::Settings,
    /// How the tools for administrators connect; without it there are no such tools.
    pub admin: Option<bus::Settings>,
    /// The subject on which hosts are asked whether they are there.
    pub discover_subject: Subject,
    /// How long answers to that are waited for.
    pub discover_window: Duration,
    /// Who deploys, as hosts and other operators are told.
    pub operator: String,
    /// Which revisions may be deployed to which tier.
    pub revisions: RevisionPolicy,
    /// Whether a person is asked before anything is deployed outside the test tier.
    pub asking: Asking,
    /// Where each call is put on record; nowhere when there is none.
    pub audit_file: Option<PathBuf>,
    /// The plans that there are.
    pub plans: Plans,
    /// The records of rollouts.
    pub journals: Journals,
    /// What time it is.
    pub clock: fn() -> Timestamp,
}

/// Whose key a tool connects with. It belongs to the tool and follows from no argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// That of a deployer to the test tier.
    Test,
    /// That of an administrator.
    Admin,
}

impl Settings {
    /// How to connect with this key; `None` where the server was not given it.
    pub fn connection(&self, access: Access) -> Option<&bus::Settings> {
        match access {
            Access::Test => Some(&self.test),
            Access::Admin => self.admin.as_ref(),
        }
    }

    /// The files that nobody need know the places of.
    pub(super) fn key_files(&self) -> Vec<String> {
        let connections = std::iter::once(&self.test).chain(&self.admin);
        let files = connections.flat_map(|connection| {
            let tls = connection.client_cert.as_ref().map(|cert| &cert.key);
            std::iter::once(&connection.nkey_file).chain(tls)
        });
        files.map(|file| file.display().to_string()).collect()
    }

    /// Where to ask who is there.
    pub fn discovery(&self, tier: Option<Tier>) -> Discovery {
        Discovery { subject: self.discover_subject.clone(), tier, window: self.discover_window }
    }
}
