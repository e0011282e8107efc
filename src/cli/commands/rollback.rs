//! `rollback`: hosts return to what they ran before. `deploy --to previous` says the same of one host.

use std::io::{self, IsTerminal};

use clap::Args;

use super::apply::ApplyError;
use crate::cli::args::{FlakeArgs, ForceArgs, HookArgs, StateArgs, cache_dir, switch};
use crate::cli::carrier::Carrier;
use crate::cli::connection::OperatorArgs;
use crate::cli::display::{Audience, DisplayArgs};
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::preparation::unprepared;
use crate::cli::{alias, block_on, confirm, out};
use crate::operator::journal::Recorded;
use crate::operator::{self, Kind, Part, PrepareOptions, RollbackError};
use crate::protocol::{HostName, Tier};
use crate::report;

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    /// Hosts, ns1 or prod.ns1 where two tiers have one of that name; or the beginning of a rollout's id
    #[arg(value_name = "HOST|ROLLOUT", required = true)]
    hosts: Vec<String>,

    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
    yes: bool,

    #[command(flatten)]
    force: ForceArgs,

    #[command(flatten)]
    hooks: HookArgs,

    #[command(flatten)]
    flake: FlakeArgs,

    #[command(flatten)]
    operator: OperatorArgs,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    display: DisplayArgs,
}

/// How a rollback is begun, whichever command says it.
pub(super) struct Terms<'a> {
    pub(super) yes: bool,
    pub(super) force: &'a ForceArgs,
    pub(super) hooks: &'a HookArgs,
    pub(super) flake: &'a FlakeArgs,
    pub(super) operator: &'a OperatorArgs,
    pub(super) state: &'a StateArgs,
    pub(super) display: &'a DisplayArgs,
}

impl Rollback {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let Self { yes, force, hooks, flake, operator, state, display, .. } = &self;
        let terms = Terms { yes: *yes, force, hooks, flake, operator, state, display };
        terms.check_somebody_can_answer()?;
        let rollouts = terms.rollouts()?;
        let rollback = match self.hosts.as_slice() {
            [id] if !is_host(id, &rollouts) => {
                let id = state.journals().find(id).map_err(|error| Exit::Precondition.with(error))?;
                operator::RollbackPlan::of_rollout(&rollouts, &id)
            }
            hosts => {
                let hosts: Result<Vec<_>, _> = hosts.iter().map(|host| alias::one_host(host)).collect();
                operator::RollbackPlan::of_hosts(&rollouts, &hosts?)
            }
        };
        terms.carry_out(rollback)
    }
}

/// Whether a word means a host, and not a rollout: it has the name of one on record, or is none of an id's characters.
fn is_host(word: &str, rollouts: &[Recorded]) -> bool {
    let name = word.parse::<HostName>();
    let is_known = |name: &HostName| rollouts.iter().any(|recorded| recorded.summary.host(name).is_some());
    name.is_ok_and(|name| is_known(&name)) || !word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

impl Terms<'_> {
    /// Everything that was rolled out from here, the latest last.
    pub(super) fn rollouts(&self) -> Result<Vec<Recorded>, CommandError> {
        let (all, errors) = self.state.journals().all().map_err(|error| Exit::Precondition.with(error))?;
        out::warnings(&errors);
        Ok(all)
    }

    /// One host returns.
    pub(super) fn return_one(&self, host: (Option<Tier>, HostName)) -> CommandResult {
        self.check_somebody_can_answer()?;
        self.carry_out(operator::RollbackPlan::of_hosts(&self.rollouts()?, &[host]))
    }

    /// Makes sure that there is somebody to ask, or nothing to ask about.
    pub(super) fn check_somebody_can_answer(&self) -> Result<(), CommandError> {
        let nobody = self.display.audience() == Audience::Program || !io::stdin().is_terminal();
        if nobody && !self.yes { Err(Exit::Usage.with(ApplyError::NobodyToAsk)) } else { Ok(()) }
    }

    fn carry_out(&self, rollback: Result<operator::RollbackPlan, RollbackError>) -> CommandResult {
        let rollback = rollback.map_err(|error| Exit::Precondition.with(error))?;
        block_on(self.begin(rollback))?
    }

    /// Shows what would happen, asks, and has it happen.
    async fn begin(&self, rollback: operator::RollbackPlan) -> CommandResult {
        let mut bus = self.operator.connect().await?;
        let wanted = PrepareOptions {
            plan: rollback.plan.clone(),
            source: None,
            revision: rollback.commit.clone().into(),
            exclude: Vec::new(),
            part: Part::Whole,
            operator: self.operator.name(),
            kind: Kind::Rollout,
            hooks: self.hooks.hooks(),
            even_if_current: false,
            journals: self.state.journals(),
            flakes: self.flake.rules(
                self.state,
                &self.operator.settings().servers,
                confirm::flake(self.display.audience()),
            ),
            systems: None,
            binary_cache: None,
            cache: cache_dir(),
        };
        let prepared = wanted.prepare(&mut bus, &self.operator.discovery(self.state)).await.map_err(unprepared)?;
        rollback.check(&prepared.roster).map_err(|error| Exit::Precondition.with(error))?;
        self.force.check(&prepared)?;
        if self.display.audience() == Audience::Person {
            let preview = report::preview(&prepared.rollout, &prepared.warnings, None, out::width());
            let preview = report::emphasize(&preview, self.display.style());
            out::note(&format!("{preview}{}", report::rollback_commits(&prepared.rollout)));
        }
        if !self.yes && !confirm::start().await {
            out::note("Nothing was deployed.");
            return Ok(Exit::Declined);
        }
        let carrier = Carrier { operator: self.operator, state: self.state, display: self.display };
        let ended = carrier.begin(bus, prepared.rollout).await?;
        let exit = carrier.conclude(ended.state());
        if exit != Exit::Success && self.display.audience() == Audience::Person {
            let id = ended.rollout().id.short();
            out::note(&format!("  resume:   homelab-deploy apply --resume {id} --allow-downgrade"));
        }
        Ok(exit)
    }
}
