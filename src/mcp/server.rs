//! What a client sees, and the one way that every call goes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use miette::Diagnostic;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::{IntoCallToolResult, ToolCallContext};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation, InitializeRequestParams,
    InitializeResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig, Tool, UpdateTaskParams,
};
use rmcp::service::{RequestContext, ServerInitializeError};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt, tool_handler, transport};
use thiserror::Error;
use tokio::task::JoinError;

use super::approval::{Approval, Approvals, Question};
use super::audit::{Audit, AuditError};
use super::call::Call;
use super::error::ToolError;
use super::scrub::Scrubber;
use super::settings::{Access, Exposure, Mode, Settings};
use super::tasks::Tasks;
use super::tools::ADMIN_TOOLS;
use super::{completion, prompts, resources};
use crate::bus::{self, Bus};

/// What an assistant is told of the server as a whole.
const INSTRUCTIONS: &str = "Deploys NixOS hosts over NATS, one by one or in waves that halt when one fails. \
    Begin with list_hosts. Success is only what a result calls completed or succeeded; silence is a failure. \
    A call waits up to 45 seconds and then answers with state running and an id: go on with deploy_status or \
    rollout_status, which also tell of rollouts that another process started.";

/// The server: its tools, and what they work with.
#[derive(Debug, Clone)]
pub struct Server {
    pub(super) settings: Arc<Settings>,
    approvals: Arc<Approvals>,
    audit: Arc<Audit>,
    pub(super) scrubber: Scrubber,
    pub(super) tasks: Tasks,
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
    /// A server that has not met its client yet. Without its record there is none.
    pub fn new(settings: Settings) -> Result<Self, AuditError> {
        let scrubber = Scrubber::new(settings.key_files());
        let audit = Audit::open(settings.audit_file.clone(), scrubber.clone(), settings.clock)?;
        let approvals = Arc::new(Approvals::new(settings.asking, settings.clock));
        let tool_router = exposed(&settings);
        let tasks = Tasks::default();
        Ok(Self { settings: Arc::new(settings), approvals, audit, scrubber, tasks, tool_router })
    }

    /// Whether something may be deployed: by the policy for revisions, and then by a person. Everything that deploys asks
    /// here.
    pub(super) async fn permit(
        &self,
        question: &Question<'_>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Approval, ToolError> {
        self.settings.revisions.check(question.asked, question.tiers.iter().copied())?;
        self.approvals.obtain(question, context).await
    }

    /// Connects with the key of a tool. Each call makes a connection of its own, so that a server that was away is no
    /// matter once it is back, and no two keys can be mistaken for each other.
    pub(super) async fn connect(&self, access: Access) -> Result<Bus, ToolError> {
        Ok(Bus::connect(self.connection(access)?).await?)
    }

    /// How to connect with the key of a tool.
    pub(super) fn connection(&self, access: Access) -> Result<&bus::Settings, ToolError> {
        self.settings.connection(access).ok_or_else(|| {
            ToolError::new("admin_disabled", "this server was started without the key of an administrator")
                .next("ask whoever started it for --enable-admin, or stay within the test tier")
        })
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let program = Implementation::new("homelab-deploy", env!("CARGO_PKG_VERSION"));
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .enable_completions()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities).with_server_info(program).with_instructions(INSTRUCTIONS)
    }

    /// Clients that begin with a handshake are not told of tasks, as theirs were others.
    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut info = self.negotiate_initialize(&request)?;
        info.capabilities.extensions = None;
        Ok(info)
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::all()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::get(&request.name, request.arguments.as_ref()).map(Into::into)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::all(&self.settings.plans)))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.resource(&request.uri, &context).await.map(Into::into)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Ok(CompleteResult::new(completion::complete(&request.argument, &self.settings)))
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let task = self.tasks.0.get_task(&request.task_id);
        task.map(GetTaskResult::new).map_err(|error| self.scrubber.clean_error(error))
    }

    /// No task asks for anything, so there is nothing to take in.
    async fn update_task(&self, request: UpdateTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        let taken = self.tasks.0.update_task(&request.task_id, request.input_responses);
        taken.map_err(|error| self.scrubber.clean_error(error))
    }

    async fn cancel_task(&self, request: CancelTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.tasks.0.cancel_task(&request.task_id).map_err(|error| self.scrubber.clean_error(error))
    }

    /// Every call goes this way: it is on record however it ends, and nothing leaves that was not cleaned.
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        mut context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let client = context.client_info().map(|client| format!("{} {}", client.name, client.version));
        let record = self.audit.begin(&request.name, request.arguments.as_ref(), client.as_deref());
        let call = Call::new(&request);
        context.extensions.insert(call.clone());
        let answer = match self.admit(&request.name) {
            Ok(()) => self.answer(request, context).await,
            Err(refusal) => refusal.into_call_tool_result(),
        };
        let answer = self.clean(answer);
        record.end(call.ending(&answer));
        answer
    }
}

impl Server {
    /// Refuses what could not be put on record. The refusal is: once it can be, the next call goes through.
    fn admit(&self, tool: &str) -> Result<(), ToolError> {
        if self.tool_router.get(tool).is_none_or(writes) && self.audit.is_failing() {
            return Err(ToolError::new("audit_unwritable", "calls cannot be put on record, so nothing is changed")
                .next("ask whoever started this server to look at its --audit-file, then call the tool again"));
        }
        Ok(())
    }

    /// A tool that panics has not answered, and its client would wait for ever.
    async fn answer(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = ToolCallContext::new(self, request, context);
        let answer = AssertUnwindSafe(self.tool_router.call(call)).catch_unwind().await;
        answer.unwrap_or_else(|_| ToolError::broke_off().into_call_tool_result())
    }

    /// The answer without secrets and without anything that a terminal obeys.
    fn clean(&self, answer: Result<CallToolResponse, ErrorData>) -> Result<CallToolResponse, ErrorData> {
        match answer {
            Ok(CallToolResponse::Complete(result)) => Ok(self.scrubber.clean_result(result).into()),
            Err(error) => Err(self.scrubber.clean_error(error)),
            // A question is cleaned where it is put together; what is sealed must stay as it is.
            Ok(other) => Ok(other),
        }
    }
}

/// The tools that this server offers. The others are neither listed nor callable.
fn exposed(settings: &Settings) -> ToolRouter<Server> {
    let mut tools = Server::tool_router();
    let Exposure { mode, only } = &settings.exposure;
    for tool in tools.list_all() {
        let is_for_admins = ADMIN_TOOLS.contains(&&*tool.name);
        let offered = (settings.admin.is_some() || !is_for_admins)
            && (*mode == Mode::ReadWrite || !writes(&tool))
            && only.as_ref().is_none_or(|only| only.contains(&*tool.name));
        if !offered {
            tools.remove_route(&tool.name);
        }
    }
    tools
}

/// Whether a tool changes anything, which is what its users are told as well.
fn writes(tool: &Tool) -> bool {
    tool.annotations.as_ref().and_then(|hints| hints.read_only_hint) != Some(true)
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
