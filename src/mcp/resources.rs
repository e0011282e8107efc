//! Resources: what a person can put in front of an assistant. Plans as they are written, and what has become of rollouts.

use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use tokio::time::Instant;

use super::error::ToolError;
use super::plans::{PlanName, Plans};
use super::server::Server;
use super::status::Progress;
use super::wait::Waiter;

/// How much of a plan is shown, in bytes; a result has at most 20,000.
const MAX_BYTES: usize = 16_000;
/// The most resources that are listed one by one.
const MOST_LISTED: usize = 100;

const PLAN: &str = "plan://";
const PLAN_TYPE: &str = "application/toml";
const ROLLOUT: &str = "rollout://";
const ROLLOUT_TYPE: &str = "application/json";

/// The kinds of resources that there are.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    let plan = ResourceTemplate::new(format!("{PLAN}{{name}}"), "plan").with_title("Plan");
    let rollout = ResourceTemplate::new(format!("{ROLLOUT}{{id}}"), "rollout").with_title("Rollout");
    vec![
        plan.with_description("A plan as it is written, in TOML.").with_mime_type(PLAN_TYPE),
        rollout
            .with_description("What has become of a rollout, as rollout_status tells it.")
            .with_mime_type(ROLLOUT_TYPE),
    ]
}

/// The plans that there are now. Rollouts are many, and soon old.
pub(super) fn all(plans: &Plans) -> Vec<Resource> {
    let resource = |name: PlanName| Resource::new(format!("{PLAN}{name}"), name.to_string()).with_mime_type(PLAN_TYPE);
    plans.names().into_iter().take(MOST_LISTED).map(resource).collect()
}

impl Server {
    /// The resource of this URI.
    pub(super) async fn resource(
        &self,
        uri: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<ReadResourceResult, ErrorData> {
        let (text, kind) = match (uri.strip_prefix(PLAN), uri.strip_prefix(ROLLOUT)) {
            (Some(name), _) => (self.plan(name), PLAN_TYPE),
            (_, Some(id)) => (self.rollout(id, context).await, ROLLOUT_TYPE),
            (None, None) => (Err(unknown_kind()), PLAN_TYPE),
        };
        let text = text.map_err(|error| ErrorData::resource_not_found(self.scrubber.clean(&error.text()), None))?;
        Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(kind)]))
    }

    fn plan(&self, name: &str) -> Result<String, ToolError> {
        let text = self.settings.plans.text(&name.parse()?)?;
        Ok(cut(self.scrubber.clean(&text)))
    }

    async fn rollout(&self, id: &str, context: &RequestContext<RoleServer>) -> Result<String, ToolError> {
        let id = self.settings.journals.find(id)?;
        let told = self.tell::<Progress>(&id, None, Waiter::Call(context, Instant::now())).await?;
        let told = serde_json::to_value(told.data).expect("results have string keys only, so this cannot fail");
        Ok(self.scrubber.clean_value(told).to_string())
    }
}

fn unknown_kind() -> ToolError {
    ToolError::new("unknown_resource", "there are the resources plan://NAME and rollout://ID")
}

/// The beginning of a text that is too long, which says so.
fn cut(mut text: String) -> String {
    if text.len() > MAX_BYTES {
        text.truncate(text.floor_char_boundary(MAX_BYTES));
        text.push_str("\n# … cut off here");
    }
    text
}
