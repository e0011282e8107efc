//! What every tool works with: the settings, the connections, the records of rollouts, and who approves.

use std::sync::Arc;

use tokio::time::Instant;

use super::answer::ToolError;
use super::approval::Approvals;
use super::audit::{Audit, AuditError};
use super::boundary::Credential;
use super::redact::Redactor;
use super::settings::Settings;
use crate::bus::{self, Bus};
use crate::operator::journal::{JournalError, Recorded};
use crate::rollout::{Outcome, Rollout};

#[derive(Debug)]
pub(super) struct ToolContext {
    pub(super) settings: Settings,
    pub(super) approvals: Approvals,
    pub(super) audit: Audit,
    pub(super) redactor: Redactor,
}

impl ToolContext {
    /// Opens the audit file. Without it nothing is served.
    pub(super) fn new(settings: Settings) -> Result<Self, AuditError> {
        let redactor = Redactor::new(settings.key_files());
        let audit = Audit::open(settings.audit_file.clone(), redactor.clone(), settings.clock)?;
        let approvals = Approvals::new(settings.approval, settings.clock, redactor.clone());
        Ok(Self { settings, approvals, audit, redactor })
    }

    /// Connects with a credential. Each call makes a connection of its own: no call depends on the state that an earlier
    /// one left, and no credential can be taken for the other.
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

    /// The rollout that is meant: the one whose id begins so, else the one that runs, else the latest.
    pub(super) fn find(&self, id: Option<&str>) -> Result<(Arc<Rollout>, Recorded), ToolError> {
        match id {
            Some(id) => self.rollout(id),
            None => self.latest(|_| true)?.ok_or_else(|| {
                ToolError::new("unknown_id", "no rollout is on record here").next("deploy or apply_plan begins one")
            }),
        }
    }

    pub(super) fn rollout(&self, id: &str) -> Result<(Arc<Rollout>, Recorded), ToolError> {
        if id.is_empty() {
            return Err(ToolError::new("invalid_arguments", "rollout_id is empty")
                .next("leave rollout_id out for the one that runs, else the latest"));
        }
        let journals = &self.settings.operator.journals;
        let found = Some(journals.read(&journals.find(id)?)?).filter(|recorded| self.may_see(recorded));
        let unknown = || JournalError::Unknown { prefix: id.to_owned(), near: String::new() };
        Ok(found.and_then(begun).ok_or_else(unknown)?)
    }

    /// Of the rollouts that are wanted the one that runs, else the latest.
    pub(super) fn latest(
        &self,
        is_wanted: impl Fn(&Recorded) -> bool,
    ) -> Result<Option<(Arc<Rollout>, Recorded)>, ToolError> {
        let mut all = self.rollouts()?;
        all.retain(is_wanted);
        let latest = all.iter().rposition(is_running).or(all.len().checked_sub(1));
        Ok(latest.and_then(|latest| begun(all.swap_remove(latest))))
    }

    /// All rollouts that this server may tell about, the latest last.
    pub(super) fn rollouts(&self) -> Result<Vec<Recorded>, ToolError> {
        let (mut all, _) = self.settings.operator.journals.all()?;
        all.retain(|recorded| self.may_see(recorded));
        Ok(all)
    }

    /// Whether a rollout exists for this server: without the administrator's key, those that touch another tier do not.
    fn may_see(&self, recorded: &Recorded) -> bool {
        let needs = recorded.summary.rollout.as_ref().map(|rollout| Credential::for_plan(&rollout.plan));
        needs.is_some_and(|needed| needed == Credential::Test || self.settings.admin.is_some())
    }

    /// Whether each host of a rollout is on record as having run the commit of it before.
    pub(super) fn ran_before(&self, rollout: &Rollout) -> Result<bool, ToolError> {
        let recorded = self.rollouts()?;
        let Some(commit) = rollout.revision.commit() else { return Ok(false) };
        let ran = |host| {
            let views = recorded.iter().filter_map(|recorded| Some((recorded.summary.rollout.as_deref()?, recorded)));
            let mut views = views.filter_map(|(rollout, recorded)| Some((rollout, recorded.summary.host(host)?)));
            views.any(|(rollout, view)| view.ran_before(rollout) == Some(&commit))
        };
        Ok(rollout.plan.hosts().all(|host| ran(&host.hostname)))
    }
}

/// With the rollout, once that has begun.
fn begun(recorded: Recorded) -> Option<(Arc<Rollout>, Recorded)> {
    Some((recorded.summary.rollout.clone()?, recorded))
}

pub(super) fn is_running(recorded: &Recorded) -> bool {
    recorded.running && recorded.summary.outcome.is_none()
}

/// Whether a rollout that is not running can be resumed: it waits for a person, or its process ended too early.
pub(super) fn is_resumable(recorded: &Recorded) -> bool {
    !recorded.running && matches!(recorded.summary.outcome, None | Some(Outcome::Paused))
}
