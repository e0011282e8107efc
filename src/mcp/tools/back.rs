//! `rollback`: hosts return to the commit that they ran before.

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use tokio::time::Instant;

use crate::mcp::call::ToolCall;
use crate::mcp::context::ToolContext;
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Downgrade, Intent, Launch, credential_for};
use crate::mcp::schema;
use crate::mcp::settings::Credential;
use crate::operator::{Prepared, RollbackError, RollbackPlan};
use crate::protocol::HostName;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RollbackArguments {
    /// The one host to return. Give exactly one of `hostname` and `rollout_id`.
    #[schemars(with = "String")]
    hostname: Option<HostName>,
    /// The rollout whose hosts return.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

impl Intent for RollbackPlan {
    async fn settle(
        &self,
        credential: Credential,
        context: &ToolContext,
        until: Instant,
    ) -> Result<Prepared, ToolError> {
        let wanted = context.wanted(self.plan.clone(), None, self.commit.clone().into());
        let prepared = context.prepare(credential, wanted, until).await?;
        self.check(&prepared.roster)?;
        Ok(prepared)
    }
}

pub(super) async fn roll_back(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let rollback = match schema::arguments(call.arguments)? {
        RollbackArguments { hostname: Some(host), rollout_id: None } => {
            RollbackPlan::of_hosts(&context.rollouts()?, &[(None, host)])?
        }
        RollbackArguments { hostname: None, rollout_id: Some(id) } => {
            RollbackPlan::of_rollout(&context.rollouts()?, &context.find(Some(&id))?)?
        }
        _ => {
            return Err(ToolError::new("invalid_target", "give exactly one of hostname and rollout_id")
                .next("rollout_status with list: true shows the rollouts on record"));
        }
    };
    let credential = credential_for(&rollback.plan.tiers());
    let phrase = rollback.plan.name.clone();
    let launch = Launch { call, phrase, credential, downgrade: Downgrade::Allowed, plan_hash: None };
    context.launch(launch, rollback).await
}

impl From<RollbackError> for ToolError {
    fn from(error: RollbackError) -> Self {
        let (code, next) = match &error {
            RollbackError::StillRunning(_) => {
                ("still_running", "call abort_rollout, and wait with rollout_status until it is over")
            }
            RollbackError::SeveralCommits(_) => ("several_commits", "call rollback with hostname for each host"),
            RollbackError::TwoTiers(_) => ("invalid_target", "give rollout_id to say which of both is meant"),
            RollbackError::Silent(_) => ("unknown_host", "list_hosts shows who answers"),
            RollbackError::TooOld(_) | RollbackError::RanSince(_) => {
                ("not_the_last_run", "deploy with branch and allow_downgrade goes to any commit")
            }
            RollbackError::NothingToUndo | RollbackError::Unchanged { .. } => {
                ("nothing_to_undo", "deploy with branch and allow_downgrade goes to any commit")
            }
        };
        Self::new(code, error.to_string()).next(next)
    }
}
