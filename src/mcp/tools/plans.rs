//! `list_plans`, `preview_plan` and `apply_plan`: rollouts that a person wrote down.

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::mcp::answer::ToolAnswer;
use crate::mcp::context::{ToolCall, ToolContext};
use crate::mcp::error::ToolError;
use crate::mcp::launch::{Launch, credential_for};
use crate::mcp::plans::PlanName;
use crate::mcp::preview::{plan_hash, preview};
use crate::mcp::schema;
use crate::mcp::status::MAX_WAVES;
use crate::operator::plan_file::PlanFile;
use crate::operator::{Part, Prepared, SystemsFrom};
use crate::protocol::{HostName, Revision, Tier};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListPlansArguments {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewArguments {
    /// The name of the plan.
    plan: String,
    /// The name of the last wave to run.
    #[serde(default)]
    #[schemars(with = "String")]
    until: Option<String>,
    /// Hosts to leave out.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    exclude: Vec<HostName>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyArguments {
    /// The name of the plan.
    plan: String,
    /// `plan_hash` of its preview.
    plan_hash: String,
    /// The name of the last wave to run, as previewed.
    #[serde(default)]
    #[schemars(with = "String")]
    until: Option<String>,
    /// Hosts to leave out, as previewed.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    exclude: Vec<HostName>,
}

pub(super) fn list(context: &ToolContext) -> ToolAnswer {
    let names = context.settings.plans.names();
    let plans: Vec<Value> = names.iter().filter_map(|name| listed(context, name)).collect();
    let summary = format!("{} plans; preview_plan tells what one would do", plans.len());
    ToolAnswer::fitting(json!({ "summary": summary, "plans": plans, "more": 0 }), "plans")
}

/// A plan in the list; `None` where this server has no key for it.
fn listed(context: &ToolContext, name: &PlanName) -> Option<Value> {
    let file = match read(context, name) {
        Ok(file) => file,
        Err(error) => {
            return Some(json!({ "name": name.to_string(), "problem": context.redactor.first(&error.text(), 500) }));
        }
    };
    let tiers = file.plan.tiers();
    context.settings.connection(credential_for(&tiers))?;
    let waves = file.plan.waves.iter().take(MAX_WAVES);
    Some(json!({
        "name": name.to_string(),
        "tiers": tiers,
        "revision": file.plan.revision.as_ref().map(Revision::as_str),
        "waves": waves.map(|wave| context.redactor.first(&wave.name.value, 80)).collect::<Vec<_>>(),
    }))
}

pub(super) async fn show(context: &ToolContext, asked: PreviewArguments) -> Result<ToolAnswer, ToolError> {
    let PreviewArguments { plan, until, exclude } = asked;
    let (prepared, hash) = prepare(context, &plan.parse()?, until.as_deref(), &exclude, context.deadline()).await?;
    Ok(preview(&prepared, &hash, &context.redactor))
}

pub(super) async fn apply(context: &ToolContext, call: ToolCall<'_>) -> Result<CallToolResponse, ToolError> {
    let previewed: ApplyArguments = schema::arguments(call.arguments)?;
    let name = previewed.plan.parse()?;
    let credential = credential_for(&read(context, &name)?.plan.tiers());
    let plan_hash = Some(previewed.plan_hash.clone());
    let phrase = previewed.plan.clone();
    let launch = Launch { call, phrase, credential, no_downgrade: &Tier::ALL, plan_hash, resumes: None };
    // The file is read anew each time.
    let settle = async |deadline| {
        let (prepared, hash) =
            prepare(context, &name, previewed.until.as_deref(), &previewed.exclude, deadline).await?;
        if hash == previewed.plan_hash { Ok(prepared) } else { Err(stale(&name)) }
    };
    context.launch(launch, settle).await
}

/// Settles a plan up to a wave and without some hosts, and returns the hash of what that shows.
async fn prepare(
    context: &ToolContext,
    name: &PlanName,
    until: Option<&str>,
    exclude: &[HostName],
    deadline: Instant,
) -> Result<(Prepared, String), ToolError> {
    let file = read(context, name)?;
    let credential = credential_for(&file.plan.tiers());
    context.connection(credential)?;
    let systems = file.systems()?.map(SystemsFrom::Built);
    let revision = SystemsFrom::revision(systems.as_ref(), &file.plan, None)?;
    let mut wanted = context.wanted(file.plan.clone(), Some(file.source()), revision);
    wanted.systems = systems;
    wanted.exclude = exclude.to_vec();
    if let Some(last) = until {
        let waves: Vec<String> = file.plan.waves.iter().map(|wave| wave.name.value.clone()).collect();
        let Some(index) = waves.iter().position(|wave| wave == last) else {
            let what = format!("until: the plan has no wave {last:?}; its waves: {}", waves.join(", "));
            return Err(ToolError::new("unknown_wave", what).next("give until the name of a wave"));
        };
        let mut left = file.plan.clone();
        for host in exclude {
            left.exclude(host);
        }
        let is_left = |wave: &String| left.waves.iter().any(|left| left.name.value == *wave);
        wanted.part = Part::Only(waves.into_iter().take(index + 1).filter(is_left).collect());
    }
    let prepared = context.prepare(credential, wanted, deadline).await?;
    let hash = plan_hash(&file.text, until, exclude, &prepared);
    Ok((prepared, hash))
}

fn stale(plan: &PlanName) -> ToolError {
    ToolError::new(
        "stale_plan",
        format!("plan_hash: the plan {plan}, its hosts, its commit, until or exclude have changed"),
    )
    .next("call preview_plan, look at what it would do now, and give its plan_hash")
}

fn read(context: &ToolContext, name: &PlanName) -> Result<PlanFile, ToolError> {
    Ok(PlanFile::read(&context.settings.plans.path(name)?, &context.settings.aliases)?)
}
