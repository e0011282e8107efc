//! A client that plays an assistant.

use std::process::Stdio;

use homelab_deploy::mcp::{ApprovalMode, CallTimeouts, RevisionPolicy, Server, Settings, ToolFilter};
use homelab_deploy::operator::OperatorContext;
use homelab_deploy::operator::flake::{AcceptedFlakes, FlakeRules};
use homelab_deploy::operator::journal::Journals;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation, JsonObject,
    ProtocolVersion, Tool,
};
use rmcp::service::RunningService;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::wait;

/// The two eras of the protocol: with a handshake, and with everything in each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    Handshake,
    Stateless,
}

pub const ERAS: [Era; 2] = [Era::Handshake, Era::Stateless];

/// A client and its server, which both end when this is dropped.
pub struct Assistant<H: rmcp::ClientHandler = ClientConfig> {
    pub client: RunningService<RoleClient, H>,
    _server: JoinSet<()>,
    child: Option<Child>,
}

/// Returns the description of such a client.
pub fn config() -> ClientConfig {
    ClientConfig::new(ClientCapabilities::default(), Implementation::new("test", "1"))
}

/// Returns the settings of a server with the key for the test tier, and without one for all tiers.
pub fn settings(lab: &Lab) -> Settings {
    let connect = |key: &Key| homelab_deploy::bus::Settings {
        servers: vec![lab.server.url().parse().unwrap()],
        nkey_file: key.seed_file().to_owned(),
        seed_readers: homelab_deploy::bus::SeedReaders::Warn,
        ca_file: None,
        client_cert: None,
        name: "test".to_owned(),
        subscription_capacity: homelab_deploy::bus::SUBSCRIPTION_CAPACITY,
    };
    Settings {
        test: connect(&lab.test_deployer),
        admin: None,
        operator: OperatorContext {
            name: "ops@desk".to_owned(),
            discovery: homelab_deploy::operator::Discovery {
                subject: homelab_deploy::protocol::subject::DISCOVER.parse().unwrap(),
                window: Some(std::time::Duration::from_millis(500)),
                known: homelab_deploy::operator::KnownHosts::of(
                    lab.home().join("state/homelab-deploy"),
                    [lab.server.url().to_owned()],
                ),
            },
            journals: Journals::below(&lab.home().join("state/homelab-deploy")),
            cache: None,
            flakes: FlakeRules {
                given: Some(lab.flake.url().parse().unwrap()),
                accept: None,
                accepted: AcceptedFlakes::of(lab.home().join("state/homelab-deploy"), [lab.server.url().to_owned()]),
                consent: None,
            },
        },
        revisions: RevisionPolicy::new(&[]),
        approval: ApprovalMode::Person,
        audit_file: None,
        plans_dir: Some(lab.home().join("plans")),
        aliases: |_| None,
        program: crate::program().to_owned(),
        tools: ToolFilter::default(),
        timeouts: CallTimeouts::default(),
        clock: homelab_deploy::clock::now,
    }
}

/// Returns the same with the key of an administrator, and without approvals.
pub fn administrator(lab: &Lab) -> Settings {
    let settings = settings(lab);
    let admin = homelab_deploy::bus::Settings { nkey_file: lab.admin.seed_file().to_owned(), ..settings.test.clone() };
    Settings { admin: Some(admin), approval: ApprovalMode::Waived, revisions: anything(), ..settings }
}

/// Returns the policy that permits every revision on every tier.
fn anything() -> RevisionPolicy {
    RevisionPolicy::new(&["prod=*", "test=*"].map(|rule| rule.parse().unwrap()))
}

/// Returns the flags for the settings of [`administrator`].
pub fn admin_flags(lab: &Lab) -> [&str; 4] {
    let seed = lab.admin.seed_file().to_str().unwrap();
    ["--enable-admin", "--admin-without-approval", "--admin-nkey-file", seed]
}

