//! The course of a run within the listener: begun, watched, concluded, delivered.

use std::mem;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};

use super::{Service, heartbeat};
use crate::listener::history::Stage;
use crate::listener::problems::{self, ASK_AGAIN, ProblemKind};
use crate::listener::rebuild::{self, Finished, RunEvent, Watcher};
use crate::listener::run::{RunDir, Spec};
use crate::listener::state_dir::Undelivered;
use crate::protocol::{Phase, Response};

/// The outcome of something slow.
#[derive(Debug)]
pub(super) enum Step {
    Run(RunEvent),
    /// A batch of final responses was handled. These ones may not have reached the server.
    Delivered(Vec<Undelivered>),
    /// The flake was tried; the reason if it could not be reached.
    FlakeAsked(Option<String>),
    /// Old runs were removed, or a page of a log was published.
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
                let deployed = self.history.last_deployed();
                let response = rebuild::conclude(&over, &dir, &spec, self.boot_id.as_deref(), deployed.as_ref());
                self.concluded(dir, spec, response);
            }
        }
    }

    pub(super) async fn step(&mut self, step: Result<Step, JoinError>) {
        let step = match step {
            Ok(step) => step,
            // A bug. The run goes on, and the next listener takes it up; the state of this one is not to be trusted.
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
                self.problems.found(ProblemKind::FlakeUnreachable, "", &why);
                self.ask_flake(ASK_AGAIN);
            }
        }
    }

    pub(super) fn ask_flake(&mut self, after: Duration) {
        let flake = self.config.run.flake.clone();
        self.steps.spawn(async move { Step::FlakeAsked(problems::ask(flake, after).await) });
    }

    /// Returns the current run with its directory.
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
            // The confirmation has to prove that the host can be reached. An old connection proves nothing, as it may
            // live on where no new one can be made. The phase is reported over the new one.
            self.publisher.connect_anew().await;
        } else {
            self.tell_progress().await;
        }
    }

    fn conclude(&mut self, over: Finished) {
        let Some((dir, spec)) = self.current() else { return };
        self.history.reached(Stage::Concluding);
        let (boot_id, deployed) = (self.boot_id.clone(), self.history.last_deployed());
        self.steps.spawn_blocking(move || {
            let response = rebuild::conclude(&over, &dir, &spec, boot_id.as_deref(), deployed.as_ref());
            Step::Run(RunEvent::Concluded(Box::new(response)))
        });
    }

    /// Ends the current run with this final response.
    fn ended(&mut self, response: Response) {
        let Some((dir, spec)) = self.current() else { return };
        self.concluded(dir, spec, response);
        self.deliver();
    }

    /// Records the final response of a run, current or recovered.
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

    /// Delivers the outstanding final responses. Without a connection they wait for the next one.
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
            // Not waited for by the loop, as the disk may be slow. If it fails, the response is delivered again.
            spawn_blocking(move || undelivered.iter().for_each(Undelivered::told)).await.ok();
            Step::Delivered(Vec::new())
        });
    }
}
