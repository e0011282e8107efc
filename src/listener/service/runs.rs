//! The course of a run within the listener: begun, watched, concluded, delivered, and its log given to readers.

use std::mem;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;

use super::discovery::{ASK_AGAIN, ProblemKind, flake_problem};
use super::{Service, for_log, heartbeat};
use crate::clock;
use crate::listener::run::watch::{Finished, RunEvent, conclude, finished, next_event};
use crate::listener::run::{OutputPage, RunDir, RunSpec};
use crate::protocol::response::MAX_PAGE_BYTES;
use crate::protocol::{
    AnswerScope, LogAnswer, LogPage, LogPosition, LogRequest, NoLog, Phase, RequestId, Response, Status, Subject,
    Target,
};

/// The number of log pages that are read at once. Other readers have to ask again.
pub(super) const LOG_READERS: usize = 4;

/// The most bytes that JSON needs for one byte of a log.
const LONGEST_SPELLING: usize = 8;

/// The outcome of something slow.
#[derive(Debug)]
pub(super) enum TaskDone {
    Run(RunEvent),
    /// A batch of final responses was handled. Those of these runs may not have reached the server.
    Delivered(Vec<(RunDir, RunSpec, Response)>),
    /// The flake was tried; the reason if it could not be reached.
    FlakeAsked(Option<String>),
    /// Old runs were removed, or a page of a log was published.
    Done,
}

impl Service {
    /// Watches an earlier listener's run that goes on, and concludes one that is over.
    pub(super) fn resume(&mut self, dir: RunDir, spec: RunSpec) {
        match finished(&dir, &spec, self.boot_id.as_deref()) {
            None if self.history.current.is_none() => {
                tracing::info!(key = spec.key, "watching the run that is in progress");
                self.history.accepted(spec);
                self.watch(dir.phase());
            }
            None => {
                tracing::error!(key = spec.key, "a second run is in progress; its result is read at the next start");
            }
            Some(finished) => {
                let deployed = self.history.last_deployed();
                let response = conclude(&finished, &dir, &spec, self.boot_id.as_deref(), deployed);
                self.record_end(dir, spec, response);
            }
        }
    }

    pub(super) async fn on_task_done(&mut self, step: Result<TaskDone, JoinError>) {
        let step = match step {
            Ok(step) => step,
            // A bug. The run goes on, and the next listener takes it up; the state of this one is not to be trusted.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match step {
            TaskDone::Run(RunEvent::Phase(phase)) => self.enter(phase).await,
            TaskDone::Run(RunEvent::Finished(finished)) => self.conclude(finished),
            TaskDone::Run(RunEvent::Concluded(response)) => {
                if let Some((dir, spec)) = self.current() {
                    self.record_end(dir, spec, *response);
                    self.deliver();
                }
            }
            TaskDone::Delivered(lost) => {
                self.delivering = false;
                self.undelivered.splice(..0, lost);
                self.deliver();
            }
            TaskDone::Done => {}
            TaskDone::FlakeAsked(None) => self.problems.remove(ProblemKind::FlakeUnreachable),
            TaskDone::FlakeAsked(Some(why)) => {
                self.problems.add(ProblemKind::FlakeUnreachable, "", &why);
                self.ask_flake(ASK_AGAIN);
            }
        }
    }

    pub(super) fn ask_flake(&mut self, after: Duration) {
        let flake = self.config.run.flake.clone();
        self.tasks.spawn(async move { TaskDone::FlakeAsked(flake_problem(flake, after).await) });
    }

    pub(super) fn current(&self) -> Option<(RunDir, RunSpec)> {
        let spec = self.history.current.as_ref()?.spec.clone();
        Some((self.state_dir.run_dir(&spec.key), spec))
    }

    /// Watches the current run, which is in this phase.
    fn watch(&mut self, phase: Phase) {
        let Some((dir, _)) = self.current() else { return };
        self.history.started();
        self.heartbeat = heartbeat(&self.config, phase);
        self.tasks.spawn(async move { TaskDone::Run(next_event(dir, phase).await) });
    }

    async fn enter(&mut self, phase: Phase) {
        self.watch(phase);
        if phase == Phase::Confirm {
            // The confirmation has to prove that the host can be reached. An old connection proves nothing, as it may
            // live on where no new one can be made. The phase is reported over the new one.
            self.publisher.connect_anew().await;
        } else {
            self.report_progress().await;
        }
    }

