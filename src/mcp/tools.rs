//! Every tool, with what its users are told of it. What it does is in the module of its name.

mod list_hosts;

use rmcp::model::JsonObject;
use rmcp::{tool, tool_router};

use super::answer::Answer;
use super::error::ToolError;
use super::schema;
use super::server::Server;

#[tool_router(vis = "pub(super)")]
impl Server {
    /// Who is there.
    #[tool(
        title = "List hosts",
        description = "List the hosts that answer now, with what they run and how their last deployment ended. \
                       A host that is missing is down, or its listener is. Takes about two seconds.",
        input_schema = schema::input::<list_hosts::Arguments>(),
        output_schema = schema::output::<list_hosts::Listing>(),
        annotations(read_only_hint = true, destructive_hint = false, idempotent_hint = true, open_world_hint = false)
    )]
    async fn list_hosts(&self, arguments: JsonObject) -> Result<Answer<list_hosts::Listing>, ToolError> {
        list_hosts::list(self, schema::arguments(arguments)?).await
    }
}
