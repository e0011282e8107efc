//! Defines the settings of the server.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::approval::ApprovalMode;
use super::policy::RevisionPolicy;
use crate::bus::{self, ClientCert, ServerUrl};
use crate::operator::OperatorContext;

/// The settings of the server. A client cannot change them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The connection of tools that reach only the test tier, with the key of a test deployer.
    pub test: bus::Settings,
    /// The connection of all other tools, which exist only with it.
    pub admin: Option<bus::Settings>,
    /// The server asks no person about a flake: one that only hosts name has to be accepted before.
    pub operator: OperatorContext,
    pub revisions: RevisionPolicy,
    pub approval: ApprovalMode,
    pub audit_file: Option<PathBuf>,
    pub plans_dir: Option<PathBuf>,
    /// Looks up the environment variable of an alias that a plan uses.
    pub aliases: fn(&str) -> Option<String>,
    /// The program that runs rollouts in the background: this one, except in tests.
    pub program: PathBuf,
    pub tools: ToolFilter,
    pub timeouts: CallTimeouts,
    pub clock: fn() -> Timestamp,
}

#[derive(Debug, Clone, Default)]
pub struct ToolFilter {
    pub mode: Mode,
    /// The names of the offered tools; `None` offers all.
    pub only: Option<BTreeSet<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    ReadWrite,
    ReadOnly,
}

#[derive(Debug, Clone, Copy)]
pub struct CallTimeouts {
    /// The limit of a call. Clients give up after a minute.
    pub answer: Duration,
    /// The longest time between two progress messages.
    pub progress: Duration,
}

impl Default for CallTimeouts {
    fn default() -> Self {
        Self { answer: Duration::from_secs(45), progress: Duration::from_secs(15) }
    }
}

impl Settings {
    /// Returns the paths of all key files.
    pub(super) fn key_files(&self) -> Vec<String> {
        let keys = |connection: &bus::Settings| {
            let tls = connection.client_cert.as_ref().map(|client| client.key.clone());
            std::iter::once(connection.nkey_file.clone()).chain(tls)
        };
        let files = std::iter::once(&self.test).chain(&self.admin).flat_map(keys);
        files.map(|file| file.display().to_string()).collect()
    }

    /// Returns the environment with which `homelab-deploy apply` connects in the same way. Other users of the machine can read
    /// the arguments of a process, but not its environment.
    pub(super) fn environment(&self, connection: &bus::Settings) -> Vec<(&'static str, OsString)> {
        let servers: Vec<&str> = connection.servers.iter().map(ServerUrl::with_password).collect();
        let OperatorContext { name, discovery, journals, .. } = &self.operator;
        let mut environment: Vec<(&str, OsString)> = vec![
            ("HOMELAB_DEPLOY_NATS_URL", servers.join(",").into()),
            ("HOMELAB_DEPLOY_NKEY_FILE", connection.nkey_file.clone().into()),
            ("HOMELAB_DEPLOY_DISCOVER_SUBJECT", discovery.subject.to_string().into()),
            ("HOMELAB_DEPLOY_OPERATOR", name.into()),
            ("HOMELAB_DEPLOY_STATE_DIR", journals.state_dir().into()),
            // No context: this environment has all settings, and the working directory may have a file of contexts.
            ("HOMELAB_DEPLOY_CONFIG", "/dev/null".into()),
            ("HOMELAB_DEPLOY_CONTEXT", OsString::new()),
        ];
        environment.extend(connection.ca_file.clone().map(|file| ("HOMELAB_DEPLOY_TLS_CA", file.into())));
        if let Some(ClientCert { cert, key }) = &connection.client_cert {
            environment.extend([("HOMELAB_DEPLOY_TLS_CERT", cert.into()), ("HOMELAB_DEPLOY_TLS_KEY", key.into())]);
        }
        environment
    }
}
