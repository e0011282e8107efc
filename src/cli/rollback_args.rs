//! The flags by which hosts return to what they ran before.

use std::time::Duration;

use clap::Args;

use crate::plan::{Plan, Rollback, parse_confirm_timeout};

// Whether hosts return.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Hosts return to what they ran before when their deployment fails, and when it cuts them off; in a plan that is
    /// for the waves that say nothing of `rollback`
    #[arg(long, env = "HOMELAB_DEPLOY_AUTO_ROLLBACK", value_parser = crate::cli::switch::read)]
    pub(super) auto_rollback: bool,

    /// How long a host that may return has to be reached again after its activation, from 5s to 1h [default: 1m]; in a
    /// plan that is for the waves that say nothing of `confirm_timeout`
    #[arg(long, env = "HOMELAB_DEPLOY_CONFIRM_TIMEOUT", value_name = "DURATION")]
    #[arg(value_parser = parse_confirm_timeout)]
    pub(super) confirm_timeout: Option<Duration>,
}

impl RollbackArgs {
    /// Lets a plan say the same where it says nothing.
    pub(super) fn apply_defaults_to(&self, plan: &mut Plan) {
        if self.auto_rollback {
            plan.roll_back(Rollback::Auto);
        }
        if let Some(timeout) = self.confirm_timeout {
            plan.confirm_within(timeout);
        }
    }
}
