//! `rollback`: rolls hosts back to what they ran before. `deploy --to previous` does the same for one host.

use clap::Args;

use crate::cli::args::{FlakeArgs, ForceArgs, HookArgs, switch};
use crate::cli::carrier::Carrier;
use crate::cli::connection::OperatorArgs;
use crate::cli::context::StateArgs;
use crate::cli::display::{Audience, DisplayArgs};
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::preparation::unprepared;
use crate::cli::{alias, block_on, confirm, out};
use crate::operator::journal::Recorded;
use crate::operator::{PrepareOptions, RollbackPlan};
use crate::plan::Plan;
use crate::protocol::{HostName, Tier};
use crate::report;

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    /// Hosts, ns1 or prod.ns1 where two tiers have one of that name; or the beginning of a rollout's id
    #[arg(value_name = "HOST|ROLLOUT", required = true)]
    pub(super) hosts: Vec<String>,

    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
    pub(super) yes: bool,

    #[command(flatten)]
    pub(super) force: ForceArgs,

    #[command(flatten)]
    pub(super) hooks: HookArgs,

    #[command(flatten)]
    pub(super) flake: FlakeArgs,

    #[command(flatten)]
    pub(super) operator: OperatorArgs,

    #[command(flatten)]
    pub(super) state: StateArgs,

    #[command(flatten)]
    pub(super) display: DisplayArgs,
}

impl Rollback {
    pub(in crate::cli) fn run(self) -> CommandResult {
        self.check_somebody_can_answer()?;
        let rollouts = self.rollouts()?;
        let rollback = match self.hosts.as_slice() {
            [id] if !is_host(id, &rollouts) => RollbackPlan::of_rollout(&rollouts, &self.state.journals().find(id)?)?,
            hosts => {
                let hosts: Result<Vec<_>, _> = hosts.iter().map(|host| alias::one_host(host)).collect();
                RollbackPlan::of_hosts(&rollouts, &hosts?)?
            }
        };
        block_on(self.begin(rollback))?
    }

    /// This host returns, whatever else was named, by a plan that is changed so.
    pub(super) fn return_one(&self, host: (Option<Tier>, HostName), change: impl FnOnce(&mut Plan)) -> CommandResult {
        self.check_somebody_can_answer()?;
        let mut rollback = RollbackPlan::of_hosts(&self.rollouts()?, &[host])?;
        change(&mut rollback.plan);
        block_on(self.begin(rollback))?
    }

    fn check_somebody_can_answer(&self) -> Result<(), CommandError> {
        if self.yes { Ok(()) } else { confirm::check_somebody_can_answer(self.display.audience()) }
    }

    /// Returns the recorded rollouts, the latest last.
    fn rollouts(&self) -> Result<Vec<Recorded>, CommandError> {
        let (all, errors) = self.state.journals().all()?;
        out::warnings(&errors);
        Ok(all)
    }

    /// Shows what would happen, asks, and carries the rollback out.
    async fn begin(&self, rollback: RollbackPlan) -> CommandResult {
        let mut bus = self.operator.connect().await?;
        let audience = self.display.audience();
        let by = self.flake.context(&self.operator, &self.state, confirm::flake(audience));
        let (plan, commit) = (rollback.plan.clone(), rollback.commit.clone());
        let wanted = PrepareOptions { hooks: self.hooks.hooks(), ..PrepareOptions::new(plan, commit.into(), by) };
        let prepared = wanted.prepare(&mut bus).await.map_err(unprepared)?;
        rollback.check(&prepared.roster)?;
        self.force.check(&prepared)?;
        if audience == Audience::Person {
            let preview = report::preview(&prepared.rollout, &prepared.warnings, None, out::width());
            let preview = report::emphasize(&preview, self.display.style());
            out::note(&format!("{preview}{}", report::rollback_commits(&prepared.rollout)));
        }
        if !self.yes && !confirm::start().await {
            return Ok(Exit::Declined);
        }
        let carrier = Carrier { operator: &self.operator, state: &self.state, display: &self.display };
        let ended = carrier.begin(bus, prepared.rollout).await?;
        let exit = carrier.conclude(ended.state());
        if audience == Audience::Person {
            carrier.tell_what_would_be_done(ended.state()).await;
        }
        if exit != Exit::Success && audience == Audience::Person {
            let id = ended.rollout().id.short();
            out::note(&format!("  resume:   homelab-deploy apply --resume {id} --allow-downgrade"));
        }
        Ok(exit)
    }
}

/// Whether a word means a host, not a rollout: a recorded rollout has that host, or the word cannot begin an id.
fn is_host(word: &str, rollouts: &[Recorded]) -> bool {
    let name = word.parse::<HostName>();
    let is_known = |name: &HostName| rollouts.iter().any(|recorded| recorded.summary.host(name).is_some());
    name.is_ok_and(|name| is_known(&name)) || !word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}
