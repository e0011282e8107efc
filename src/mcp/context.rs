//! What every tool works with: the settings, the connections, the records of rollouts, and who approves.

use tokio::time::Instant;

use super::approval::Approvals;
use super::audit::{Audit, AuditError};
use super::error::ToolError;
use super::redact::Redactor;
use super::settings::{Credential, Settings};
use crate::bus::{self, Bus};
use crate::operator::journal::{JournalError, Recorded};
use crate::plan::ResolvedPlan;
use crate::protocol::Tier;
use crate::rollout::{Outcome, Rollout, Summary};

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
        self.settings.connection(credential).ok_or_else(|| {
            ToolError::new("admin_disabled", "this needs the administrator's key, and this server has none")
                .next("stay within the test tier, or ask the person who started this server for --enable-admin")
        })
    }

    /// The credential with the most rights that this server has.
    pub(super) fn strongest(&self) -> Credential {
        if self.settings.admin.is_some() { Credential::Admin } else { Credential::Test }
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.timeouts.answer
    }

    /// The id of the rollout that is meant: the one whose id begins so, else the one that runs, else the latest.
    pub(super) fn find(&self, id: Option<&str>) -> Result<String, ToolError> {
        self.find_where(id, |_| true)
    }

    /// The same; without an id only among those that `is_meant` takes.
    pub(super) fn find_where(
        &self,
        id: Option<&str>,
        is_meant: impl Fn(&Recorded) -> bool,
    ) -> Result<String, ToolError> {
        let Some(id) = id else {
            let mut recorded = self.rollouts()?;
            recorded.retain(is_meant);
            let meant = recorded.iter().rfind(|recorded| is_running(recorded)).or(recorded.last());
            let rollout = meant.and_then(|recorded| recorded.summary.rollout.as_ref());
            return rollout.map(|rollout| rollout.id.to_string()).ok_or_else(|| {
                ToolError::new("unknown_id", "there is no such rollout on record here")
                    .next("rollout_status with list: true shows the rollouts on record")
            });
        };
        if id.is_empty() {
            return Err(ToolError::new("invalid_arguments", "rollout_id is empty")
                .next("leave rollout_id out for the one that runs, else the latest"));
        }
        let found = self.settings.journals.find(id)?;
        if self.may_see(&self.settings.journals.read(&found)?.summary) {
            return Ok(found);
        }
        Err(JournalError::Unknown { prefix: id.to_owned(), near: String::new() }.into())
    }

    /// All rollouts that this server may tell about, the latest last.
    pub(super) fn rollouts(&self) -> Result<Vec<Recorded>, ToolError> {
        let (mut all, _) = self.settings.journals.all()?;
        all.retain(|recorded| self.may_see(&recorded.summary));
        Ok(all)
    }

    /// Whether a rollout exists for this server: without the administrator's key, those that touch another tier do not.
    fn may_see(&self, summary: &Summary) -> bool {
        let admin = self.settings.admin.is_some();
        summary.rollout.as_deref().is_some_and(|rollout| admin || touches_test_only(&rollout.plan))
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

pub(super) fn is_running(recorded: &Recorded) -> bool {
    recorded.running && recorded.summary.outcome.is_none()
}

/// Whether a rollout that is not running can be resumed: it waits for a person, or its process ended too early.
pub(super) fn is_resumable(recorded: &Recorded) -> bool {
    !recorded.running && matches!(recorded.summary.outcome, None | Some(Outcome::Paused))
}

/// Whether a plan has hosts of the test tier only, by what they say and by the subjects that reach them.
pub(super) fn touches_test_only(plan: &ResolvedPlan) -> bool {
    beyond_test(plan).next().is_none()
}

/// The tiers other than test that a plan reaches, with a host of each.
pub(super) fn beyond_test(plan: &ResolvedPlan) -> impl Iterator<Item = (&crate::protocol::HostName, Tier)> {
    plan.hosts().flat_map(|host| {
        let by_subject = host.subject().target().ok().and_then(|target| target.tier());
        let tiers = std::iter::once(host.tier).chain(by_subject);
        tiers.filter(|tier| *tier != Tier::Test).map(|tier| (&host.hostname, tier))
    })
}

/// Makes sure that a plan has no host that the credential is not for. The NATS server would refuse such a request, but only
/// after the hosts before it were deployed.
pub(super) fn within_reach(credential: Credential, plan: &ResolvedPlan) -> Result<(), ToolError> {
    match beyond_test(plan).next().filter(|_| credential == Credential::Test) {
        None => Ok(()),
        Some((host, tier)) => Err(wrong_tier(host, tier, Tier::Test)),
    }
}

/// That a host belongs to another tier than the one that was asked for.
pub(super) fn wrong_tier(host: &crate::protocol::HostName, tier: Tier, wanted: Tier) -> ToolError {
    ToolError::new("wrong_tier", format!("{host} is a host of {tier}, and this would deploy to {wanted}"))
        .next("list_hosts shows the tier of each host; deploy_admin deploys to any tier, where this server offers it")
}
