//! The flags by which an operator goes past a good reason not to begin.

use clap::Args;

use super::exit::{CommandError, Exit};
use crate::operator::Prepared;
use crate::protocol::Tier;

// Which reasons do not count.
#[derive(Debug, Args)]
pub(super) struct GuardArgs {
    #[command(flatten)]
    pub(super) force: ForceArgs,

    /// Deploy although prod hosts run a later commit than this one
    #[arg(long, env = "HOMELAB_DEPLOY_ALLOW_DOWNGRADE", value_parser = crate::cli::switch::read)]
    allow_downgrade: bool,
}

// The one that counts for those who go back on purpose, too.
#[derive(Debug, Args)]
pub(super) struct ForceArgs {
    /// Start although another operator's rollout is under way; hosts that are busy with that one will reject this one
    #[arg(long, env = "HOMELAB_DEPLOY_FORCE", value_parser = crate::cli::switch::read)]
    force: bool,
}

impl GuardArgs {
    /// Refuses to begin where there is a reason that counts.
    pub(super) fn check(&self, prepared: &Prepared) -> Result<(), CommandError> {
        self.force.check(prepared)?;
        if !self.allow_downgrade {
            // Test hosts are there to try branches and to come back.
            let checked = prepared.check_not_downgrade(&[Tier::Prod]);
            checked.map_err(|error| Exit::Precondition.with(error))?;
        }
        Ok(())
    }
}

impl ForceArgs {
    /// Gives way to another operator's rollout.
    pub(super) fn check(&self, prepared: &Prepared) -> Result<(), CommandError> {
        if self.force {
            return Ok(());
        }
        prepared.check_no_other_rollout().map_err(|error| Exit::Precondition.with(error))
    }
}
