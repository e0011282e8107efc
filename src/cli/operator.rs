//! The flags and the surroundings of every command that an operator runs.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::exit::{CommandError, Exit};
use super::out;
use crate::bus::{Bus, SeedReaders, Settings};
use crate::operator::drive::Confirm;
use crate::operator::{Discovery, Drive, Fleet, Link, Progress};
use crate::protocol::{RolloutId, Subject, Tier, subject};
use crate::report::{Json, Lines, Reporter, Style};
use crate::rollout::{Executor, Interrupt};

/// More answers than the largest fleet gives at once. Unused places cost nothing; a full subscription loses answers.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// What every command of an operator takes.
#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    #[command(flatten)]
    connection: Connection,

    /// Subject on which hosts are asked whether they are there
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_SUBJECT", value_name = "SUBJECT", default_value = subject::DISCOVER)]
    discover_subject: Subject,

    /// How long answers to that are waited for
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_WINDOW", value_name = "DURATION", default_value = "2s")]
    #[arg(value_parser = humantime::parse_duration)]
    discover_window: Duration,

    /// Who deploys, as the hosts and other operators are told [default: USER@MACHINE]
    #[arg(long, env = "HOMELAB_DEPLOY_OPERATOR", value_name = "NAME")]
    operator: Option<String>,

    #[arg(long, env = "USER", hide = true, default_value = "unknown")]
    login_name: String,
}

/// How a rollout is shown.
#[derive(Debug, Args)]
pub(super) struct DisplayArgs {
    /// Print one JSON object for each event to stdout, and nothing else there
    #[arg(long, env = "HOMELAB_DEPLOY_JSON")]
    pub(super) json: bool,

    // When it is set to anything at all, there are no colours: https://no-color.org
    #[arg(long, env = "NO_COLOR", hide = true)]
    no_color: Option<String>,
}

#[derive(Debug, Error, Diagnostic)]
#[error("cannot listen for signals: {0}")]
struct SignalError(#[source] io::Error);

impl OperatorArgs {
    /// Connects, and tells the user what is not as it should be.
    pub(super) async fn connect(&self) -> Result<Bus, CommandError> {
        let settings = self.connection.settings(self.name(), SeedReaders::Warn);
        let settings = Settings { subscription_capacity: SUBSCRIPTION_CAPACITY, ..settings };
        let bus = Bus::connect(&settings).await.map_err(|error| Exit::Precondition.because(error))?;
        bus.warnings.iter().for_each(|warning| out::note(&format!("warning: {warning}")));
        Ok(bus)
    }

    /// Who deploys.
    pub(super) fn name(&self) -> String {
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.operator.clone().unwrap_or_else(|| format!("{}@{}", self.login_name, machine()))
    }

    /// Where to ask who is there.
    pub(super) fn discovery(&self, tier: Option<Tier>) -> Discovery {
        Discovery { subject: self.discover_subject.clone(), tier, window: self.discover_window }
    }
}

/// Who reads what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A person, who can be asked.
    Person,
    /// A program, which reads JSON and answers nothing.
    Program,
}

impl DisplayArgs {
    /// Who reads what is printed.
    pub(super) fn audience(&self) -> Audience {
        if self.json { Audience::Program } else { Audience::Person }
    }

    /// whether text for people is colored.
    pub(super) fn style(&self) -> Style {
        let wanted = self.no_color.as_ref().is_none_or(String::is_empty);
        if wanted && io::stderr().is_terminal() { Style::Colored } else { Style::Plain }
    }

    fn reporter(&self) -> Box<dyn Reporter> {
        if self.json { Box::new(Json::new(io::stdout())) } else { Box::new(Lines::new(io::stderr(), self.style())) }
    }
}

/// Drives an executor to its end over this connection, in front of the operator's eyes.
pub(super) async fn drive(
    bus: Bus,
    rollout: RolloutId,
    discovery: Discovery,
    executor: &mut impl Executor,
    display: &DisplayArgs,
    confirm: Confirm<'_>,
) -> Result<Progress, CommandError> {
    let link = Link::subscribe(bus, rollout, discovery).await.map_err(|error| Exit::Precondition.because(error))?;
    let (fleet, end) = Fleet::channels();
    let mut messages = JoinSet::new();
    messages.spawn(link.serve(end));

    let (interrupt, interrupts) = mpsc::channel(4);
    let mut signals = JoinSet::new();
    signals.spawn(listen(Signals::new()?, interrupt));

    let drive = Drive { fleet, journal: None, reporters: vec![display.reporter()], interrupts, confirm };
    let result = drive.run(executor).await.map_err(|error| Exit::Precondition.because(error));
    // The drive has let go of its ends of the channels; what it published last is flushed before the command ends.
    messages.join_all().await;
    result
}

/// The signals by which an operator stops a command.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, CommandError> {
        let on = |kind| signal(kind).map_err(|error| Exit::Precondition.because(SignalError(error)));
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }
}

/// Passes on the wish to stop: the first Ctrl-C waits for the hosts in flight, the second leaves at once. Whoever sends
/// SIGTERM wants an orderly end.
async fn listen(mut signals: Signals, interrupts: mpsc::Sender<Interrupt>) {
    let mut on_interrupt = Interrupt::Drain;
    loop {
        let how = tokio::select! {
            _ = signals.interrupt.recv() => std::mem::replace(&mut on_interrupt, Interrupt::Abort),
            _ = signals.terminate.recv() => Interrupt::Drain,
        };
        if interrupts.send(how).await.is_err() {
            return;
        }
    }
}
