//! The flags and the surroundings of every command that an operator runs.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;

use super::connection::{ConnectionArgs, HEADING};
use super::exit::{CommandError, Exit};
use super::out::{self, Stream};
use super::state::StateArgs;
use crate::bus::{Bus, SeedReaders, ServerUrl, Settings};
use crate::operator::{Discovery, KnownHosts, LogWatch};
use crate::protocol::{Subject, subject};
use crate::report::{Bars, Json, Lines, LogView, Reporter, Style};

/// More answers than the largest fleet gives at once. Unused places cost nothing; a full subscription loses answers.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

// What every command of an operator takes.
#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    #[command(flatten)]
    connection: ConnectionArgs,

    /// Subject on which hosts are asked whether they are there
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_SUBJECT", value_name = "SUBJECT", default_value = subject::DISCOVER)]
    #[arg(help_heading = HEADING)]
    discover_subject: Subject,

    /// How long answers to that are waited for [default: 2s, and less once every host has answered that did before]
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_WINDOW", value_name = "DURATION")]
    #[arg(help_heading = HEADING, value_parser = humantime::parse_duration)]
    discover_window: Option<Duration>,

    /// Who deploys, as the hosts and other operators are told [default: USER@MACHINE]
    #[arg(long, env = "HOMELAB_DEPLOY_OPERATOR", value_name = "NAME")]
    operator: Option<String>,

    #[arg(long, env = "USER", hide = true, default_value = "unknown")]
    login_name: String,
}

// How a rollout is shown.
#[derive(Debug, Args)]
pub(super) struct DisplayArgs {
    /// Print one JSON object for each event to stdout, and nothing else there
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = crate::cli::switch::read)]
    pub(super) json: bool,

    /// Print the logs of the runs as they are written, each line with its host in front
    #[arg(long, short, env = "HOMELAB_DEPLOY_VERBOSE", conflicts_with = "json", value_parser = crate::cli::switch::read)]
    verbose: bool,

    // When it is set to anything at all, there are no colours: https://no-color.org
    #[arg(long, env = "NO_COLOR", hide = true)]
    no_color: Option<String>,

    #[arg(long, env = "TERM", hide = true)]
    term: Option<String>,
}

impl OperatorArgs {
    /// Connects, and tells the user what is not as it should be.
    pub(super) async fn connect(&self) -> Result<Bus, CommandError> {
        let bus = Bus::connect(&self.settings()).await.map_err(|error| Exit::Precondition.with(error))?;
        out::warnings(&bus.warnings);
        Ok(bus)
    }

    pub(super) fn settings(&self) -> Settings {
        let settings = self.connection.settings(self.name(), SeedReaders::Warn);
        Settings { subscription_capacity: SUBSCRIPTION_CAPACITY, ..settings }
    }

    pub(super) fn name(&self) -> String {
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.operator.clone().unwrap_or_else(|| format!("{}@{}", self.login_name, machine()))
    }

    /// Where and how long the roll is called.
    pub(super) fn discovery(&self, state: &StateArgs) -> Discovery {
        let servers = self.settings().servers;
        Discovery {
            subject: self.discover_subject.clone(),
            window: self.discover_window,
            known: KnownHosts::of(state.folder(), servers.iter().map(ServerUrl::to_string)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Person,
    /// A program, which reads JSON and answers nothing.
    Program,
}

impl DisplayArgs {
    pub(super) fn audience(&self) -> Audience {
        if self.json { Audience::Program } else { Audience::Person }
    }

    pub(super) fn style(&self) -> Style {
        let is_able = self.term.as_ref().is_none_or(|term| term != "dumb");
        let wanted = is_able && self.no_color.as_ref().is_none_or(String::is_empty);
        if wanted && io::stderr().is_terminal() { Style::Colored } else { Style::Plain }
    }

    pub(super) fn reporter(&self) -> Box<dyn Reporter + Send> {
        if self.json {
            Box::new(Json::new(Stream::Data))
        } else if self.stands_in_place() {
            Box::new(Bars::stderr(self.style(), out::size).with_logs(self.logs()))
        } else {
            Box::new(Lines::new(Stream::Words, self.style()).with_logs(self.logs()))
        }
    }

    fn logs(&self) -> LogView {
        if self.verbose { LogView::Whole } else { LogView::LastLine }
    }

    /// What has to be read of the logs for that.
    pub(super) fn watch(&self) -> Option<LogWatch> {
        match self.logs() {
            LogView::Whole => Some(LogWatch::All),
            LogView::LastLine => (!self.json && self.stands_in_place()).then_some(LogWatch::LastLine),
        }
    }

    fn stands_in_place(&self) -> bool {
        io::stderr().is_terminal() && self.can_move_the_cursor()
    }

    fn can_move_the_cursor(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term != "dumb")
    }
}
