//! `deploy`: runs a rollout of one wave that the command line describes.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;

use super::plan::prepare_error;
use super::rollback::{recorded_rollouts, roll_back};
use crate::bus::Bus;
use crate::cli::args::RollbackArgs;
use crate::cli::context::{KnownAliases, only_host};
use crate::cli::out::{self, CommandError, CommandResult, Exit, usage};
use crate::cli::session::RolloutArgs;
use crate::operator::{PrepareOptions, Prepared, RollbackPlan, RolloutKind};
use crate::plan::{Plan, Roster, Selector, Settings, Spanned, groups_of, nearest_subject};
use crate::protocol::{Action, HostAnswer, Revision, Subject, Target, Tier};
use crate::report;
use crate::rollout::summary::HostState;
use crate::rollout::{HostOutcome, Outcome, Summary};

#[derive(Debug, Args)]
#[command(mut_arg("yes", |yes| yes.help("Do not ask before several prod hosts are deployed to, or with --to")))]
pub(in crate::cli) struct Deploy {
    /// Hosts to deploy to: a subject such as deploy.prod.ns1 or deploy.test.all, prod.ns1 for short, or an alias such
    /// as prod-dns, from `HOMELAB_DEPLOY_ALIAS_PROD_DNS`
    #[arg(value_name = "SUBJECT|ALIAS")]
    target: String,

    /// Branch, tag or commit to deploy
    #[arg(long, env = "HOMELAB_DEPLOY_BRANCH", default_value = "master")]
    branch: Revision,

    /// Go back to this commit, or roll one host back to what it ran before: asks first, and accepts earlier commits
    #[arg(long, value_name = "COMMIT|previous")]
    to: Option<Revision>,

    /// Action of nixos-rebuild: switch, boot, test or dry-activate
    #[arg(long, env = "HOMELAB_DEPLOY_ACTION", default_value = "switch")]
    action: Action,

    /// How long a host may take, in seconds
    #[arg(long, env = "HOMELAB_DEPLOY_TIMEOUT", value_name = "SECONDS", default_value = "900")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,

    #[command(flatten)]
    rollback: RollbackArgs,

    #[command(flatten)]
    rollout: RolloutArgs,
}

impl Deploy {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let selector = Selector::parse(&self.target, &KnownAliases).map_err(usage)?;
        if self.to.is_some() {
            self.rollout.check_somebody_can_answer()?;
        }
        match &self.to {
            Some(to) if to.as_str() == "previous" => self.roll_back(selector).await,
            _ => self.deploy(selector).await,
        }
    }

    async fn roll_back(&self, selector: Selector) -> CommandResult {
        let rollouts = recorded_rollouts(&self.rollout.operator().state.journals())?;
        let mut rollback = RollbackPlan::of_hosts(&rollouts, &[only_host(selector)?])?;
        rollback.plan.waves.iter_mut().for_each(|wave| wave.settings = self.settings());
        self.rollback.apply_defaults_to(&mut rollback.plan);
        roll_back(&self.rollout, rollback).await
    }

    async fn deploy(&self, selector: Selector) -> CommandResult {
        let subject = selector.target.subject();
        let mut bus = self.rollout.operator().connect().await?;
        let prepared = self.prepare(&mut bus, selector).await?;
        match &self.to {
            Some(_) => self.rollout.check_no_other_rollout(&prepared)?,
            None => self.rollout.check(&prepared)?,
        }
        if !self.may_start(&prepared).await {
            return Ok(Exit::Declined);
        }
        let Prepared { rollout, roster, .. } = prepared;
        let is_anybody_there = rollout.plan.hosts().any(|host| host.present);
        let others: Option<BTreeSet<Subject>> =
            (!is_anybody_there).then(|| roster.hosts().map(|host| host.sender().subject()).collect());
        // The answers of a large fleet take more memory than its rollout.
        drop(roster);
        let ended = self.rollout.begin(bus, rollout).await?;
        if let Some(others) = others.filter(|_| is_deserted(ended.state())) {
            return Err(nobody_there(&subject, &others, others.iter()));
        }
        Ok(self.rollout.conclude(ended).await)
    }

    async fn prepare(&self, bus: &mut Bus, selector: Selector) -> Result<Prepared, CommandError> {
        let (subject, is_group) = (selector.target.subject(), !matches!(selector.target, Target::Host(..)));
        // The operator is not asked about a flake: if none was accepted before, each host looks the branch up for
        // itself.
        let by = self.rollout.deployer.context(None);
        let revision = self.to.as_ref().unwrap_or(&self.branch).clone();
        let mut plan = Plan::of_one_wave(selector, self.settings());
        self.rollback.apply_defaults_to(&mut plan);
        let options = PrepareOptions {
            kind: RolloutKind::Deployment,
            hooks: self.rollout.hooks.clone(),
            even_if_current: true,
            ..PrepareOptions::new(plan, revision, by)
        };
        let called = options.call_roll(bus).await.map_err(|error| prepare_error(error.into()))?;
        let is_member = |answer: &HostAnswer| groups_of(&answer.report).any(|group| group == subject);
        if is_group && !called.roll.hosts.iter().any(is_member) {
            let roster = Roster::new(called.roll.hosts);
            let hosts = roster.hosts().map(|host| host.sender().subject()).collect();
            return Err(nobody_there(&subject, &hosts, roster.subjects()));
        }
        options.settle(called).await.map_err(prepare_error)
    }

    fn settings(&self) -> Settings {
        Settings {
            action: self.action,
            timeout: Spanned::nowhere(Duration::from_secs(self.timeout.into())),
            ..Settings::default()
        }
    }

    /// Shows what is about to happen and asks, if the deployment is risky and a person is there.
    async fn may_start(&self, prepared: &Prepared) -> bool {
        if !self.rollout.is_for_a_person() {
            return true;
        }
        let returns = self.to.as_ref().map(|_| report::rollback_commits(&prepared.rollout));
        // With `--to`, `run` has made sure that somebody can answer.
        let is_at_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        let prod_hosts = prepared.rollout.plan.hosts().filter(|host| host.tier == Tier::Prod).count();
        if !self.rollout.yes && (returns.is_some() || is_at_terminal && prod_hosts > 1) {
            return self.rollout.may_start(prepared, &returns.unwrap_or_default()).await;
        }
        out::warnings(&prepared.warnings);
        true
    }
}

/// Whether the rollout failed with every one of its hosts unreachable.
fn is_deserted(summary: &Summary) -> bool {
    let is_unreachable = HostState::Final(HostOutcome::Unreachable);
    summary.outcome == Some(Outcome::Failed) && summary.hosts.iter().all(|host| host.state == is_unreachable)
}

/// Returns an error that lists the hosts that do answer, and suggests the known subject that may have been meant.
fn nobody_there<'a>(
    subject: &Subject,
    hosts: &BTreeSet<Subject>,
    known: impl Iterator<Item = &'a Subject> + Clone,
) -> CommandError {
    let help = if hosts.is_empty() {
        "no listener answers at all: check that they run, and that they use the same NATS server".to_owned()
    } else {
        let subjects: Vec<&str> = hosts.iter().map(Subject::as_str).collect();
        let near = subject.target().ok().and_then(|target| nearest_subject(&target, known));
        let near = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
        format!("{near}these hosts answer: {}; `homelab-deploy hosts` shows more", subjects.join(", "))
    };
    Exit::Failed.error(format!("no host answers on {subject}"), help)
}
