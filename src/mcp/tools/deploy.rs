//! `deploy`, `deploy_admin` and `rollback`: one commit for a host, a role or a tier, or the one that they ran before.

use rmcp::model::{CallToolResponse, JsonObject};
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::mcp::answer::ToolError;
use crate::mcp::boundary::Credential;
use crate::mcp::call::ToolCall;
use crate::mcp::context::ToolContext;
use crate::mcp::launch::Launch;
use crate::mcp::schema;
use crate::operator::RollbackPlan;
use crate::plan::{Plan, Selector, Settings, Spanned, Wave};
use crate::protocol::{Action, HostName, Revision, Role, Target, Tier};

/// Deploy to one host, the hosts of a role, or all hosts of a tier, production included. Outside test a person is asked to
/// approve. Otherwise like deploy.
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
    #[serde(default, deserialize_with = "schema::parsed")]
    #[schemars(schema_with = "action")]
    action: Action,
    /// true: also to hosts that run a later commit.
    #[serde(default)]
    allow_downgrade: bool,
}

/// Return a host, or the hosts that a rollout changed, to the commit that they ran before. Waits like deploy. Outside test a
/// person is asked to approve.
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

/// What `deploy` takes: the same as `deploy_admin`, without `tier`.
pub(super) fn input_without_tier() -> JsonObject {
    let mut schema = schema::input::<DeployArguments>();
    schema.remove("required");
    schema.get_mut("properties").and_then(|properties| properties.as_object_mut()?.remove("tier"));
    let told = "Deploy a revision to one test host, the test hosts of a role, or all test hosts. Waits up to 45 seconds; state \
                running means that it goes on: call rollout_status. It also goes on when the call is cancelled.";
    schema.insert("description".to_owned(), told.into());
    schema
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
        (None, false, None) => return Err(context.one_target(credential, tier, "no target was given").await),
        _ => return Err(context.one_target(credential, tier, "more than one target was given").await),
    };
    let settings = Settings { action: asked.action, ..Settings::default() };
    let selector = Spanned::nowhere(Selector { text: phrase.clone(), target });
    let plan = Plan::unwritten(phrase.clone(), vec![Wave::unwritten(phrase.clone(), vec![selector], settings)]);
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
            let (rollout, _) = context.rollout(&id)?;
            RollbackPlan::of_rollout(&context.rollouts()?, &rollout.id.to_string())?
        }
        _ => {
            return Err(ToolError::new("invalid_target", "give exactly one of hostname and rollout_id")
                .next("rollout_status with list: true shows the rollouts on record"));
        }
    };
    let credential = Credential::for_tiers(&rollback.plan.tiers());
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

fn master() -> Revision {
    "master".parse().expect("it is a branch's name")
}

fn action(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": Action::ALL.map(Action::as_str) })
}
