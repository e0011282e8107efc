//! How a rollout is shown: what the flags say of it, and a display in a thread of its own, so that a terminal that is stopped, or
//! a pipe that nobody reads, holds up no rollout.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::args::switch;
use super::out::{self, Stream};
use crate::operator::LogWatch;
use crate::protocol::HostName;
use crate::report::{Bars, Json, Lines, LogView, Reporter, Style};
use crate::rollout::{Event, EventKind, Interrupt, Summary};

/// How many events go to the thread at once: waking it up costs more than showing an event.
const CROWD: usize = 64;

/// How long an operator who leaves at once waits for a display that takes nothing more.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DisplayArgs {
    /// Print one JSON object for each event to stdout, and nothing else there
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = switch)]
    pub(super) json: bool,

    /// Print the logs of the runs as they are written, each line with its host in front
    #[arg(long, short, env = "HOMELAB_DEPLOY_VERBOSE", conflicts_with = "json", value_parser = switch)]
    verbose: bool,

    // When it is set to anything at all, there are no colours: https://no-color.org
    #[arg(long, env = "NO_COLOR", hide = true)]
    no_color: Option<String>,

    #[arg(long, env = "TERM", hide = true)]
    term: Option<String>,
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

/// What a display does next, with what the rollout has come to; the last is nothing.
type Show = Option<Box<dyn FnOnce(&mut dyn Reporter, &mut Summary) -> io::Result<()> + Send>>;

/// The end of a display at which events go in. It takes them at once, and shows all of them before it is dropped.
pub(super) struct Display {
    to: Sender<Show>,
    audience: Audience,
    /// Events that go to the thread together, each with where its record ends in `json`.
    events: Vec<(Event, usize)>,
    json: Vec<u8>,
    thread: Option<JoinHandle<()>>,
    over: Receiver<()>,
    leaves_at_once: bool,
}

/// Waits for what was to be shown so far.
pub(super) struct Shown(Sender<Show>);

impl Display {
    /// Shows what happens to a rollout that had come to this.
    pub(super) fn start(how: &DisplayArgs, mut state: Summary) -> Self {
        let (mut reporter, audience) = (how.reporter(), how.audience());
        let (to, from) = channel::<Show>();
        let (ends, over) = channel();
        let thread = thread::spawn(move || {
            while let Ok(Some(show)) = from.recv() {
                if let Err(error) = show(&mut *reporter, &mut state) {
                    tracing::warn!("a display is given up: {error}");
                    break;
                }
            }
            drop(reporter);
            ends.send(()).ok();
            // The command is at its end: taking a large fleet apart host by host would only hold that up.
            std::mem::forget(state);
        });
        let (events, json, thread) = (Vec::new(), Vec::new(), Some(thread));
        Self { to, audience, events, json, thread, over, leaves_at_once: false }
    }

    /// Waits, when it is asked to, for what was to be shown until then.
    pub(super) fn shown(&self) -> Shown {
        Shown(self.to.clone())
    }

    /// A thread that has ended after an error shows nothing more.
    fn pass_on(&mut self, show: impl FnOnce(&mut dyn Reporter, &mut Summary) -> io::Result<()> + Send + 'static) {
        let (events, json) = (std::mem::take(&mut self.events), std::mem::take(&mut self.json));
        let show = move |reporter: &mut dyn Reporter, state: &mut Summary| {
            let mut begins = 0;
            for (event, ends) in &events {
                state.apply(event);
                reporter.recorded(event, json.get(begins..*ends).unwrap_or_default(), state)?;
                begins = *ends;
            }
            show(reporter, state)
        };
        self.to.send(Some(Box::new(show))).ok();
    }
}

impl Shown {
    /// Waits until everything is shown that was to be.
    pub(super) fn all(&self) -> impl Future<Output = ()> + Send + 'static {
        let (tell, told) = oneshot::channel();
        let show =
            |reporter: &mut dyn Reporter, _: &mut Summary| reporter.flush().map(|()| tell.send(()).unwrap_or_default());
        self.0.send(Some(Box::new(show))).ok();
        async move { told.await.unwrap_or_default() }
    }
}

impl Reporter for Display {
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()> {
        self.recorded(event, &[], summary)
    }

    fn recorded(&mut self, event: &Event, json: &[u8], _: &Summary) -> io::Result<()> {
        self.leaves_at_once |= matches!(event.kind, EventKind::Interrupted { how: Interrupt::Abort });
        if self.audience == Audience::Program {
            self.json.extend_from_slice(json);
        }
        self.events.push((event.clone(), self.json.len()));
        if self.events.len() >= CROWD {
            self.pass_on(|_, _| Ok(()));
        }
        Ok(())
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        let (host, lines) = (host.clone(), lines.to_vec());
        self.pass_on(move |reporter, _| reporter.log(&host, &lines));
        Ok(())
    }

    fn tick(&mut self, now: Timestamp, _: &Summary) -> io::Result<()> {
        self.pass_on(move |reporter, state| reporter.tick(now, state));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on(|reporter, _| reporter.flush());
        Ok(())
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.pass_on(|_, _| Ok(()));
        self.to.send(None).ok();
        let is_stuck = self.leaves_at_once && self.over.recv_timeout(LEAVE_WITHIN).is_err();
        if let Some(thread) = self.thread.take().filter(|_| !is_stuck) {
            thread.join().ok();
        }
    }
}
