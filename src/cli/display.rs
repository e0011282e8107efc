//! A display in a thread of its own: a terminal that is stopped, or a pipe that nobody reads, holds up no rollout.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::protocol::HostName;
use crate::report::Reporter;
use crate::rollout::{Event, EventKind, Interrupt, Summary};

/// How long an operator who leaves at once waits for a display that takes nothing more.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// The end of a display at which events go in. It takes them at once, and shows all of them before it is dropped.
pub(super) struct Display {
    to: Sender<Show>,
    thread: Option<JoinHandle<()>>,
    over: Receiver<()>,
    leaves_at_once: bool,
}

/// Waits for what was to be shown so far.
pub(super) struct Shown(Sender<Show>);

enum Show {
    Event(Event),
    Log(HostName, Vec<String>),
    Tick(Timestamp),
    Flush,
    Tell(oneshot::Sender<()>),
    End,
}

impl Display {
    /// Shows by this reporter what happens to a rollout that had come to this.
    pub(super) fn start(reporter: Box<dyn Reporter + Send>, state: Summary) -> Self {
        let (to, from) = channel();
        let (ends, over) = channel();
        let thread = thread::spawn(move || {
            show(reporter, state, &from);
            ends.send(()).ok();
        });
        Self { to, thread: Some(thread), over, leaves_at_once: false }
    }

    /// Waits, when it is asked to, for what was to be shown until then.
    pub(super) fn shown(&self) -> Shown {
        Shown(self.to.clone())
    }

    /// A thread that has ended after an error shows nothing more.
    fn pass_on(&self, show: Show) {
        self.to.send(show).ok();
    }
}

impl Shown {
    /// Waits until everything is shown that was to be.
    pub(super) fn all(&self) -> impl Future<Output = ()> + Send + 'static {
        let (tell, told) = oneshot::channel();
        self.0.send(Show::Tell(tell)).ok();
        async move { told.await.unwrap_or_default() }
    }
}

impl Reporter for Display {
    fn event(&mut self, event: &Event, _: &Summary) -> io::Result<()> {
        self.leaves_at_once |= matches!(event.kind, EventKind::Interrupted { how: Interrupt::Abort });
        self.pass_on(Show::Event(event.clone()));
        Ok(())
    }

    fn log(&mut self, host: &HostName, lines: &[String]) -> io::Result<()> {
        self.pass_on(Show::Log(host.clone(), lines.to_vec()));
        Ok(())
    }

    fn tick(&mut self, now: Timestamp, _: &Summary) -> io::Result<()> {
        self.pass_on(Show::Tick(now));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on(Show::Flush);
        Ok(())
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.to.send(Show::End).ok();
        let is_stuck = self.leaves_at_once && self.over.recv_timeout(LEAVE_WITHIN).is_err();
        if let Some(thread) = self.thread.take().filter(|_| !is_stuck) {
            thread.join().ok();
        }
    }
}

/// Shows what comes until the end, or until the reporter fails. Each event is shown with what the rollout had come to by it.
fn show(mut reporter: Box<dyn Reporter + Send>, mut state: Summary, from: &Receiver<Show>) {
    for show in from {
        let shown = match show {
            Show::Event(event) => {
                state.apply(&event);
                reporter.event(&event, &state)
            }
            Show::Log(host, lines) => reporter.log(&host, &lines),
            Show::Tick(now) => reporter.tick(now, &state),
            Show::Flush => reporter.flush(),
            Show::Tell(tell) => reporter.flush().map(|()| tell.send(()).unwrap_or_default()),
            // The command is at its end: taking a large fleet apart host by host would only hold that up.
            Show::End => return std::mem::forget(state),
        };
        if let Err(error) = shown {
            return tracing::warn!("a display is given up: {error}");
        }
    }
}
