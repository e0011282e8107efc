//! Displays a rollout as the flags say, in a thread of its own, so that a stopped terminal or a pipe that nobody reads
//! cannot delay the rollout.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::args::switch;
use super::out::{self, Stream};
use crate::protocol::HostName;
use crate::report::{self, Bars, Json, Lines, LogView, Reporter};
use crate::rollout::{Event, EventKind, Interrupt, Outcome, Summary};

/// How many events go to the thread at once: waking it up costs more than showing an event.
const EVENTS_PER_STEP: usize = 64;

/// How long an aborted rollout waits for a display that is stuck.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DisplayArgs {
    /// Print one JSON object for each event to stdout, and nothing else there
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = switch)]
    pub(super) json: bool,

    /// Print the logs of the runs as they grow, each line prefixed with its host
    #[arg(long, short, env = "HOMELAB_DEPLOY_VERBOSE", conflicts_with = "json", value_parser = switch)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Person,
    /// A program that reads JSON and answers no question.
    Program,
}

impl DisplayArgs {
    pub(super) fn audience(&self) -> Audience {
        if self.json { Audience::Program } else { Audience::Person }
    }

    /// Prints the recap of a rollout for a person, and how to resume it if it did not succeed.
    pub(super) fn recap(&self, summary: &Summary) {
        let Some(rollout) = summary.rollout.as_deref().filter(|_| self.audience() == Audience::Person) else { return };
        out::note(&report::recap(summary, Stream::Stderr.style(), out::stderr_line_limit()));
        // A `deploy` is simply run again.
        if summary.outcome != Some(Outcome::Succeeded) && rollout.source.is_some() {
            out::note(&format!("  resume:   homelab-deploy apply --resume {}", rollout.id.short()));
        }
    }

    pub(super) fn reporter(&self) -> Box<dyn Reporter + Send> {
        if self.json {
            Box::new(Json::new(Stream::Stdout))
        } else if Stream::Stderr.can_redraw() {
            Box::new(Bars::stderr(Stream::Stderr.style(), out::size, self.log_view()))
        } else {
            Box::new(Lines::new(Stream::Stderr, Stream::Stderr.style()))
        }
    }

    fn log_view(&self) -> LogView {
        if self.verbose { LogView::Whole } else { LogView::LastLine }
    }

    /// Returns which parts of the logs must be read for the display.
    pub(super) fn logs_to_read(&self) -> Option<LogView> {
        let is_shown = self.verbose || !self.json && Stream::Stderr.can_redraw();
        is_shown.then(|| self.log_view())
    }
}

/// A step of the display thread, with the state of the rollout. `None` ends the thread.
type DisplayStep = Option<Box<dyn FnOnce(&mut dyn Reporter, &mut Summary) -> io::Result<()> + Send>>;

/// The sending end of a display thread. Sending does not block; dropping it waits until everything is shown.
pub(super) struct Display {
    to: Sender<DisplayStep>,
    audience: Audience,
    /// Events that go to the thread together, each with its record as JSON for a program.
    events: Vec<(Event, Vec<u8>)>,
    thread_ended: Receiver<()>,
    leaves_at_once: bool,
}

/// Waits until the display has shown what was sent so far.
pub(super) struct DisplayBarrier(Sender<DisplayStep>);

impl Display {
    /// Shows what happens to a rollout that had come to this.
    pub(super) fn start(how: &DisplayArgs, mut state: Summary) -> Self {
        let (mut reporter, audience) = (how.reporter(), how.audience());
        let (to, from) = channel::<DisplayStep>();
        let (ends, thread_ended) = channel();
        thread::spawn(move || {
            while let Ok(Some(show)) = from.recv() {
                if let Err(error) = show(&mut *reporter, &mut state) {
                    tracing::warn!("a display stopped: {error}");
                    break;
                }
            }
            drop(reporter);
            ends.send(()).ok();
            // The process exits now: dropping the state of a large fleet would only delay that.
            std::mem::forget(state);
        });
        Self { to, audience, events: Vec::new(), thread_ended, leaves_at_once: false }
    }

    /// Returns a handle that can wait for the display.
    pub(super) fn barrier(&self) -> DisplayBarrier {
        DisplayBarrier(self.to.clone())
    }

    /// Sends a step to the thread. After an error the thread has ended, and nothing more is shown.
    fn send_step(&mut self, show: impl FnOnce(&mut dyn Reporter, &mut Summary) -> io::Result<()> + Send + 'static) {
        let events = std::mem::take(&mut self.events);
        let show = move |reporter: &mut dyn Reporter, state: &mut Summary| {
            for (event, json) in &events {
                state.apply(event);
                reporter.event(event, json, state)?;
            }
            show(reporter, state)
        };
        self.to.send(Some(Box::new(show))).ok();
    }
}

impl DisplayBarrier {
    /// Waits until everything is shown that was sent before this call.
    pub(super) fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let (tell, told) = oneshot::channel();
        let show =
            |reporter: &mut dyn Reporter, _: &mut Summary| reporter.flush().map(|()| tell.send(()).unwrap_or_default());
        self.0.send(Some(Box::new(show))).ok();
        async move { told.await.unwrap_or_default() }
    }
}

impl Reporter for Display {
    fn event(&mut self, event: &Event, json: &[u8], _: &Summary) -> io::Result<()> {
        self.leaves_at_once |= matches!(event.kind, EventKind::Interrupted { how: Interrupt::Abort });
        let json = if self.audience == Audience::Program { json.to_vec() } else { Vec::new() };
        self.events.push((event.clone(), json));
        if self.events.len() >= EVENTS_PER_STEP {
            self.send_step(|_, _| Ok(()));
        }
        Ok(())
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        let (host, lines) = (host.clone(), lines.to_vec());
        self.send_step(move |reporter, _| reporter.log(&host, &lines));
        Ok(())
    }

    fn tick(&mut self, now: Timestamp, _: &Summary) -> io::Result<()> {
        self.send_step(move |reporter, state| reporter.tick(now, state));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_step(|reporter, _| reporter.flush());
        Ok(())
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.send_step(|_, _| Ok(()));
        self.to.send(None).ok();
        if self.leaves_at_once {
            self.thread_ended.recv_timeout(LEAVE_WITHIN).ok();
        } else {
            self.thread_ended.recv().ok();
        }
    }
}
