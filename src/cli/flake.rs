//! The flags about where a revision is looked up.

use std::io::{self, IsTerminal};

use clap::Args;

use super::confirm;
use super::operator::Audience;
use super::state::StateArgs;
use crate::bus::ServerUrl;
use crate::operator::flake::{Accepted, Consent, FlakeRules};
use crate::protocol::FlakeUrl;

// Where a revision is looked up, where the plan does not say it.
#[derive(Debug, Args)]
pub(super) struct FlakeArgs {
    /// Flake in which a branch or tag is looked up where the plan names none [default: the one that the hosts name, once it
    /// was accepted]
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE", value_name = "URL")]
    flake: Option<FlakeUrl>,

    /// Accept that the hosts name this flake; it is remembered for the fleet
    #[arg(long, env = "HOMELAB_DEPLOY_ACCEPT_FLAKE", value_name = "URL")]
    accept_flake: Option<FlakeUrl>,
}

impl FlakeArgs {
    pub(super) fn rules(&self, state: &StateArgs, servers: &[ServerUrl], consent: Option<Consent>) -> FlakeRules {
        FlakeRules {
            given: self.flake.clone(),
            accept: self.accept_flake.clone(),
            accepted: Accepted::of(state.folder(), servers.iter().map(ServerUrl::to_string)),
            consent,
        }
    }
}

/// Whether a person is there who can be asked about a flake that hosts name.
pub(super) fn consent(audience: Audience) -> Option<Consent> {
    let is_there = audience == Audience::Person && io::stdin().is_terminal() && io::stderr().is_terminal();
    is_there.then_some(|question| Box::pin(confirm::flake(question)))
}
