//! Holds the settings of the server, and the state that all tools share: connections, recorded rollouts, approvals and the audit.
//!
//! What a tool does with it is a method of [`ToolContext`] beside that tool: `launch` in `tools::deploy`, `wait` in
//! `tools::status`, `roll_call` in `tools::hosts`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::answer::ToolError;
use super::approval::{ApprovalMode, Approvals};
use super::audit::{Audit, AuditError};
use super::policy::{Credential, RevisionPolicy};
use super::redact::Redactor;
use crate::bus::{self, Bus, ClientCert, ServerUrl};
use crate::operator::OperatorContext;
use crate::operator::journal::{JournalError, Recorded};
use crate::rollout::{Outcome, Rollout};

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

#[derive(Debug)]
pub(super) struct ToolContext {
    pub(super) settings: Settings,
    pub(super) approvals: Approvals,
    pub(super) audit: Audit,
    pub(super) redactor: Redactor,
}

impl Default for CallTimeouts {
    fn default() -> Self {
        Self { answer: Duration::from_secs(45), progress: Duration::from_secs(15) }
    }
}

impl Settings {
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
            ("HOMELAB_DEPLOY_STATE_DIR", journals.state_dir.clone().into()),
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

impl ToolContext {
    /// Opens the audit file. The server does not start without it.
    pub(super) fn new(settings: Settings) -> Result<Self, AuditError> {
        let redactor = Redactor::new(settings.key_files());
        let audit = Audit::open(settings.audit_file.clone(), redactor.clone(), settings.clock)?;
        let approvals = Approvals::new(settings.approval, settings.clock, redactor.clone());
        Ok(Self { settings, approvals, audit, redactor })
    }

    /// Connects to NATS. Each call opens its own connection, so that no call depends on the state of an earlier one and no
    /// credential is used in place of the other.
    pub(super) async fn connect(&self, credential: Credential) -> Result<Bus, ToolError> {
        Ok(Bus::connect(self.connection(credential)?).await?)
    }

    pub(super) fn connection(&self, credential: Credential) -> Result<&bus::Settings, ToolError> {
        let connection = match credential {
            Credential::Test => Some(&self.settings.test),
            Credential::Admin => self.settings.admin.as_ref(),
        };
        connection.ok_or_else(|| {
            ToolError::new("admin_disabled", "this needs the administrator's key, and this server has none")
                .next("stay within the test tier, or ask the person who started this server for --enable-admin")
        })
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.timeouts.answer
    }

    /// Finds the rollout whose id begins with `id`. Without an id, finds the running one of the wanted rollouts, or else the
    /// latest.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        is_wanted: impl Fn(&Recorded) -> bool,
    ) -> Result<Option<(Arc<Rollout>, Recorded)>, ToolError> {
        let Some(id) = id else {
            let mut all = self.rollouts()?;
            all.retain(is_wanted);
            let latest = all.iter().rposition(is_running).or(all.len().checked_sub(1));
            return Ok(latest.and_then(|latest| with_rollout(all.swap_remove(latest))));
        };
        if id.is_empty() {
            return Err(ToolError::new("invalid_arguments", "rollout_id is empty")
                .next("leave rollout_id out for the one that runs, else the latest"));
        }
        let journals = &self.settings.operator.journals;
        let ids = journals.ids()?.into_iter().filter(|known| known.starts_with(id));
        let found = ids.map(|id| journals.read(&id)).collect::<Result<Vec<_>, _>>()?;
        let mut found: Vec<_> =
            found.into_iter().filter(|recorded| self.may_show(recorded)).filter_map(with_rollout).collect();
        if found.len() > 1 {
            let ids = found.iter().map(|(rollout, _)| rollout.id.to_string()).collect();
            return Err(JournalError::Ambiguous { prefix: id.to_owned(), ids }.into());
        }
        let unknown = || JournalError::Unknown { prefix: id.to_owned(), near: String::new() };
        Ok(Some(found.pop().ok_or_else(unknown)?))
    }

    /// Finds a rollout as [`find`](Self::find) does; it is an error when there is none.
    pub(super) fn rollout(&self, id: Option<&str>) -> Result<(Arc<Rollout>, Recorded), ToolError> {
        self.find(id, |_| true)?.ok_or_else(|| {
            ToolError::new("unknown_id", "no rollout is on record here").next("deploy or apply_plan begins one")
        })
    }

    /// Returns all rollouts that this server may show, the latest last.
    pub(super) fn rollouts(&self) -> Result<Vec<Recorded>, ToolError> {
        let (mut all, _) = self.settings.operator.journals.all()?;
        all.retain(|recorded| self.may_show(recorded));
        Ok(all)
    }

    /// Whether this server may show a rollout. Without the administrator's key it hides those that may reach beyond test.
    fn may_show(&self, recorded: &Recorded) -> bool {
        let needs = recorded.summary.rollout.as_ref().map(|rollout| Credential::for_plan(&rollout.plan));
        needs.is_some_and(|needed| needed == Credential::Test || self.settings.admin.is_some())
    }
}

fn with_rollout(recorded: Recorded) -> Option<(Arc<Rollout>, Recorded)> {
    Some((recorded.summary.rollout.clone()?, recorded))
}

pub(super) fn is_running(recorded: &Recorded) -> bool {
    recorded.running && recorded.summary.outcome.is_none()
}

/// Whether a rollout is paused, or its process ended before the rollout did.
pub(super) fn is_resumable(recorded: &Recorded) -> bool {
    !recorded.running && matches!(recorded.summary.outcome, None | Some(Outcome::Paused))
}
