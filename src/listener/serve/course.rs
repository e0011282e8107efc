//! The course of a run, as far as this process has a part in it: begun, watched, concluded, told.

use std::mem;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};

use super::{Service, heartbeat, pace};
use crate::listener::problems::Kind;
use crate::listener::publisher::{Delivery, Link};
use crate::listener::rebuild::{self, Finished, HostContext, RunEvent, StartError, Watcher};
use crate::listener::run::{RunDir, Spec};
use crate::listener::state_dir::Undelivered;
use crate::listener::surroundings::{self, ASK_AGAIN};
use crate::protocol::{Phase, Response};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    Beginning,
    Running,
    Concluding,
}

/// Whether ends of runs are on their way to the server. One batch at a time: the next one may be the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryState {
    Idle,
    OnItsWay,
}

/// A part of a run that takes time, and is over.
#[derive(Debug)]
pub(super) enum Step {
    Begun(Result<Watcher, StartError>),
    RunEvent(RunEvent),
    Concluded(Box<Response>),
    /// The server has been given all that were on their way.
    Delivered,
    /// Nobody knows whether the server has been given these.
    Lost(Vec<Undelivered>),
    /// It was tried to ask where the flake is from; why it was not possible.
    FlakeAsked(Option<String>),
    /// What was too old is forgotten.
    Forgotten,
    /// A page of a log was given out.
    PageGiven,
}

impl Service {
    /// Takes up a run that an earlier listener began.
    pub(super) fn take_up(&mut self, dir: RunDir, spec: Spec) {
        match rebuild::over(&dir, &spec, self.boot_id.as_deref()) {
            None if self.stage == Stage::Idle => {
                tracing::info!(key = spec.key, "taking up the run that goes on");
                self.ledger.accepted(spec);
                self.watch(Watcher::new(dir));
            }
            None => tracing::error!(key = spec.key, "a second run goes on; it is concluded at the next start"),
            Some(over) => {
                let response = rebuild::conclude(&over, &dir, &spec, self.site());
                self.concluded(dir, spec, response);
            }
        }
    }

    fn site(&self) -> HostContext {
        HostContext { boot_id: self.boot_id.clone(), previous: self.ledger.deployed_last().cloned() }
    }

    /// A part of the run is over.
    pub(super) async fn step(&mut self, step: Result<Step, JoinError>) {
        let step = match step {
            Ok(step) => step,
            // A bug. The run has its own process: the next listener takes it up, while this one knows nothing for sure.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match step {
            Step::Begun(begun) => self.begun(begun).await,
            Step::RunEvent(RunEvent::Phase(watch)) => self.next_phase(watch).await,
            Step::RunEvent(RunEvent::Finished(over)) => self.conclude(over),
            Step::Concluded(response) => self.ended(*response),
            Step::Delivered => {
                self.mail = DeliveryState::Idle;
                self.deliver();
            }
            Step::Forgotten | Step::PageGiven => {}
            Step::Lost(untold) => {
                self.mail = DeliveryState::Idle;
                self.untold.splice(..0, untold);
                self.deliver();
            }
            Step::FlakeAsked(None) => self.problems.solved(Kind::FlakeUnreachable),
            Step::FlakeAsked(Some(why)) => {
                self.problems.found(Kind::FlakeUnreachable, why);
                self.ask_flake(ASK_AGAIN);
            }
        }
    }

    /// Asks, after a while, where the flake is from.
    pub(super) fn ask_flake(&mut self, after: Duration) {
        let flake = self.config.flake.clone();
        self.steps.spawn(async move { Step::FlakeAsked(surroundings::ask(flake, after).await) });
    }

    /// The accepted run has been begun, or not.
    async fn begun(&mut self, begun: Result<Watcher, StartError>) {
        match begun {
            Ok(watch) => {
                self.watch(watch);
                self.tell_progress().await;
            }
            Err(why) => {
                let Some((dir, spec)) = self.current() else { return };
                self.ended(rebuild::not_begun(&why, &dir, &spec));
            }
        }
    }

    /// The run that goes on, and where it is kept.
    fn current(&self) -> Option<(RunDir, Spec)> {
        let spec = self.ledger.current()?.spec.clone();
        Some((self.memory.run_dir(&spec.key), spec))
    }

    pub(super) fn watch(&mut self, watch: Watcher) {
        self.ledger.started();
        self.stage = Stage::Running;
        self.follow(watch);
    }

    /// The run has come to another phase.
    async fn next_phase(&mut self, watch: Watcher) {
        let phase = watch.phase();
        self.follow(watch);
        if phase == Phase::Confirm {
            // That the host can be reached is to be proven, and a connection from before the activation proves nothing:
            // it may go on where no new one could be made. It is told once the new one stands.
            self.voice.connect_anew().await;
        } else {
            self.tell_progress().await;
        }
    }

    fn follow(&mut self, watch: Watcher) {
        self.heartbeat = heartbeat(pace(&self.config, watch.phase()));
        self.steps.spawn(async { Step::RunEvent(watch.news().await) });
    }

    fn conclude(&mut self, over: Finished) {
        let Some((dir, spec)) = self.current() else { return };
        self.stage = Stage::Concluding;
        let site = self.site();
        self.steps.spawn_blocking(move || Step::Concluded(Box::new(rebuild::conclude(&over, &dir, &spec, site))));
    }

    /// The run that went on has come to this.
    fn ended(&mut self, response: Response) {
        let Some((dir, spec)) = self.current() else { return };
        self.stage = Stage::Idle;
        self.concluded(dir, spec, response);
        self.deliver();
    }

    /// A run has come to this, be it the one that went on or an earlier one.
    fn concluded(&mut self, dir: RunDir, spec: Spec, response: Response) {
        tracing::info!(
            key = spec.key, status = %response.status, error = response.error.as_ref().map(ToString::to_string),
            "{}", response.message
        );
        self.untold.push(Undelivered::new(dir.clone(), spec.reply_to.clone(), response.clone()));
        self.ledger.ended(spec, response);
        self.signs.run_ended(&self.ledger);
        let too_old = self.memory.ended(dir);
        self.steps.spawn_blocking(move || {
            too_old.forget();
            Step::Forgotten
        });
    }

    /// Hands the server the ends of runs that it does not have yet. Without a connection that waits for the next one.
    pub(super) fn deliver(&mut self) {
        if self.untold.is_empty() || self.mail == DeliveryState::OnItsWay || self.voice.link == Link::Down {
            return;
        }
        self.mail = DeliveryState::OnItsWay;
        let untold = mem::take(&mut self.untold);
        let voice = self.voice.clone();
        self.steps.spawn(async move {
            match voice.deliver(&untold).await {
                Delivery::Certain => {
                    // It is told again in doubt, and no slow disk holds up the loop.
                    spawn_blocking(move || untold.iter().for_each(Undelivered::told)).await.ok();
                    Step::Delivered
                }
                Delivery::Unknown => Step::Lost(untold),
            }
        });
    }
}