    fn conclude(&mut self, finished: Finished) {
        let Some((dir, spec)) = self.current() else { return };
        let (boot_id, deployed) = (self.boot_id.clone(), self.history.last_deployed().cloned());
        self.tasks.spawn_blocking(move || {
            let response = conclude(&finished, &dir, &spec, boot_id.as_deref(), deployed.as_ref());
            TaskDone::Run(RunEvent::Concluded(Box::new(response)))
        });
    }

    /// Records the final response of a run, current or recovered.
    fn record_end(&mut self, dir: RunDir, spec: RunSpec, response: Response) {
        tracing::info!(
            key = spec.key, status = %response.status, error = response.error.as_ref().map(ToString::to_string),
            "{}", response.message
        );
        self.undelivered.push((dir, spec.clone(), response.clone()));
        let forgotten = self.history.ended(spec, response);
        self.metrics.send_modify(|metrics| metrics.count_last(&self.history));
        let clean_up = self.state_dir.clean_up(&self.history, forgotten.as_ref());
        self.tasks.spawn_blocking(move || {
            clean_up();
            TaskDone::Done
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
        self.tasks.spawn(async move {
            if !publisher.deliver(&undelivered).await {
                return TaskDone::Delivered(undelivered);
            }
            // Not waited for by the loop, as the disk may be slow. If it fails, the response is delivered again.
            let noted = spawn_blocking(move || {
                for (dir, ..) in &undelivered {
                    if let Err(error) = dir.mark_delivered() {
                        let dir = dir.path().display();
                        tracing::warn!("cannot record that the result of the run in {dir} was delivered: {error}");
                    }
                }
            });
            noted.await.ok();
            TaskDone::Delivered(Vec::new())
        });
    }

    /// Answers a question for a log, from one of the deploy subjects.
    pub(super) fn give_log(&mut self, subject: &Subject, question: LogRequest) {
        let LogRequest { log: LogPosition { id, offset }, reply_to } = question;
        let own = Target::Host(self.config.tier, self.config.run.host.clone()).subject();
        let is_own = *subject == own && self.publisher.scope(&reply_to) == AnswerScope::Own;
        if !is_own || !self.publisher.may_answer(&reply_to) {
            let reply_to = for_log(reply_to.as_str());
            return self
                .warn_limited(|| format!("dropped a log request on {subject}: it asks for an answer on {reply_to}"));
        }
        let Ok(reader) = self.log_readers.clone().try_acquire_owned() else { return };
        // Read before the output: the output of a run that has ended is complete.
        let state = self.history.state(id.as_str(), clock::now()).filter(|state| state.status != Status::Rejected);
        let dir = self.state_dir.run_dir(id.as_str());
        let most = MAX_PAGE_BYTES.min(self.publisher.client.max_payload() / LONGEST_SPELLING);
        let publisher = self.publisher.clone();
        self.tasks.spawn(async move {
            // No reader gets more than 3 MB/s.
            sleep(Duration::from_millis(10)).await;
            let page = spawn_blocking(move || match state {
                Some(state) => page(id, &dir, offset, most, state.status),
                None => no_log(id, NoLog::UnknownRun),
            });
            if let Ok(page) = page.await {
                publisher.publish(&reply_to, LogAnswer { log: page }.to_bytes()).await;
            }
            drop(reader);
            TaskDone::Done
        });
    }
}

/// Returns a page of the log of a run with this status.
fn page(id: RequestId, dir: &RunDir, offset: u64, most: usize, status: Status) -> LogPage {
    let goes_on = !status.is_final();
    let mut page = match OutputPage::read(dir, offset, most) {
        Some(page) => page,
        // The run has written nothing yet.
        None if goes_on => OutputPage::default(),
        None => return no_log(id, NoLog::NotKept),
    };
    let end = page.is_last && !goes_on;
    if !end {
        page.leave_half_character();
    }
    let next = page.offset + page.bytes.len() as u64;
    let data = String::from_utf8_lossy(&page.bytes).into_owned();
    LogPage { id, offset: page.offset, data, next, end, error: None }
}

const fn no_log(id: RequestId, error: NoLog) -> LogPage {
    LogPage { id, offset: 0, data: String::new(), next: 0, end: true, error: Some(error) }
}
