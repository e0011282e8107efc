//! `deploy` and `deploy_admin`: one deployment to a host, a role or a tier.

use rmcp::RoleServer;
use rmcp::model::{CallToolResponse, JsonObject};
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::RequestContext;
use serde::Deserialize;

use crate::mcp::error::ToolError;
use crate::mcp::launch::{Launch, Launched};
use crate::mcp::schema;
use crate::mcp::server::Server;
use crate::mcp::settings::Access;
use crate::mcp::status::Deployment;
use crate::operator::{Kind, Part, RollCalled, Wanted};
use crate::plan::{At, Plan, Selector, Settings, Wave};
use crate::protocol::{Action, HostName, Revision, Role, Target, Tier};

/// What `deploy` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The one host to deploy. Give exactly one of hostname, all and role.
    #[serde(default)]
    #[schemars(with = "String")]
    hostname: Option<HostName>,
    /// true: every test host that answers.
    #[serde(default)]
    all: bool,
    /// The test hosts of this role that answer.
    #[serde(default)]
    #[schemars(with = "String")]
    role: Option<Role>,
    /// Branch, tag or full commit id.
    #[serde(default = "master")]
    #[schemars(schema_with = "branch")]
    branch: Revision,
    /// What nixos-rebuild does.
    #[serde(default = "switch")]
    #[schemars(schema_with = "action")]
    action: Action,
}

/// What `deploy_admin` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminArguments {
    /// The tier of the target.
    #[schemars(schema_with = "schema::tier")]
    tier: Tier,
    /// The one host to deploy. Give exactly one of hostname, all and role.
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
    /// Branch, tag or full commit id.
    #[serde(default = "master")]
    #[schemars(schema_with = "branch")]
    branch: Revision,
    /// What nixos-rebuild does.
    #[serde(default = "switch")]
    #[schemars(schema_with = "action")]
    action: Action,
}

/// What either of them asks for.
struct Asked {
    tool: &'static str,
    access: Access,
    target: Target,
    branch: Revision,
    action: Action,
}

pub(super) async fn to_test(
    server: &Server,
    arguments: JsonObject,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ToolError> {
    let Arguments { hostname, all, role, branch, action } = schema::arguments(arguments.clone())?;
    let target = one_target(Tier::Test, hostname, all, role)?;
    let asked = Asked { tool: "deploy", access: Access::Test, target, branch, action };
    deploy(server, asked, &arguments, &context).await
}

pub(super) async fn to_any(
    server: &Server,
    arguments: JsonObject,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ToolError> {
    let AdminArguments { tier, hostname, all, role, branch, action } = schema::arguments(arguments.clone())?;
    let target = one_target(tier, hostname, all, role)?;
    let asked = Asked { tool: "deploy_admin", access: Access::Admin, target, branch, action };
    deploy(server, asked, &arguments, &context).await
}

async fn deploy(
    server: &Server,
    asked: Asked,
    arguments: &JsonObject,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ToolError> {
    let until = server.deadline();
    let Asked { tool, access, target, branch, action } = asked;
    let phrase = short_form(&target);
    let wanted = Wanted {
        plan: one_wave(&phrase, target.clone(), action),
        source: None,
        revision: branch,
        exclude: Vec::new(),
        part: Part::Whole,
        operator: server.settings.operator.clone(),
        kind: Kind::Rollout,
        journals: server.settings.journals.clone(),
        flakes: server.settings.flakes.clone(),
        cache: server.settings.cache.clone(),
    };
    let prepared = server.prepare(access, wanted, until, |called| is_in_its_tier(&target, called)).await?;
    let launch = Launch { tool, arguments, access, phrase, plan_hash: None };
    match server.launch(launch, prepared, context).await? {
        Launched::Begun(id) => server.go_on::<Deployment>(id, until, context).await,
        Launched::Asked(question) => Ok((*question).into()),
    }
}

/// The target, when exactly one was given. A schema that said so would make some clients drop the tool.
fn one_target(tier: Tier, hostname: Option<HostName>, all: bool, role: Option<Role>) -> Result<Target, ToolError> {
    match (hostname, all, role) {
        (Some(host), false, None) => Ok(Target::Host(tier, host)),
        (None, true, None) => Ok(Target::All(tier)),
        (None, false, Some(role)) => Ok(Target::Role(tier, role)),
        (None, false, None) => Err(ToolError::new("invalid_target", "no target was given")),
        _ => Err(ToolError::new("invalid_target", "more than one target was given")),
    }
    .map_err(|error| error.next("give exactly one of hostname, all: true and role; list_hosts tells hosts and roles"))
}

/// A named host may belong to another tier than the one that the tool or its argument is for.
fn is_in_its_tier(target: &Target, called: &RollCalled) -> Result<(), ToolError> {
    let Target::Host(tier, name) = target else { return Ok(()) };
    let mut hosts = called.hosts.iter().map(|answer| &answer.report).filter(|host| host.hostname == *name);
    // What a host of another tier says counts only where none of this tier answers.
    match hosts.clone().find(|host| host.tier == *tier).or_else(|| hosts.next()) {
        Some(host) if host.tier != *tier => {
            let what = format!("{name} is a host of {}, and this would deploy to {tier}", host.tier);
            Err(ToolError::new("wrong_tier", what).next(
                "list_hosts tells the tier of each host; deploy_admin deploys to any, where this server offers it",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

/// The target as plans write it.
fn short_form(target: &Target) -> String {
    match target {
        Target::Host(tier, host) => format!("{tier}.{host}"),
        Target::Role(tier, role) => format!("{tier}.role.{role}"),
        Target::All(tier) => format!("{tier}.all"),
        Target::Custom(subject) => subject.to_string(),
    }
}

/// The plan that a single deployment comes down to.
fn one_wave(name: &str, target: Target, action: Action) -> Plan {
    let selector = Selector { text: name.to_owned(), target };
    let wave = Wave {
        name: At::nowhere(name.to_owned()),
        targets: vec![At::nowhere(selector)],
        exclude: Vec::new(),
        settings: Settings { action, ..Settings::default() },
    };
    Plan { name: name.to_owned(), revision: None, flake: None, waves: vec![wave] }
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
