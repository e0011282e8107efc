//! `list_plans`, `preview_plan` and `apply_plan`: rollouts that somebody has written down.

use std::collections::BTreeSet;
use std::fmt::Write;

use rmcp::RoleServer;
use rmcp::model::{CallToolResponse, JsonObject};
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::RequestContext;
use serde::{Deserialize, Serialize};

use crate::mcp::answer::Answer;
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Launch, Launched};
use crate::mcp::page::Page;
use crate::mcp::plans::PlanName;
use crate::mcp::preview::{Preview, plan_hash};
use crate::mcp::server::Server;
use crate::mcp::settings::Access;
use crate::mcp::status::Progress;
use crate::operator::plan_file::PlanFile;
use crate::operator::{Kind, Part, Prepared, Wanted};
use crate::protocol::Tier;
use crate::text::safe;
use tokio::time::Instant;

/// What `list_plans` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListArguments {
    /// `next_cursor` of the previous page.
    #[serde(default)]
    #[schemars(with = "String")]
    cursor: Option<String>,
}

/// What `preview_plan` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewArguments {
    /// The name of the plan, as `list_plans` has it.
    plan: String,
    /// `next_cursor` of the previous page of hosts.
    #[serde(default)]
    #[schemars(with = "String")]
    cursor: Option<String>,
}

/// What `apply_plan` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyArguments {
    /// The name of the plan, as `list_plans` has it.
    plan: String,
    /// `plan_hash` of the preview that is to be carried out.
    plan_hash: String,
}

/// The plans that this server may roll out.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listing {
    /// The plans, by name.
    plans: Vec<Listed>,
    /// How many there are.
    total: usize,
    /// Whether there are more on the next page.
    truncated: bool,
    /// The cursor of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next_cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct Listed {
    /// Its name.
    name: String,
    /// The tiers that it is for.
    tiers: Vec<String>,
    /// The branch, tag or commit that it deploys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    revision: Option<String>,
    /// Its waves in order; the first 20.
    waves: Vec<String>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    problem: Option<String>,
}

/// How many waves of a plan are named.
const MAX_WAVES: usize = 20;

pub(super) fn list(server: &Server, arguments: &ListArguments) -> Result<Answer<Listing>, ToolError> {
    let plans = server.settings.plans.names();
    let listed: Vec<Listed> = plans.iter().filter_map(|name| listed(server, name)).collect();
    let page = Page::of(&listed, arguments.cursor.as_deref(), Listed::clone)?;
    let mut text = match page.total {
        0 => "There are no plans.".to_owned(),
        1 => "1 plan.".to_owned(),
        total => format!("{total} plans."),
    };
    for plan in page.items.iter().take(40) {
        let about = plan.problem.clone().unwrap_or_else(|| plan.tiers.join(" and "));
        write!(text, "\n{}: {}", plan.name, about.chars().take(100).collect::<String>()).expect("memory takes it");
    }
    let truncated = page.truncated();
    let Page { items: plans, total, next_cursor } = page;
    Ok(Answer { data: Listing { plans, total, truncated, next_cursor }, text })
}

/// A plan in the list; none that this server has no key for.
fn listed(server: &Server, name: &PlanName) -> Option<Listed> {
    match read(server, name) {
        Ok(file) => {
            let tiers = file.plan.tiers();
            server.settings.connection(access(&tiers))?;
            let waves = file.plan.waves.iter().take(MAX_WAVES).map(|wave| safe(&wave.name.value)).collect();
            Some(Listed {
                name: name.to_string(),
                tiers: tiers.iter().map(ToString::to_string).collect(),
                revision: file.plan.revision.as_ref().map(ToString::to_string),
                waves,
                problem: None,
            })
        }
        Err(error) => {
            let problem = Some(error.text().chars().take(500).collect());
            Some(Listed { name: name.to_string(), tiers: Vec::new(), revision: None, waves: Vec::new(), problem })
        }
    }
}

pub(super) async fn preview(server: &Server, arguments: PreviewArguments) -> Result<Answer<Preview>, ToolError> {
    let settled = settle(server, &arguments.plan, server.deadline()).await?;
    Preview::of(&settled.prepared, settled.hash, arguments.cursor.as_deref())
}

pub(super) async fn apply(
    server: &Server,
    arguments: JsonObject,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ToolError> {
    let until = server.deadline();
    let ApplyArguments { plan, plan_hash } = crate::mcp::schema::arguments(arguments.clone())?;
    let settled = settle(server, &plan, until).await?;
    if settled.hash != plan_hash {
        return Err(ToolError::new(
            "stale_plan",
            format!("the plan {plan}, its hosts or its commit are not those of that preview"),
        )
        .next("call preview_plan, look at what it comes down to now, and pass on its plan_hash"));
    }
    let launch = Launch {
        tool: "apply_plan",
        arguments: &arguments,
        access: settled.access,
        phrase: plan,
        plan_hash: Some(&settled.hash),
    };
    match server.launch(launch, settled.prepared, &context).await? {
        Launched::Begun(id) => server.go_on::<Progress>(id, until, &context).await,
        Launched::Asked(question) => Ok((*question).into()),
    }
}

/// What a plan comes down to now.
struct Settled {
    prepared: Prepared,
    access: Access,
    hash: String,
}

async fn settle(server: &Server, plan: &str, until: Instant) -> Result<Settled, ToolError> {
    let file = read(server, &plan.parse()?)?;
    let access = access(&file.plan.tiers());
    server.connection(access)?;
    let wanted = Wanted {
        revision: file.plan.revision(None)?,
        plan: file.plan.clone(),
        source: Some(file.source()),
        exclude: Vec::new(),
        part: Part::Whole,
        operator: server.settings.operator.clone(),
        kind: Kind::Rollout,
        journals: server.settings.journals.clone(),
        flakes: server.settings.flakes.clone(),
        cache: server.settings.cache.clone(),
    };
    let prepared = server.prepare(access, wanted, until, |_| Ok(())).await?;
    let hash = plan_hash(&file.text, &prepared);
    Ok(Settled { prepared, access, hash })
}

fn read(server: &Server, name: &PlanName) -> Result<PlanFile, ToolError> {
    Ok(PlanFile::read(&server.settings.plans.path(name)?, &server.settings.aliases)?)
}

/// The key for a plan: that of an administrator, unless it is for test hosts only.
fn access(tiers: &BTreeSet<Tier>) -> Access {
    if tiers.iter().all(|tier| *tier == Tier::Test) { Access::Test } else { Access::Admin }
}