/// Returns `homelab-deploy mcp` with these arguments, as the lab's operator calls it.
pub fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.operator(&lab.test_deployer).unwrap();
    command.arg("mcp").args(["--discover-window", "500ms"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

impl Assistant {
    /// Connects to a server in this process.
    pub async fn beside(settings: Settings, era: Era) -> Self {
        Self::meeting(config(), Server::new(settings).unwrap(), era).await
    }

    /// Starts the program, and connects to it.
    pub async fn spawn(command: &mut Command, era: Era) -> Self {
        let mut child = command.spawn().unwrap();
        let pipes = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let client = connect(config(), tokio::io::join(pipes.0, pipes.1), era).await;
        Self { client, _server: JoinSet::new(), child: Some(child) }
    }

    /// Returns the id of the server process.
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().and_then(Child::id).unwrap();
        Pid::from_raw(id.try_into().unwrap()).unwrap()
    }

    /// Closes the connection, and returns the server process.
    pub async fn hang_up(mut self) -> Child {
        let child = self.child.take().unwrap();
        self.client.cancel().await.unwrap();
        child
    }
}

impl<H: rmcp::ClientHandler> Assistant<H> {
    /// Connects to a server in this process with a handler that answers its questions.
    pub async fn meeting(handler: H, server: Server, era: Era) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let mut serving = JoinSet::new();
        let (input, output) = tokio::io::split(theirs);
        serving.spawn(async move { server.serve_lines(input, output).await.unwrap() });
        let client = connect(handler, ours, era).await;
        Self { client, _server: serving, child: None }
    }

    /// Returns the tools that the server offers.
    pub async fn tools(&self) -> Vec<Tool> {
        self.client.list_all_tools().await.unwrap()
    }

    /// Calls a tool. Asserts that the text of the result has everything in its data, and that both are short enough.
    pub async fn call(&self, tool: &str, arguments: Value) -> CallToolResult {
        let result = wait::event(tool, self.client.call_tool(params(tool, arguments))).await.unwrap().unwrap();
        let size = serde_json::to_vec(&result).unwrap().len();
        assert!(size <= 20_000, "{tool} answers {size} bytes");
        if result.is_error == Some(true) {
            assert_eq!(result.structured_content, None, "an error is text only");
        } else {
            is_whole(&text(&result), result.structured_content.as_ref().unwrap());
        }
        result
    }

    /// Calls a tool, which must succeed, and returns its data.
    pub async fn ask(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_ne!(result.is_error, Some(true), "{}", text(&result));
        result.structured_content.unwrap()
    }

    /// Calls a tool, which must fail, and returns its text.
    pub async fn refused(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result.is_error, Some(true), "{}", text(&result));
        text(&result)
    }
}

async fn connect<H, T>(handler: H, transport: T, era: Era) -> RunningService<RoleClient, H>
where
    H: rmcp::ClientHandler,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let lifecycle = match era {
        Era::Handshake => ClientLifecycleMode::Initialize,
        Era::Stateless => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
    };
    let transport = tokio::io::split(transport);
    wait::event("the server is met", handler.serve_with_lifecycle(transport, lifecycle)).await.unwrap().unwrap()
}

/// Returns the parameters of a call.
pub fn params(tool: &str, arguments: Value) -> CallToolRequestParams {
    let arguments: JsonObject = serde_json::from_value(arguments).unwrap();
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)
}

/// Returns all text of a result.
pub fn text(result: &CallToolResult) -> String {
    result.content.iter().filter_map(|block| block.as_text()).map(|text| text.text.clone()).collect()
}

/// Asserts that a text has each line of each string in a value, and each number.
#[track_caller]
fn is_whole(text: &str, value: &Value) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            assert!(text.contains(&format!("{name}:")), "{name} is missing in\n{text}");
            is_whole(text, member);
        }),
        Value::Array(items) => items.iter().for_each(|item| is_whole(text, item)),
        Value::String(said) => {
            said.lines().for_each(|line| assert!(text.contains(line), "{line:?} is missing in\n{text}"));
        }
        other => assert!(text.contains(&other.to_string()), "{other} is missing in\n{text}"),
    }
}

/// Waits until no rollout runs: its process must not outlive the test.
pub async fn over(lab: &Lab) {
    let assistant = Assistant::beside(administrator(lab), Era::Handshake).await;
    let ended = async || {
        let answer = assistant.ask("rollout_status", json!({ "wait_seconds": 45 })).await;
        Ok((answer["state"] != "running").then_some(()))
    };
    wait::until("the rollouts are over", ended).await.unwrap();
}
