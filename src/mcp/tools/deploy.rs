//! `deploy`, `deploy_admin` and `rollback`: one commit for a host, a role or a tier, or the one that they ran before.

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::mcp::call::ToolCall;
use crate::mcp::context::ToolContext;
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Launch, credential_for};
use crate::mcp::schema;
use crate::mcp::settings::Credential;
use crate::operator::{RollbackError, RollbackPlan};
use crate::plan::{Plan, Selector, Settings, Spanned, Wave};
use crate::protocol::{Action, HostName, Revision, Role, Target, Tier};

/// What `deploy_admin` takes; `deploy` takes the same without `tier`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployArguments {
    /// The tier of the target.
    #[schemars(schema_with = "schema::tier")]
    tier: Tier,
    /// The host. Give exactly one of hostname, all and role.
    #[serde(default)]
    #[schemars(with = "String")]
    hostname: Option<HostName>,
    /// true: every host of the tier that answers.
    #[serde(default)]
    all: bool,
    /// The hosts of the tier and this role that answer.
    #[serde(default)]
    #[schemars(with = "String")]
    role: Option<Role>,
    /// Branch, tag or commit id.
    #[serde(default = "master")]
    #[schemars(with = "String")]
    branch: Revision,
    /// What nixos-rebuild does.
    #[serde(default = "switch")]
    #[schemars(schema_with = "action")]
    action: Action,
    /// true: also to hosts that run a later commit.
    #[serde(default)]
    allow_downgrade: bool,
}

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

pub(super) async fn to_test(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let mut arguments = call.arguments.clone();
    if arguments.insert("tier".to_owned(), Tier::Test.as_str().into()).is_some() {
        return Err(ToolError::new("invalid_arguments", "unknown field `tier`")
            .next("deploy is for test hosts; deploy_admin deploys to any tier, where this server offers it"));
    }
    deploy(context, Credential::Test, schema::arguments(&arguments)?, call).await
}

pub(super) async fn to_any(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    deploy(context, Credential::Admin, schema::arguments(call.arguments)?, call).await
}

async fn deploy(
    context: &ToolContext,
    credential: Credential,
    asked: DeployArguments,
    call: ToolCall<'_>,
) -> Result<CallToolResponse, ToolError> {
    let tier = asked.tier;
    let (phrase, target) = match (&asked.hostname, asked.all, &asked.role) {
        (Some(host), false, None) => (format!("{tier}.{host}"), Target::Host(tier, host.clone())),
        (None, true, None) => (format!("{tier}.all"), Target::All(tier)),
        (None, false, Some(role)) => (format!("{tier}.role.{role}"), Target::Role(tier, role.clone())),
        (None, false, None) => return Err(one_target(context, credential, tier, "no target was given").await),
        _ => return Err(one_target(context, credential, tier, "more than one target was given").await),
    };
    let settings = Settings { action: asked.action, ..Settings::default() };
    let selector = Spanned::nowhere(Selector { text: phrase.clone(), target });
    let waves = vec![Wave::unwritten(phrase.clone(), vec![selector], settings)];
    let plan = Plan::unwritten(phrase.clone(), waves);
    let wanted = context.wanted(plan, None, asked.branch);
    let no_downgrade = if asked.allow_downgrade { &[][..] } else { &Tier::ALL };
    let launch = Launch { call, phrase, credential, no_downgrade, plan_hash: None, resumes: None };
    context.launch(launch, || context.prepare(credential, wanted.clone())).await
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
    let wanted = context.wanted(rollback.plan.clone(), None, rollback.commit.clone().into());
    let settle = async || {
        let prepared = context.prepare(credential, wanted.clone()).await?;
        rollback.check(&prepared.roster)?;
        Ok(prepared)
    };
    let launch = Launch { call, phrase, credential, no_downgrade: &[], plan_hash: None, resumes: None };
    context.launch(launch, settle).await
}

/// That there is not exactly one target, with the hosts and roles to choose from. A schema that said so would make some
/// clients drop the tool.
async fn one_target(context: &ToolContext, credential: Credential, tier: Tier, what: &str) -> ToolError {
    let [hosts, roles] = match context.names(credential, tier).await {
        Ok(names) => names,
        Err(error) => return error,
    };
    let hosts = if hosts.is_empty() { "none" } else { &hosts };
    let roles = if roles.is_empty() { String::new() } else { format!("; their roles: {roles}") };
    ToolError::new("invalid_target", what)
        .next(format!("give exactly one of hostname, all: true and role; {tier} hosts that answer: {hosts}{roles}"))
}

fn master() -> Revision {
    "master".parse().expect("it is a branch's name")
}

const fn switch() -> Action {
    Action::Switch
}

fn action(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": Action::ALL.map(Action::as_str), "default": "switch" })
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
