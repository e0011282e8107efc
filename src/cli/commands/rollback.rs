//! `rollback`: rolls hosts back to what they ran before. `deploy --to previous` does the same for one host.

use clap::Args;

use super::plan::prepare_error;
use crate::cli::context::one_host;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::session::RolloutArgs;
use crate::cli::{confirm, out};
use crate::operator::journal::Recorded;
use crate::operator::{PrepareOptions, RollbackPlan};
use crate::plan::Plan;
use crate::protocol::{HostName, Tier};
use crate::report;

// All hosts may go back to earlier commits: that is what this command is for.
#[derive(Debug, Args)]
#[command(mut_arg("allow_downgrade", |allow_downgrade| allow_downgrade.hide(true)))]
pub(in crate::cli) struct Rollback {
    /// Hosts, as ns1, or prod.ns1 if two tiers have a host of that name; or the beginning of a rollout's id
    #[arg(value_name = "HOST|ROLLOUT", required = true)]
    pub(super) hosts: Vec<String>,

    #[command(flatten)]
    pub(super) rollout: RolloutArgs,
}

impl Rollback {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        self.rollout.check_somebody_can_answer()?;
        let rollouts = self.rollouts()?;
        let rollback = match self.hosts.as_slice() {
            [id] if !is_host(id, &rollouts) => {
                RollbackPlan::of_rollout(&rollouts, &self.rollout.operator().state.journals().find(id)?)?
            }
            hosts => {
                let hosts: Result<Vec<_>, _> = hosts.iter().map(|host| one_host(host)).collect();
                RollbackPlan::of_hosts(&rollouts, &hosts?)?
            }
        };
        self.carry_out(rollback).await
    }

    /// Rolls this host back, and not the hosts of the command line. `change` adapts the plan for it.
    pub(super) async fn roll_back_one(
        &self,
        host: (Option<Tier>, HostName),
        change: impl FnOnce(&mut Plan),
    ) -> CommandResult {
        self.rollout.check_somebody_can_answer()?;
        let mut rollback = RollbackPlan::of_hosts(&self.rollouts()?, &[host])?;
        change(&mut rollback.plan);
        self.carry_out(rollback).await
    }

    /// Returns the recorded rollouts, the latest last.
    fn rollouts(&self) -> Result<Vec<Recorded>, CommandError> {
        let (all, errors) = self.rollout.operator().state.journals().all()?;
        out::warnings(&errors);
        Ok(all)
    }

    /// Shows what would happen, asks, and carries the rollback out.
    async fn carry_out(&self, rollback: RollbackPlan) -> CommandResult {
        let args = &self.rollout;
        let mut bus = args.operator().connect().await?;
        let by = args.deployer.context(confirm::ask_about_flake(args.display.audience()));
        let (plan, commit) = (rollback.plan.clone(), rollback.commit.clone());
        let options = PrepareOptions { hooks: args.hooks.clone(), ..PrepareOptions::new(plan, commit.into(), by) };
        let prepared = options.prepare(&mut bus).await.map_err(prepare_error)?;
        rollback.check(&prepared.roster)?;
        args.check_no_other_rollout(&prepared)?;
        if !args.may_start(&prepared, &report::rollback_commits(&prepared.rollout)).await {
            return Ok(Exit::Declined);
        }
        let id = prepared.rollout.id.short();
        let ended = args.begin(bus, prepared.rollout).await?;
        let exit = args.conclude(ended).await;
        if exit != Exit::Success && args.is_for_a_person() {
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
