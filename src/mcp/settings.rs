//! What the server is started with.

use std::time::Duration;

use crate::bus;
use crate::operator::Discovery;
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

    /// Where to ask who is there.
    pub fn discovery(&self, tier: Option<Tier>) -> Discovery {
        Discovery { subject: self.discover_subject.clone(), tier, window: self.discover_window }
    }
}
