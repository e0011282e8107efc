//! `deploy`: a rollout of one wave, said in one line.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use super::rollback::Terms;
use crate::bus::Bus;
use crate::cli::carrier::Carrier;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::flake::FlakeArgs;
use crate::cli::guards::GuardArgs;
use crate::cli::hook_args::HookArgs;
use crate::cli::operator::{Audience, DisplayArgs, OperatorArgs};
use crate::cli::preparation::unprepared;
use crate::cli::rollback_args::RollbackArgs;
use crate::cli::runtime::block_on;
use crate::cli::state::StateArgs;
use crate::cli::{alias, confirm, one_host, out};
use crate::operator::{Kind, Part, PrepareOptions, Prepared};
use crate::plan::{Plan, ResolvedPlan, Selector, Settings, Spanned, groups_of};
use crate::protocol::{Action, HostAnswer, HostReport, Revision, Sender, Subject, Target, Tier};
use crate::report;
use crate::rollout::summary::HostState;
use crate::rollout::{HostOutcome, Outcome, Summary};
use crate::text::nearest;

#[derive(Debug, Args)]
pub(in crate::cli) struct Deploy {
    /// Whom to deploy to: a subject such as deploy.prod.ns1 or deploy.test.all, prod.ns1 for short, or the name of an
    /// alias, prod-dns for `HOMELAB_DEPLOY_ALIAS_PROD_DNS`
    #[arg(value_name = "SUBJECT|ALIAS")]
    target: String,

    /// Branch, tag or commit to deploy
    #[arg(long, env = "HOMELAB_DEPLOY_BRANCH", default_value = "master")]
    branch: Revision,

    /// Go back to this commit, or let one host return to what it ran before: asks first, and earlier commits are no error
    #[arg(long, value_name = "COMMIT|previous")]
    to: Option<Revision>,

    /// What nixos-rebuild does: switch, boot, test or dry-activate
    #[arg(long, env = "HOMELAB_DEPLOY_ACTION", default_value = "switch")]
    action: Action,

    /// How long a host may take, in seconds
    #[arg(long, env = "HOMELAB_DEPLOY_TIMEOUT", value_name = "SECONDS", default_value = "900")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,

    /// Start without asking, where several prod hosts would be asked about on a terminal, and with --to
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = crate::cli::switch::read)]
    yes: bool,

    #[command(flatten)]
    guards: GuardArgs,

    #[command(flatten)]
    hooks: HookArgs,

    #[command(flatten)]
    flake: FlakeArgs,

    #[command(flatten)]
    rollback: RollbackArgs,

    #[command(flatten)]
    operator: OperatorArgs,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    display: DisplayArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("nobody answers on {subject}")]
struct NobodyThere {
    subject: Subject,
    #[help]
    help: String,
}

