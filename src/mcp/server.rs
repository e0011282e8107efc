//! What a client sees, and the one way that every call goes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use miette::Diagnostic;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::{IntoCallToolResult, ToolCallContext};
use rmcp::model::{CallToolRequestParams, CallToolResponse, Implementation, ServerCapabilities, ServerConfig};
use rmcp::service::{RequestContext, ServerInitializeError};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt, tool_handler, transport};
use thiserror::Error;
use tokio::task::JoinError;

use super::error::ToolError;
use super::settings::{Access, Settings};
use crate::bus::Bus;

/// What an assistant is told of the server as a whole.
const INSTRUCTIONS: &str = "Deploys NixOS hosts over NATS, one by one or in waves that halt when one fails. \
    Begin with list_hosts. Success is only what a result calls completed or succeeded; silence is a failure. \
    A call waits up to 45 seconds and then answers with state running and an id: go on with deploy_status or \
    rollout_status, which also tell of rollouts that another process started.";

/// The server: its tools, and what they work with.
#[derive(Debug, Clone)]
pub struct Server {
    pub(super) settings: Arc<Settings>,
    tool_router: ToolRouter<Self>,
}

/// Why the server ended although its client did not ask it to.
#[derive(Debug, Error, Diagnostic)]
pub enum ServeError {
    /// What came first was not the beginning of a conversation.
    #[error("the client did not begin as the Model Context Protocol has it: {0}")]
    #[diagnostic(help("this command is for programs: `docs/mcp.md` says how to enter it into an assistant"))]
    Opening(#[source] Box<ServerInitializeError>),
    /// The task that serves is gone.
    #[error("the server ended unexpectedly: {0}")]
    Gone(#[source] JoinError),
}

impl Server {
    /// A server that has not met its client yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), tool_router: Self::tool_router() }
    }

    /// Connects with the key of a tool. Each call makes a connection of its own, so that a server that was away is no
    /// matter once it is back, and no two keys can be mistaken for each other.
    pub(super) async fn connect(&self, access: Access) -> Result<Bus, ToolError> {
        let settings = self.settings.connection(access).ok_or_else(|| {
            ToolError::new("admin_disabled", "this server was started without the key of an administrator")
                .next("ask whoever started it for --enable-admin, or use the tools for the test tier")
        })?;
        Ok(Bus::connect(settings).await?)
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let program = Implementation::new("homelab-deploy", env!("CARGO_PKG_VERSION"));
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        ServerConfig::new(capabilities).with_server_info(program).with_instructions(INSTRUCTIONS)
    }

    /// Every call goes this way. A tool that panics has not answered, and its client would wait for ever.
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = ToolCallContext::new(self, request, context);
        let answer = AssertUnwindSafe(self.tool_router.call(call)).catch_unwind().await;
        answer.unwrap_or_else(|_| {
            ToolError::new("internal_error", "the tool broke off, which is a bug of homelab-deploy")
                .next("look at list_hosts and rollout_status for what was done before you try again")
                .into_call_tool_result()
        })
    }
}

/// Serves the client at stdin and stdout, until it closes them.
pub async fn serve_stdio(server: Server) -> Result<(), ServeError> {
    let running = match server.serve(transport::stdio()).await {
        Ok(running) => running,
        // A client that has thought better of it.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(ServeError::Opening(Box::new(error))),
    };
    running.waiting().await.map(drop).map_err(ServeError::Gone)
}
