//! `deploy`: one request to one subject.

mod returning;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;
use uuid::Uuid;

use crate::bus::Bus;
use crate::cli::alias;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::cli::operator::{DisplayArgs, OperatorArgs};
use crate::cli::out;
use crate::cli::rollback::RollbackArgs;
use crate::cli::runtime::block_on;
use crate::cli::session::Session;
use crate::clock;
use crate::operator::Progress;
use crate::plan::{CONFIRM_TIMEOUT, FrozenPlan, FrozenWave, Groups, Limits, Rollback, Selector};
use crate::protocol::{Action, RequestIds, Revision, RolloutId, Subject};
use crate::report;
use crate::rollout::broadcast::Order;
use crate::rollout::summary::{HostState, WaveState};
use crate::rollout::{Answer, Broadcast, Cause, Executor, HostOutcome, Outcome, Rollout, Summary, WaveVerdict};

/// From the request to the first status of a host that is there. Taking a request is a matter of milliseconds.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(in crate::cli) struct Deploy {
    /// Whom to deploy to: a subject such as deploy.prod.ns1 or deploy.test.all, prod.ns1 for short, or the name of an
    /// alias, prod-dns for `HOMELAB_DEPLOY_ALIAS_PROD_DNS`
    #[arg(value_name = "SUBJECT|ALIAS")]
    target: String,

    /// Branch, tag or commit to deploy
    #[arg(long, env = "HOMELAB_DEPLOY_BRANCH", default_value = "master")]
    branch: Revision,

    /// What nixos-rebuild does: switch, boot, test or dry-activate
    #[arg(long, env = "HOMELAB_DEPLOY_ACTION", default_value = "switch")]
    action: Action,

    /// How long a host may take, in seconds
    #[arg(long, env = "HOMELAB_DEPLOY_TIMEOUT", value_name = "SECONDS", default_value = "900")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,

    #[command(flatten)]
    rollback: RollbackArgs,

    #[command(flatten)]
    operator: OperatorArgs,

    #[command(flatten)]
    display: DisplayArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("nobody answers on {subject}")]
struct NobodyThere {
    subject: String,
    #[help]
    help: String,
}

impl Deploy {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let selector = Selector::parse(&self.target, &alias::lookup).map_err(|mistake| Exit::Usage.because(mistake))?;
        // What changes nothing leaves nothing to return from.
        if self.rollback.auto_rollback && self.action != Action::DryActivate {
            return block_on(self.deploy_returning(selector))?;
        }
        block_on(self.deploy(selector.target.subject()))?
    }

    async fn deploy(self, subject: Subject) -> CommandResult {
        let bus = self.operator.connect().await?;
        let order = Order {
            subject: subject.clone(),
            action: self.action,
            accept_timeout: ACCEPT_TIMEOUT,
            timeout: Duration::from_secs(self.timeout.into()),
        };
        let rollout = Arc::new(self.rollout(whoever_listens(&order)));
        let mut broadcast = Broadcast::new(Arc::clone(&rollout), order, clock::now());
        let progress = self.drive(bus, &rollout, &mut broadcast).await?;

        if is_deserted(&progress.summary) {
            let help = who_answers(broadcast.subjects_present());
            return Err(Exit::Failed.because(NobodyThere { subject: subject.to_string(), help }));
        }
        let exit = self.conclude(&progress);
        // The command is at its end: taking a large fleet apart host by host would only hold that up.
        std::mem::forget((broadcast, progress));
        Ok(exit)
    }

    async fn drive(&self, bus: Bus, rollout: &Rollout, executor: &mut impl Executor) -> Result<Progress, CommandError> {
        let session = Session {
            bus,
            rollout: rollout.id,
            discovery: self.operator.discovery(None),
            reporter: self.display.reporter(),
            confirm: Box::new(|_: &Summary, _| Box::pin(async { Answer::Unavailable })),
            record: None,
        };
        session.drive(executor).await
    }

    fn conclude(&self, progress: &Progress) -> Exit {
        if !self.display.json {
            out::note(&report::recap(&progress.summary, self.display.style(), out::room()));
        }
        progress.outcome.into()
    }

    fn rollout(&self, plan: FrozenPlan) -> Rollout {
        Rollout {
            id: RolloutId::from(Uuid::new_v4()),
            ids: RequestIds::new(Uuid::new_v4()),
            operator: self.operator.name(),
            asked: self.branch.clone(),
            revision: self.branch.clone(),
            subject: None,
            source: None,
            plan,
        }
    }
}

/// What is known before anybody has answered: a wave whose hosts will turn up.
fn whoever_listens(order: &Order) -> FrozenPlan {
    let limits = Limits {
        max_parallel: usize::MAX,
        max_failures: 0,
        min_hosts: 1,
        ignore_unreachable: false,
        accept_timeout: order.accept_timeout,
        timeout: order.timeout,
        bake_time: Duration::ZERO,
        check: None,
        confirm: false,
        retries: 0,
        retry_delay: Duration::ZERO,
        rollback: Rollback::None,
        confirm_timeout: CONFIRM_TIMEOUT,
    };
    let name = order.subject.to_string();
    let wave =
        FrozenWave { name: name.clone(), action: order.action, hosts: Vec::new(), groups: Groups::default(), limits };
    FrozenPlan { name, waves: vec![wave], left_out: BTreeSet::new() }
}

/// Whether every host that could have been there was looked for, and not one has said anything.
fn is_deserted(summary: &Summary) -> bool {
    let looked = summary.outcome == Some(Outcome::Failed)
        && !summary.waves.iter().any(|wave| wave.state == WaveState::Ended(WaveVerdict::Failed(Cause::Disconnected)));
    looked && summary.hosts.iter().all(|host| host.state == HostState::Final(HostOutcome::Unreachable))
}

fn who_answers<'a>(present: impl Iterator<Item = &'a Subject>) -> String {
    let subjects: BTreeSet<&str> = present.map(Subject::as_str).collect();
    if subjects.is_empty() {
        "no listener answers at all: check that they run, and that they use the same NATS server".to_owned()
    } else {
        format!("these do: {}; `homelab-deploy hosts` tells more", subjects.into_iter().collect::<Vec<_>>().join(", "))
    }
}
