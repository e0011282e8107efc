//! `rollback`: rolls hosts back to what they ran before. `deploy --to previous` does the same for one host.

use clap::Args;

use super::plan::prepare_error;
use crate::cli::args::{FlakeArgs, ForceArgs, OperatorArgs, hooks, switch};
use crate::cli::context::one_host;
use crate::cli::display::DisplayArgs;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::session::RolloutSession;
use crate::cli::{block_on, confirm, out};
use crate::operator::journal::Recorded;
use crate::operator::{PrepareOptions, RollbackPlan};
use crate::plan::{Hooks, Plan};
use crate::protocol::{HostName, Tier};
use crate::report;

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    /// Hosts, as ns1, or prod.ns1 if two tiers have a host of that name; or the beginning of a rollout's id
    #[arg(value_name = "HOST|ROLLOUT", required = true)]
    pub(super) hosts: Vec<String>,

    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
    pub(super) yes: bool,

    #[command(flatten)]
    pub(super) force: ForceArgs,

    #[arg(long, hide = true, default_value = "{}", value_parser = hooks)]
    pub(super) hooks: Hooks,

    #[command(flatten)]
    pub(super) flake: FlakeArgs,

    #[command(flatten)]
    pub(super) operator: OperatorArgs,

    #[command(flatten)]
    pub(super) display: DisplayArgs,
}

impl Rollback {
    pub(in crate::cli) fn run(self) -> CommandResult {
        self.session().check_somebody_can_answer()?;
        let rollouts = self.rollouts()?;
        let rollback = match self.hosts.as_slice() {
            [id] if !is_host(id, &rollouts) => {
                RollbackPlan::of_rollout(&rollouts, &self.operator.state.journals().find(id)?)?
            }
            hosts => {
                let hosts: Result<Vec<_>, _> = hosts.iter().map(|host| one_host(host)).collect();
                RollbackPlan::of_hosts(&rollouts, &hosts?)?
            }
        };
        block_on(self.carry_out(rollback))?
    }

    /// Rolls this host back, and not the hosts of the command line. `change` adapts the plan for it.
    pub(super) fn roll_back_one(
        &self,
        host: (Option<Tier>, HostName),
        change: impl FnOnce(&mut Plan),
    ) -> CommandResult {
        self.session().check_somebody_can_answer()?;
        let mut rollback = RollbackPlan::of_hosts(&self.rollouts()?, &[host])?;
        change(&mut rollback.plan);
        block_on(self.carry_out(rollback))?
    }

    fn session(&self) -> RolloutSession<'_> {
        RolloutSession { operator: &self.operator, display: &self.display, yes: self.yes }
    }

    /// Returns the recorded rollouts, the latest last.
    fn rollouts(&self) -> Result<Vec<Recorded>, CommandError> {
        let (all, errors) = self.operator.state.journals().all()?;
        out::warnings(&errors);
        Ok(all)
    }

    /// Shows what would happen, asks, and carries the rollback out.
    async fn carry_out(&self, rollback: RollbackPlan) -> CommandResult {
        let session = self.session();
        let mut bus = self.operator.connect().await?;
        let by = self.operator.context(&self.flake, confirm::ask_about_flake(self.display.audience()));
        let (plan, commit) = (rollback.plan.clone(), rollback.commit.clone());
        let options = PrepareOptions { hooks: self.hooks.clone(), ..PrepareOptions::new(plan, commit.into(), by) };
        let prepared = options.prepare(&mut bus).await.map_err(prepare_error)?;
        rollback.check(&prepared.roster)?;
        self.force.check(&prepared)?;
        if !session.may_start(&prepared, &report::rollback_commits(&prepared.rollout)).await {
            return Ok(Exit::Declined);
        }
        let id = prepared.rollout.id.short();
        let ended = session.begin(bus, prepared.rollout).await?;
        let exit = session.conclude(ended).await;
        if exit != Exit::Success && session.is_for_a_person() {
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
