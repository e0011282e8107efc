//! The course of a run, as far as this process has a part in it: begun, watched, concluded, told.

use std::mem;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};

use super::{Service, heartbeat};
use crate::listener::history::Stage;
use crate::listener::problems::{self, ASK_AGAIN, ProblemKind};
use crate::listener::rebuild::{self, Finished, RunEvent, Watcher};
use crate::listener::run::{RunDir, Spec};
use crate::listener::state_dir::Undelivered;
use crate::protocol::{Commit, Phase, Response};

/// A part of a run that takes time, and is over.
#[derive(Debug)]
pub(super) enum Step {
    Run(RunEvent),
    /// The server has been given the ends of runs that were on their way; of these nobody knows whether it was.
    Delivered(Vec<Undelivered>),
    /// It was tried to ask where the flake is from; why it was not possible.
    FlakeAsked(Option<String>),
    /// What was too old is forgotten, or a page of a log was given out.
    Done,
}

impl Service {
    pub(super) fn take_up(&mut self, dir: RunDir, spec: Spec) {
        match rebuild::over(&dir, &spec, self.boot_id.as_deref()) {
            None if self.history.current.is_none() => {
                tracing::info!(key = spec.key, "taking up the run that goes on");
                self.history.accepted(spec);
                self.watch(Watcher::new(dir));
            }
            None => tracing::error!(key = spec.key, "a second run goes on; it is concluded at the next start"),
            Some(over) => {
                let response = rebuild::conclude(&over, &dir, &spec, self.boot_id.as_deref(), self.previous());
                self.concluded(dir, spec, response);
            }
        }
    }

    /// The commit that this listener brought to run last, for a system that does not say its own.
    fn previous(&self) -> Option<Commit> {
        self.history.last_deployed().map(|(commit, _)| commit.clone())
    }

    pub(super) async fn step(&mut self, step: Result<Step, JoinError>) {
        let step = match step {
            Ok(step) => step,
            // A bug. The run has its own process: the next listener takes it up, while this one knows nothing for sure.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match step {
            Step::Run(RunEvent::Phase(watch)) => self.next_phase(watch).await,
            Step::Run(RunEvent::Finished(over)) => self.conclude(over),
            Step::Run(RunEvent::Concluded(response)) => self.ended(*response),
            Step::Delivered(lost) => {
                self.delivering = false;
                self.undelivered.splice(..0, lost);
                self.deliver();
            }
            Step::Done => {}
            Step::FlakeAsked(None) => self.problems.solved(ProblemKind::FlakeUnreachable),
            Step::FlakeAsked(Some(why)) => {
                self.problems.found(ProblemKind::FlakeUnreachable, why);
                self.ask_flake(ASK_AGAIN);
            }
        }
    }

    pub(super) fn ask_flake(&mut self, after: Duration) {
        let flake = self.config.run.flake.clone();
        self.steps.spawn(async move { Step::FlakeAsked(problems::ask(flake, after).await) });
    }

    /// The run that goes on, and where it is kept.
    fn current(&self) -> Option<(RunDir, Spec)> {
        let spec = self.history.current.as_ref()?.spec.clone();
        Some((self.state_dir.run_dir(&spec.key), spec))
    }

    fn watch(&mut self, watch: Watcher) {
        self.history.reached(Stage::Running);
        self.heartbeat = heartbeat(&self.config, watch.phase);
        self.steps.spawn(async { Step::Run(watch.news().await) });
    }

    async fn next_phase(&mut self, watch: Watcher) {
        let phase = watch.phase;
        self.watch(watch);
        if phase == Phase::Confirm {
            // That the host can be reached is to be proven, and a connection from before the activation proves nothing:
            // it may go on where no new one could be made. It is told once the new one stands.
            self.publisher.connect_anew().await;
        } else {
            self.tell_progress().await;
        }
    }

    fn conclude(&mut self, over: Finished) {
        let Some((dir, spec)) = self.current() else { return };
        self.history.reached(Stage::Concluding);
        let (boot_id, previous) = (self.boot_id.clone(), self.previous());
        self.steps.spawn_blocking(move || {
            let response = rebuild::conclude(&over, &dir, &spec, boot_id.as_deref(), previous);
            Step::Run(RunEvent::Concluded(Box::new(response)))
        });
    }

    /// The run that went on has come to this.
    fn ended(&mut self, response: Response) {
        let Some((dir, spec)) = self.current() else { return };
        self.concluded(dir, spec, response);
        self.deliver();
    }

    /// A run has come to this, be it the one that went on or an earlier one.
    fn concluded(&mut self, dir: RunDir, spec: Spec, response: Response) {
        tracing::info!(
            key = spec.key, status = %response.status, error = response.error.as_ref().map(ToString::to_string),
            "{}", response.message
        );
        let (reply_to, told) = (spec.reply_to.clone(), response.clone());
        self.undelivered.push(Undelivered { dir: dir.clone(), reply_to, response: told });
        self.history.ended(spec, response);
        self.metrics.send_modify(|metrics| metrics.count_last(&self.history));
        let forget = self.state_dir.ended(dir);
        self.steps.spawn_blocking(move || {
            forget();
            Step::Done
        });
    }

    /// Hands the server the ends of runs that it does not have yet. Without a connection that waits for the next one.
    pub(super) fn deliver(&mut self) {
        if self.undelivered.is_empty() || self.delivering || !self.publisher.connected {
            return;
        }
        self.delivering = true;
        let undelivered = mem::take(&mut self.undelivered);
        let publisher = self.publisher.clone();
        self.steps.spawn(async move {
            if !publisher.deliver(&undelivered).await {
                return Step::Delivered(undelivered);
            }
            // It is told again in doubt, and no slow disk holds up the loop.
            spawn_blocking(move || undelivered.iter().for_each(Undelivered::told)).await.ok();
            Step::Delivered(Vec::new())
        });
    }
}
