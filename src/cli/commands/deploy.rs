//! `deploy`: runs a rollout of one wave that the command line describes.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;

use super::rollback::Rollback;
use crate::bus::Bus;
use crate::cli::args::{FlakeArgs, GuardArgs, HookArgs, RollbackArgs, switch};
use crate::cli::carrier::Carrier;
use crate::cli::connection::OperatorArgs;
use crate::cli::context::StateArgs;
use crate::cli::display::{Audience, DisplayArgs};
use crate::cli::exit::{CommandError, CommandResult, Exit, OrUsage};
use crate::cli::preparation::unprepared;
use crate::cli::{alias, block_on, confirm, out};
use crate::operator::{Kind, LogReader, PrepareOptions, Prepared};
use crate::plan::{
    Plan, ResolvedHost, ResolvedPlan, ResolvedWave, Roster, Selector, Settings, Spanned, groups_of, nearest_subject,
};
use crate::protocol::{Action, HostAnswer, HostReport, RequestId, Revision, Sender, Subject, Target, Tier};
use crate::report;
use crate::rollout::summary::{HostProgress, HostState};
use crate::rollout::{HostOutcome, Outcome, Summary};
use crate::text::safe;

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
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
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
        let selector = Selector::parse(&self.target, &alias::KnownAliases).or_usage()?;
        if self.to.as_ref().is_some_and(|to| to.as_str() == "previous") {
            let settings = self.settings();
            let Self { yes, guards: GuardArgs { force, .. }, hooks, flake, rollback, operator, state, display, .. } =
                self;
            let command = Rollback { hosts: Vec::new(), yes, force, hooks, flake, operator, state, display };
            return command.return_one(alias::only_host(selector)?, |plan| {
                plan.waves.iter_mut().for_each(|wave| wave.settings = settings.clone());
                rollback.apply_defaults_to(plan);
            });
        }
        if self.to.is_some() && !self.yes {
            confirm::check_somebody_can_answer(self.display.audience())?;
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
            return Ok(Exit::Declined);
        }
        let Prepared { rollout, roster, .. } = prepared;
        // The answers of a large fleet take more memory than its rollout.
        let answered: Vec<Sender> = roster.hosts().map(HostReport::sender).collect();
        drop(roster);
        let is_sender = |host: &ResolvedHost| {
            answered.iter().any(|sender| (sender.tier, &sender.host) == (host.tier, &host.hostname))
        };
        let is_anybody_there = rollout.plan.hosts().any(is_sender);
        let carrier = Carrier { operator: &self.operator, state: &self.state, display: &self.display };
        let ended = carrier.begin(bus, rollout).await?;
        if !is_anybody_there && is_deserted(ended.state()) {
            let hosts = answered.iter().map(Sender::subject).collect();
            return Err(nobody_there(subject, &hosts, hosts.iter()));
        }
        let exit = carrier.conclude(ended.state());
        if self.display.audience() == Audience::Person {
            carrier.tell_what_would_be_done(ended.state()).await;
        }
        // The process exits now: dropping the state of a large fleet would only delay that.
        std::mem::forget((ended, answered));
        Ok(exit)
    }

    async fn prepare(&self, bus: &mut Bus, selector: Selector) -> Result<Prepared, CommandError> {
        let (subject, is_group) = (selector.target.subject(), !matches!(selector.target, Target::Host(..)));
        // The operator is not asked about a flake: if none was accepted before, each host looks the branch up for
        // itself.
        let by = self.flake.context(&self.operator, &self.state, None);
        let revision = self.to.as_ref().unwrap_or(&self.branch).clone();
        let wanted = PrepareOptions {
            kind: Kind::Deployment,
            hooks: self.hooks.hooks(),
            even_if_current: true,
            ..PrepareOptions::new(self.plan(selector), revision, by)
        };
        let called = wanted.call_roll(bus).await.map_err(|error| unprepared(error.into()))?;
        let is_member = |answer: &HostAnswer| groups_of(&answer.report).any(|group| group == subject);
        if is_group && !called.roll.hosts.iter().any(is_member) {
            let roster = Roster::new(called.roll.hosts);
            let hosts = roster.hosts().map(|host| host.sender().subject()).collect();
            return Err(nobody_there(subject, &hosts, roster.subjects()));
        }
        wanted.settle(called).await.map_err(unprepared)
    }

    fn plan(&self, selector: Selector) -> Plan {
        let mut plan = Plan::of_one_wave(selector, self.settings());
        self.rollback.apply_defaults_to(&mut plan);
        plan
    }

    fn settings(&self) -> Settings {
        Settings {
            action: self.action,
            timeout: Spanned::nowhere(Duration::from_secs(self.timeout.into())),
            ..Settings::default()
        }
    }

    /// Shows what is about to happen, and asks first if the deployment is risky and a person is there.
    async fn may_start(&self, prepared: &Prepared) -> bool {
        let is_person = self.display.audience() == Audience::Person;
        let is_risky = self.to.is_some() || reaches_several_prod_hosts(&prepared.rollout.plan);
        let asks = is_person && !self.yes && is_risky;
        // With `--to`, `run` has made sure already that somebody can answer.
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

/// Whether the rollout failed with every one of its hosts unreachable.
fn is_deserted(summary: &Summary) -> bool {
    let is_unreachable = HostState::Final(HostOutcome::Unreachable);
    summary.outcome == Some(Outcome::Failed) && summary.hosts.iter().all(|host| host.state == is_unreachable)
}

/// Returns an error that lists the hosts that do answer, and suggests the known subject that may have been meant.
fn nobody_there<'a>(
    subject: Subject,
    hosts: &BTreeSet<Subject>,
    known: impl Iterator<Item = &'a Subject> + Clone,
) -> CommandError {
    let help = if hosts.is_empty() {
        "no listener answers at all: check that they run, and that they use the same NATS server".to_owned()
    } else {
        let subjects: Vec<&str> = hosts.iter().map(Subject::as_str).collect();
        let near = subject.target().ok().and_then(|target| nearest_subject(&target, known));
        let near = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
        format!("{near}these do: {}; `homelab-deploy hosts` tells more", subjects.join(", "))
    };
    Exit::Failed.with(NobodyThere { subject, help })
}

