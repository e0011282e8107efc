//! What the server is started with.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::approval::ApprovalMode;
use super::policy::RevisionPolicy;
use crate::bus::{self, ServerUrl};
use crate::operator::OperatorContext;

/// What the server is started with. A client cannot change any of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How tools connect that reach the test tier only: with the key of a deployer to it.
    pub test: bus::Settings,
    /// How all other tools connect; without it they do not exist.
    pub admin: Option<bus::Settings>,
    /// Who deploys. No person is asked about a flake: one that only hosts name has to be accepted before.
    pub operator: OperatorContext,
    pub revisions: RevisionPolicy,
    /// Whether a person is asked before anything is deployed outside the test tier.
    pub approval: ApprovalMode,
    pub audit_file: Option<PathBuf>,
    /// The folder of the plans that there are.
    pub plans_dir: Option<PathBuf>,
    /// Finds the value of an environment variable that defines an alias, for plans that use one.
    pub aliases: fn(&str) -> Option<String>,
    /// This program, which carries rollouts out in a process of its own.
    pub program: PathBuf,
    pub tools: ToolFilter,
    pub timeouts: CallTimeouts,
    pub clock: fn() -> Timestamp,
}

#[derive(Debug, Clone, Default)]
pub struct ToolFilter {
    pub mode: Mode,
    /// Only these, by name; all where nothing was said.
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
    /// From the beginning of a call to its answer, at most. Clients give a call up after a minute.
    pub answer: Duration,
    /// The longest time without progress towards a client that asked for it.
    pub progress: Duration,
}

impl Default for CallTimeouts {
    fn default() -> Self {
        Self { answer: Duration::from_secs(45), progress: Duration::from_secs(15) }
    }
}

impl Settings {
    /// The files whose paths are not told.
    pub(super) fn key_files(&self) -> Vec<String> {
        let connections = std::iter::once(&self.test).chain(&self.admin);
        let files = connections.flat_map(|connection| {
            let tls = connection.client_cert.as_ref().map(|cert| &cert.key);
            std::iter::once(&connection.nkey_file).chain(tls)
        });
        files.map(|file| file.display().to_string()).collect()
    }

    /// What `homelab-deploy apply` has to find in its environment to connect in the same way. Other users of the machine
    /// can read the arguments of a process, and not its environment.
    pub(super) fn environment(&self, connection: &bus::Settings) -> Vec<(&'static str, OsString)> {
        let servers: Vec<&str> = connection.servers.iter().map(ServerUrl::with_password).collect();
        let client_cert = connection.client_cert.as_ref();
        let files = [
            ("HOMELAB_DEPLOY_NKEY_FILE", Some(connection.nkey_file.as_path())),
            ("HOMELAB_DEPLOY_TLS_CA", connection.ca_file.as_deref()),
            ("HOMELAB_DEPLOY_TLS_CERT", client_cert.map(|client| client.cert.as_path())),
            ("HOMELAB_DEPLOY_TLS_KEY", client_cert.map(|client| client.key.as_path())),
            ("HOMELAB_DEPLOY_STATE_DIR", Some(self.operator.journals.state_dir())),
        ];
        let texts = [
            ("HOMELAB_DEPLOY_NATS_URL", servers.join(",")),
            ("HOMELAB_DEPLOY_DISCOVER_SUBJECT", self.operator.discovery.subject.to_string()),
            ("HOMELAB_DEPLOY_OPERATOR", self.operator.name.clone()),
            // No context: all of its settings are here, and another file of them may lie where this server was started.
            ("HOMELAB_DEPLOY_CONFIG", "/dev/null".to_owned()),
            ("HOMELAB_DEPLOY_CONTEXT", String::new()),
        ];
        let files = files.into_iter().filter_map(|(name, file)| Some((name, Path::as_os_str(file?).to_owned())));
        files.chain(texts.map(|(name, text)| (name, text.into()))).collect()
    }
}
