//! Resources: what a person can put in front of an assistant. Plans, as they are written.

use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};

use super::plans::{PlanName, Plans};
use super::scrub::Scrubber;

/// How much of a plan is shown, in bytes; a result has at most 20,000.
const MAX_BYTES: usize = 16_000;
/// The most resources that are listed one by one.
const MOST_LISTED: usize = 100;

/// What the URI of each plan begins with.
const PLAN: &str = "plan://";

/// The kinds of resources that there are.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    let plan = ResourceTemplate::new(format!("{PLAN}{{name}}"), "plan");
    let plan = plan.with_title("Plan").with_description("A plan as it is written, in TOML.");
    vec![plan.with_mime_type("application/toml")]
}

/// The resources that there are now.
pub(super) fn all(plans: &Plans) -> Vec<Resource> {
    let resource =
        |name: PlanName| Resource::new(format!("{PLAN}{name}"), name.to_string()).with_mime_type("application/toml");
    plans.names().into_iter().take(MOST_LISTED).map(resource).collect()
}

/// The resource of this URI.
pub(super) fn read(uri: &str, plans: &Plans, scrubber: &Scrubber) -> Result<ReadResourceResult, ErrorData> {
    let missing = |why: String| ErrorData::resource_not_found(scrubber.clean(&why), None);
    let name = uri.strip_prefix(PLAN).ok_or_else(|| missing("there are plan:// resources only".to_owned()))?;
    let name: PlanName = name.parse().map_err(|error: super::ToolError| missing(error.text()))?;
    let text = plans.text(&name).map_err(|error| missing(error.text()))?;
    let text = cut(scrubber.clean(&text));
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type("application/toml")]))
}

/// The beginning of a text that is too long, which says so.
fn cut(mut text: String) -> String {
    if text.len() > MAX_BYTES {
        text.truncate(text.floor_char_boundary(MAX_BYTES));
        text.push_str("\n# … cut off here");
    }
    text
}