/// The beginning of each line in which `switch-to-configuration` says what it would do.
const WOULD: &str = "would ";

/// A log is not read further once it has more bytes than this.
const MAX_LOG_BYTES: usize = 16 * 1024 * 1024;

impl Carrier<'_> {
    /// Prints what each host would do, by its log. Unreadable logs are skipped, since the rollout itself succeeded.
    pub(super) async fn tell_what_would_be_done(&self, summary: &Summary) {
        let waves = summary.rollout.iter().flat_map(|rollout| &rollout.plan.waves).enumerate();
        for (index, wave) in waves.filter(|(_, wave)| wave.action == Action::DryActivate) {
            let hosts = summary.hosts.iter().filter(|host| host.wave.0 == index);
            for (host, id) in hosts.filter_map(|view| run_to_read(view, wave)) {
                let Ok(bus) = Bus::connect(&self.operator.settings()).await else { return };
                let name = host.host.clone();
                if let Some(log) = read(bus, host, id).await {
                    let lines = log.lines().filter(|line| line.starts_with(WOULD)).map(safe);
                    let lines: Vec<String> = lines.map(|line| format!("  {name}  {line}")).collect();
                    let nothing = || format!("  {name}  would change no unit");
                    out::note(&if lines.is_empty() { nothing() } else { lines.join("\n") });
                }
            }
        }
    }
}

/// Returns the run of a host that completed, if its listener serves logs.
fn run_to_read(view: &HostProgress, wave: &ResolvedWave) -> Option<(Sender, RequestId)> {
    let host = wave.hosts.get(view.index).filter(|host| host.supports_log)?;
    let completed = view.state == HostState::Final(HostOutcome::Completed);
    let id = view.request.clone().filter(|_| completed)?;
    Some((Sender { tier: host.tier, host: host.hostname.clone() }, id))
}

async fn read(bus: Bus, host: Sender, id: RequestId) -> Option<String> {
    let mut reader = LogReader::open(bus, host, id).await.ok()?;
    let (mut log, mut offset) = (String::new(), 0);
    loop {
        let page = reader.page(offset).await.ok()?;
        offset = page.next;
        log.push_str(&page.data);
        if page.end || page.data.is_empty() || log.len() > MAX_LOG_BYTES {
            return Some(log);
        }
    }
}
