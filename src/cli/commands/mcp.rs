//! `mcp`: the tools of assistants.

use std::path::PathBuf;

use clap::Args;

use crate::bus;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::operator::OperatorArgs;
use crate::cli::runtime::block_on;
use crate::mcp::{Server, Settings, serve_stdio};

/// Serve the tools of an assistant over stdin and stdout, as the Model Context Protocol has it.
///
/// The key is what bounds them: with that of a deployer to the test tier, nothing else can be reached.
#[derive(Debug, Args)]
pub(in crate::cli) struct Mcp {
    /// Offer the tools that deploy to every tier as well
    #[arg(long, env = "HOMELAB_DEPLOY_ENABLE_ADMIN", requires = "admin_nkey_file")]
    enable_admin: bool,

    /// File with the seed of the NKey that those tools connect with
    #[arg(long, env = "HOMELAB_DEPLOY_ADMIN_NKEY_FILE", value_name = "FILE")]
    admin_nkey_file: Option<PathBuf>,

    #[command(flatten)]
    operator: OperatorArgs,
}

impl Mcp {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let server = Server::new(self.settings());
        block_on(serve_stdio(server))?.map_err(|error| Exit::Precondition.because(error))?;
        Ok(Exit::Success)
    }

    fn settings(&self) -> Settings {
        let test = self.operator.settings();
        let admin_key = self.admin_nkey_file.clone().filter(|_| self.enable_admin);
        let discovery = self.operator.discovery(None);
        Settings {
            admin: admin_key.map(|nkey_file| bus::Settings { nkey_file, ..test.clone() }),
            test,
            discover_subject: discovery.subject,
            discover_window: discovery.window,
            operator: self.operator.name(),
        }
    }
}
