//! `deploy` and `deploy_admin`: one deployment to a host, a role or a tier.

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::mcp::context::{ToolCall, ToolContext};
use crate::mcp::error::ToolError;
use crate::mcp::launch::Launch;
use crate::mcp::schema;
use crate::mcp::settings::Credential;
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
    #[schemars(schema_with = "branch")]
    branch: Revision,
    /// What nixos-rebuild does.
    #[serde(default = "switch")]
    #[schemars(schema_with = "action")]
    action: Action,
    /// true: also to hosts that run a later commit.
    #[serde(default)]
    allow_downgrade: bool,
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
    let target = match (&asked.hostname, asked.all, &asked.role) {
        (Some(host), false, None) => Target::Host(asked.tier, host.clone()),
        (None, true, None) => Target::All(asked.tier),
        (None, false, Some(role)) => Target::Role(asked.tier, role.clone()),
        other => return Err(one_target(context, credential, asked.tier, other == (&None, false, &None)).await),
    };
    let phrase = short_form(&target);
    let settings = Settings { action: asked.action, ..Settings::default() };
    let selector = Spanned::nowhere(Selector { text: phrase.clone(), target });
    let waves = vec![Wave::unwritten(phrase.clone(), vec![selector], settings)];
    let plan = Plan::unwritten(phrase.clone(), waves);
    let wanted = context.wanted(plan, None, asked.branch);
    let no_downgrade = if asked.allow_downgrade { &[][..] } else { &Tier::ALL };
    let launch = Launch { call, phrase, credential, no_downgrade, plan_hash: None, resumes: None };
    context.launch(launch, || context.prepare(credential, wanted.clone())).await
}

/// That there is not exactly one target, with the hosts and roles to choose from. A schema that said so would make some
/// clients drop the tool.
async fn one_target(context: &ToolContext, credential: Credential, tier: Tier, is_none: bool) -> ToolError {
    let (hosts, roles) = match context.names(credential, tier).await {
        Ok(names) => names,
        Err(error) => return error,
    };
    let what = if is_none { "no target was given" } else { "more than one target was given" };
    let roles = if roles.is_empty() { String::new() } else { format!("; their roles: {roles}") };
    ToolError::new("invalid_target", what)
        .next(format!("give exactly one of hostname, all: true and role; {tier} hosts that answer: {hosts}{roles}"))
}

fn short_form(target: &Target) -> String {
    match target {
        Target::Host(tier, host) => format!("{tier}.{host}"),
        Target::Role(tier, role) => format!("{tier}.role.{role}"),
        Target::All(tier) => format!("{tier}.all"),
        Target::Custom(subject) => subject.to_string(),
    }
}

fn master() -> Revision {
    "master".parse().expect("it is a branch's name")
}

const fn switch() -> Action {
    Action::Switch
}

fn branch(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "default": "master" })
}

fn action(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": Action::ALL.map(Action::as_str), "default": "switch" })
}
