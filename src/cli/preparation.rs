//! What it takes to know what a plan comes down to now.

use std::collections::BTreeMap;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use super::exit::{CommandError, Exit};
use super::operator::OperatorArgs;
use super::out;
use super::plan_file::{PlanArgs, PlanFile};
use crate::bus::Bus;
use crate::operator::{History, RollCall, RollCalled, resolve_revision};
use crate::plan::{FrozenPlan, Plan, Roster};
use crate::protocol::{Commit, HostName, RequestIds, Revision, RolloutId, RolloutReport, Tier};
use crate::report;
use crate::rollout::Rollout;

/// Which plan, for what and for whom.
#[derive(Debug, Args)]
pub(super) struct Preparation {
    #[command(flatten)]
    plan: PlanArgs,

    /// Branch, tag or commit to deploy instead of the plan's
    #[arg(long, env = "HOMELAB_DEPLOY_REVISION")]
    revision: Option<Revision>,

    /// Leave out this host; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_EXCLUDE", value_name = "HOST", value_delimiter = ',')]
    exclude: Vec<HostName>,

    /// Run this wave only; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_ONLY", value_name = "WAVE", value_delimiter = ',', conflicts_with = "from")]
    only: Vec<String>,

    /// Begin with this wave
    #[arg(long, env = "HOMELAB_DEPLOY_FROM", value_name = "WAVE")]
    from: Option<String>,

    #[command(flatten)]
    pub(super) operator: OperatorArgs,
}

/// A rollout that could begin at once, and the connection that it was prepared over.
pub(super) struct Prepared {
    pub(super) bus: Bus,
    pub(super) rollout: Rollout,
    pub(super) preview: String,
    /// Rollouts of other operators that touch a tier of this one.
    pub(super) others: Vec<RolloutReport>,
    /// Hosts that run a commit that comes after this one.
    pub(super) ahead: Vec<HostName>,
}

#[derive(Debug, Error, Diagnostic)]
enum SelectionError {
    #[error("the plan has no wave {wave:?}")]
    #[diagnostic(help("its waves are: {}", waves.join(", ")))]
    NoSuchWave { wave: String, waves: Vec<String> },
    #[error("there is no host {0} to exclude")]
    #[diagnostic(help("it neither answers nor is named in the plan; `homelab-deploy hosts` lists those that answer"))]
    NoSuchHost(HostName),
    #[error("nothing is left of the plan")]
    #[diagnostic(help("every wave was for hosts that are excluded"))]
    Nothing,
}

impl Preparation {
    /// Reads the plan, asks who is there, and settles hosts and commit. Nothing is deployed.
    pub(super) async fn prepare(&self) -> Result<Prepared, CommandError> {
        let mut file = self.plan.read().map_err(|error| Exit::Usage.because(error))?;
        let asked = file.plan.revision(self.revision.clone());
        let asked = asked.map_err(|mistakes| Exit::Usage.because(file.place(mistakes)))?;

        let mut bus = self.operator.connect().await?;
        let RollCalled { hosts, rollouts } = self.call_roll(&mut bus, &file).await?;
        let roster = Roster::new(hosts);
        self.exclude_hosts(&mut file.plan, &roster).map_err(|error| Exit::Usage.because(error))?;
        let in_plan = |mistakes| Exit::Usage.because(file.place(mistakes));
        let (mut frozen, warnings) = file.plan.resolve(&roster).map_err(in_plan)?;
        self.select_waves(&mut frozen).map_err(|error| Exit::Usage.because(error))?;
        let flake = file.plan.flake(&roster, &frozen).map_err(in_plan)?;
        let commit = resolve_revision(&asked, flake.as_ref()).await.map_err(|e| Exit::Precondition.because(e))?;

        let history = History::near(flake.as_ref());
        let ahead = ahead_of(&commit, &frozen, &history).await;
        let others = rollouts.into_iter().filter(|other| shares_a_tier(other, &frozen)).collect();
        let rollout = Rollout {
            id: RolloutId::from(Uuid::new_v4()),
            ids: RequestIds::new(Uuid::new_v4()),
            operator: self.operator.name(),
            asked,
            revision: commit.clone().into(),
            subject: history.subject(&commit).await,
            source: Some(file.source()),
            plan: frozen,
        };
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        if !ahead.is_empty() {
            let hosts: Vec<&str> = ahead.iter().map(HostName::as_str).collect();
            warnings.push(format!(
                "{} would go back in history: what runs there comes after {}",
                hosts.join(" "),
                commit.short()
            ));
        }
        let preview = report::preview(&rollout, &warnings, out::width());
        Ok(Prepared { bus, rollout, preview, others, ahead })
    }

    async fn call_roll(&self, bus: &mut Bus, file: &PlanFile) -> Result<RollCalled, CommandError> {
        let tiers = file.plan.tiers();
        // One question asks for one tier or for all.
        let tier = tiers.first().copied().filter(|_| tiers.len() == 1);
        let discovery = self.operator.discovery(tier);
        let call = RollCall { discovery: &discovery, only: file.plan.named_only() };
        call.call(bus).await.map_err(|error| Exit::Precondition.because(error))
    }

    fn exclude_hosts(&self, plan: &mut Plan, roster: &Roster) -> Result<(), SelectionError> {
        for host in &self.exclude {
            let is_known = roster.host(host).is_some() || plan.names(host);
            if !is_known {
                return Err(SelectionError::NoSuchHost(host.clone()));
            }
            plan.exclude(host);
        }
        if plan.waves.is_empty() { Err(SelectionError::Nothing) } else { Ok(()) }
    }

    /// Keeps the waves that were asked for. Their hosts are those that they have in the whole plan.
    fn select_waves(&self, plan: &mut FrozenPlan) -> Result<(), SelectionError> {
        let names: Vec<String> = plan.waves.iter().map(|wave| wave.name.clone()).collect();
        let unknown = self.only.iter().chain(&self.from).find(|wave| !names.contains(wave));
        if let Some(wave) = unknown {
            return Err(SelectionError::NoSuchWave { wave: wave.clone(), waves: names });
        }
        if !self.only.is_empty() {
            plan.keep_waves(|wave| self.only.contains(&wave.name));
        }
        if let Some(from) = &self.from {
            let mut is_reached = false;
            plan.keep_waves(|wave| {
                is_reached |= wave.name == *from;
                is_reached
            });
        }
        Ok(())
    }
}

/// The hosts that would go back in history, as far as a clone on this machine can tell.
async fn ahead_of(commit: &Commit, plan: &FrozenPlan, history: &History) -> Vec<HostName> {
    let mut known = BTreeMap::new();
    let mut ahead = Vec::new();
    for host in plan.hosts() {
        let Some(current) = host.revision.as_ref().filter(|current| *current != commit) else { continue };
        let is_ahead = match known.get(current) {
            Some(is_ahead) => *is_ahead,
            None => *known.entry(current).or_insert(history.is_ancestor(commit, current).await == Some(true)),
        };
        if is_ahead {
            ahead.push(host.hostname.clone());
        }
    }
    ahead
}

fn shares_a_tier(other: &RolloutReport, plan: &FrozenPlan) -> bool {
    let tiers: Vec<Tier> = plan.hosts().map(|host| host.tier).collect();
    other.tiers.iter().any(|tier| tiers.contains(tier))
}