impl Deploy {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let selector = Selector::parse(&self.target, &alias::lookup).map_err(|mistake| Exit::Usage.with(mistake))?;
        let Self { yes, guards, hooks, flake, operator, state, display, .. } = &self;
        let terms = Terms { yes: *yes, force: &guards.force, hooks, flake, operator, state, display };
        match &self.to {
            Some(to) if to.as_str() == "previous" => return terms.return_one(one_host::only(selector)?),
            Some(_) => terms.check_somebody_can_answer()?,
            None => {}
        }
        block_on(self.deploy(selector))?
    }

    async fn deploy(self, selector: Selector) -> CommandResult {
        let subject = selector.target.subject();
        let mut bus = self.operator.connect().await?;
        let prepared = self.prepare(&mut bus, selector).await?;
        match &self.to {
            Some(_) => self.guards.force.check(&prepared)?,
            None => self.guards.check(&prepared)?,
        }
        if !self.may_start(&prepared).await {
            out::note("Nothing was deployed.");
            return Ok(Exit::Declined);
        }
        let Prepared { rollout, roster, .. } = prepared;
        // What a large fleet has said of itself takes more memory than its rollout.
        let answered: Vec<Sender> = roster.hosts().map(HostReport::sender).collect();
        drop(roster);
        let carrier = Carrier { operator: &self.operator, state: &self.state, display: &self.display };
        let ended = carrier.begin(bus, rollout).await?;
        if is_deserted(ended.state()) {
            return Err(nobody_there(&answered, subject));
        }
        let exit = carrier.conclude(ended.state());
        if self.display.audience() == Audience::Person {
            carrier.tell_what_would_be_done(ended.state()).await;
        }
        // The command is at its end: taking a large fleet apart host by host would only hold that up.
        std::mem::forget((ended, answered));
        Ok(exit)
    }

    async fn prepare(&self, bus: &mut Bus, selector: Selector) -> Result<Prepared, CommandError> {
        let (subject, is_group) = (selector.target.subject(), !matches!(selector.target, Target::Host(..)));
        let wanted = PrepareOptions {
            plan: self.plan(selector),
            source: None,
            revision: self.to.as_ref().unwrap_or(&self.branch).clone(),
            exclude: Vec::new(),
            part: Part::Whole,
            operator: self.operator.name(),
            kind: Kind::Deployment,
            hooks: self.hooks.hooks(),
            even_if_current: true,
            journals: self.state.journals(),
            // Nobody is asked about a flake: where it was not accepted, each host looks the branch up for itself.
            flakes: self.flake.rules(&self.state, &self.operator.settings().servers, None),
            systems: None,
            binary_cache: None,
            cache: self.state.cache(),
        };
        let discovery = self.operator.discovery(&self.state);
        let called = wanted.call_roll(bus, &discovery).await.map_err(|error| unprepared(error.into()))?;
        let is_member = |answer: &HostAnswer| groups_of(&answer.report).any(|group| group == subject);
        if is_group && !called.roll.hosts.iter().any(is_member) {
            let answered: Vec<Sender> = called.roll.hosts.iter().map(|answer| answer.report.sender()).collect();
            return Err(nobody_there(&answered, subject));
        }
        wanted.settle(called).await.map_err(unprepared)
    }

    fn plan(&self, selector: Selector) -> Plan {
        let settings = Settings {
            action: self.action,
            timeout: Spanned::nowhere(Duration::from_secs(self.timeout.into())),
            ..Settings::default()
        };
        let mut plan = Plan::of_one_wave(selector, settings);
        self.rollback.apply_defaults_to(&mut plan);
        plan
    }

    /// Shows what is about to happen, and asks where much could go wrong and a person is there.
    async fn may_start(&self, prepared: &Prepared) -> bool {
        let is_person = self.display.audience() == Audience::Person;
        let is_risky = self.to.is_some() || reaches_several_prod_hosts(&prepared.rollout.plan);
        let asks = is_person && !self.yes && is_risky;
        // Who goes back is asked in any case: without a terminal the command would not have come this far.
        if asks && (self.to.is_some() || io::stdin().is_terminal() && io::stderr().is_terminal()) {
            let preview = report::preview(&prepared.rollout, &prepared.warnings, None, out::width());
            let preview = report::emphasize(&preview, self.display.style());
            let commits = if self.to.is_some() { report::rollback_commits(&prepared.rollout) } else { String::new() };
            out::note(&format!("{preview}{commits}"));
            return confirm::start().await;
        }
        if is_person {
            out::warnings(&prepared.warnings);
        }
        true
    }
}

fn reaches_several_prod_hosts(plan: &ResolvedPlan) -> bool {
    plan.hosts().filter(|host| host.tier == Tier::Prod).nth(1).is_some()
}

/// Whether every host that could have been there was looked for, and not one has said anything.
fn is_deserted(summary: &Summary) -> bool {
    let is_unreachable = HostState::Final(HostOutcome::Unreachable);
    summary.outcome == Some(Outcome::Failed) && summary.hosts.iter().all(|host| host.state == is_unreachable)
}

fn nobody_there(answered: &[Sender], subject: Subject) -> CommandError {
    let subjects: BTreeSet<Subject> = answered.iter().map(Sender::subject).collect();
    let help = if subjects.is_empty() {
        "no listener answers at all: check that they run, and that they use the same NATS server".to_owned()
    } else {
        let subjects: Vec<&str> = subjects.iter().map(Subject::as_str).collect();
        let near = nearest(
            subject.as_str().rsplit('.').next().unwrap_or_default(),
            answered.iter().map(|sender| sender.host.as_str()),
        );
        let near = near.and_then(|near| subjects.iter().find(|subject| subject.rsplit('.').next() == Some(near)));
        let near = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
        format!("{near}these do: {}; `homelab-deploy hosts` tells more", subjects.join(", "))
    };
    Exit::Failed.with(NobodyThere { subject, help })
}
