//! `rollback`: rolls hosts back to what they ran before. `deploy --to previous` does the same for one host.

use clap::Args;

use super::plan::prepare_error;
use crate::cli::context::one_host;
use crate::cli::out::{self, CommandError, CommandResult, Exit};
use crate::cli::session::{RolloutArgs, ask_about_flake};
use crate::operator::journal::{Journals, Recorded};
use crate::operator::{PrepareOptions, RollbackPlan};
use crate::protocol::HostName;
use crate::report;

// All hosts may go back to earlier commits: that is what this command is for.
#[derive(Debug, Args)]
#[command(mut_arg("allow_downgrade", |allow_downgrade| allow_downgrade.hide(true)))]
pub(in crate::cli) struct Rollback {
    /// Hosts, as ns1, or prod.ns1 if two tiers have a host of that name; or the beginning of a rollout's id
    #[arg(value_name = "HOST|ROLLOUT", required = true)]
    hosts: Vec<String>,

    #[command(flatten)]
    rollout: RolloutArgs,
}

impl Rollback {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        self.rollout.check_somebody_can_answer()?;
        let journals = self.rollout.operator().state.journals();
        let rollouts = recorded_rollouts(&journals)?;
        let rollback = match self.hosts.as_slice() {
            [id] if !is_host(id, &rollouts) => RollbackPlan::of_rollout(&rollouts, &journals.find(id)?)?,
            hosts => {
                let hosts: Result<Vec<_>, _> = hosts.iter().map(|host| one_host(host)).collect();
                RollbackPlan::of_hosts(&rollouts, &hosts?)?
            }
        };
        roll_back(&self.rollout, rollback).await
    }
}

/// Returns the recorded rollouts, the latest last.
pub(super) fn recorded_rollouts(journals: &Journals) -> Result<Vec<Recorded>, CommandError> {
    let (all, errors) = journals.all()?;
    out::warnings(&errors);
    Ok(all)
}

/// Shows what would happen, asks, and carries the rollback out.
pub(super) async fn roll_back(args: &RolloutArgs, rollback: RollbackPlan) -> CommandResult {
    let mut bus = args.operator().connect().await?;
    let by = args.deployer.context(ask_about_flake(args.display.audience()));
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

/// Whether a word means a host, not a rollout: a recorded rollout has that host, or the word cannot begin an id.
fn is_host(word: &str, rollouts: &[Recorded]) -> bool {
    let name = word.parse::<HostName>();
    let is_known = |name: &HostName| rollouts.iter().any(|recorded| recorded.summary.host(name).is_some());
    name.is_ok_and(|name| is_known(&name)) || !word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}
