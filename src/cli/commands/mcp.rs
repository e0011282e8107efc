//! `mcp`: serves the tools of assistants.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use tokio::io::{stdin, stdout};

use crate::bus;
use crate::cli::args::{DeployerArgs, switch};
use crate::cli::context::{KnownAliases, config_dir};
use crate::cli::log::LogArgs;
use crate::cli::out::{CommandResult, Exit};
use crate::clock;
use crate::mcp::{
    AllowRef, ApprovalMode, CallTimeouts, Mode, RevisionPolicy, Server, Settings, ToolFilter, tool_names,
};
use crate::operator::background::this_program;
use crate::plan::Aliases;

#[derive(Debug, Args)]
pub(in crate::cli) struct Mcp {
    /// Also offer the tools that deploy to every tier
    #[arg(long, env = "HOMELAB_DEPLOY_ENABLE_ADMIN", requires = "admin_nkey_file", value_parser = switch)]
    enable_admin: bool,

    /// File with the seed of the NKey for those tools
    #[arg(long, env = "HOMELAB_DEPLOY_ADMIN_NKEY_FILE", value_name = "FILE")]
    admin_nkey_file: Option<PathBuf>,

    /// Offer only the tools that change nothing
    #[arg(long, env = "HOMELAB_DEPLOY_READ_ONLY", value_parser = switch)]
    read_only: bool,

    /// Offer only these tools; may be repeated [default: all]
    #[arg(long, env = "HOMELAB_DEPLOY_TOOLS", value_name = "TOOL", value_delimiter = ',')]
    #[arg(value_parser = PossibleValuesParser::new(tool_names()))]
    tools: Vec<String>,

    /// Branch or tag that may be deployed to a tier; * matches any characters; may be repeated [default: test=*, and
    /// prod=main and prod=master]
    #[arg(long, env = "HOMELAB_DEPLOY_ALLOW_REF", value_name = "TIER=GLOB", value_delimiter = ',')]
    allow_ref: Vec<AllowRef>,

    /// Deploy outside the test tier without asking a person first
    #[arg(long, env = "HOMELAB_DEPLOY_ADMIN_WITHOUT_APPROVAL", requires = "enable_admin", value_parser = switch)]
    admin_without_approval: bool,

    /// File to record each tool call in, one line of JSON each; created for you alone
    #[arg(long, env = "HOMELAB_DEPLOY_AUDIT_FILE", value_name = "FILE")]
    audit_file: Option<PathBuf>,

    /// Folder of the plans that assistants may use [default: ~/.config/homelab-deploy/plans]
    #[arg(long, env = "HOMELAB_DEPLOY_PLANS_DIR", value_name = "DIR")]
    plans_dir: Option<PathBuf>,

    #[command(flatten)]
    log: LogArgs,

    #[command(flatten)]
    deployer: DeployerArgs,
}

impl Mcp {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        self.log.start();
        let server = Server::new(self.settings())?;
        server.serve_lines(stdin(), stdout()).await?;
        Ok(Exit::Success)
    }

    fn settings(&self) -> Settings {
        let test = self.deployer.operator.settings();
        let admin_key = self.admin_nkey_file.clone().filter(|_| self.enable_admin);
        Settings {
            admin: admin_key.map(|nkey_file| bus::Settings { nkey_file, ..test.clone() }),
            test,
            operator: self.deployer.context(None),
            revisions: RevisionPolicy::new(&self.allow_ref),
            approval: if self.admin_without_approval { ApprovalMode::Waived } else { ApprovalMode::Person },
            audit_file: self.audit_file.clone(),
            // Never `./plans`: a client starts the program in any repository it works on.
            plans_dir: self.plans_dir.clone().or_else(|| Some(config_dir()?.join("plans"))),
            aliases: |variable| KnownAliases.subject(variable),
            program: this_program(),
            tools: ToolFilter {
                mode: if self.read_only { Mode::ReadOnly } else { Mode::ReadWrite },
                only: (!self.tools.is_empty()).then(|| self.tools.iter().cloned().collect()),
            },
            timeouts: CallTimeouts::default(),
            clock: clock::now,
        }
    }
}
