//! Waiting for a rollout, as long as a call may take.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::RequestContext;
use rmcp::task_manager::TaskContext;
use tokio::time::{Instant, sleep};

use super::answer::Answer;
use super::error::ToolError;
use super::server::Server;
use super::status::{Status, Told, done};
use crate::operator::follow::Follower;
use crate::rollout::{EventKind, Summary};
use crate::text::safe;

/// How often the journal of a rollout that runs is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many bytes of what a process has said last are passed on.
const MAX_OUTPUT_BYTES: u64 = 1_000;

/// Who waits for a rollout.
#[derive(Clone, Copy)]
pub(super) enum Waiter<'a> {
    /// A call, which has to be answered by then.
    Call(&'a RequestContext<RoleServer>, Instant),
    /// A task, which can wait as long as it takes.
    Task(&'a TaskContext),
}

impl Waiter<'_> {
    /// Whether the time has come.
    fn is_due(self) -> bool {
        match self {
            Self::Call(_, until) => Instant::now() >= until,
            Self::Task(_) => false,
        }
    }

    /// Until the client has given the call or the task up.
    async fn given_up(self) {
        match self {
            Self::Call(context, _) => context.ct.cancelled().await,
            Self::Task(task) => task.cancelled().await,
        }
    }
}

impl Server {
    /// Follows a rollout until it is over, the time has come, or the client has given up. The rollout does not mind.
    async fn follow(&self, id: &str, waiter: Waiter<'_>) -> Result<Follower, ToolError> {
        let mut follower = self.settings.journals.follow(id)?;
        let mut progress = match waiter {
            Waiter::Call(context, _) => Progress::towards(context, self.settings.pace.beat),
            Waiter::Task(_) => None,
        };
        loop {
            let mut told = None;
            follower.look(|event, _| told = in_words(&event.kind).or_else(|| told.take()))?;
            if !follower.is_running() || waiter.is_due() {
                return Ok(follower);
            }
            if let (Waiter::Task(task), Some(news)) = (waiter, &told) {
                task.set_status_message(self.scrubber.clean(&format!("{id}: {news}")));
            }
            if let Some(progress) = &mut progress {
                progress.tell(told, follower.summary()).await;
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = waiter.given_up() => return Ok(follower),
            }
        }
    }

    /// What a rollout has come to when it is over or the time has come.
    pub(super) async fn tell<T: Told>(
        &self,
        id: &str,
        cursor: Option<&str>,
        waiter: Waiter<'_>,
    ) -> Result<Answer<T>, ToolError> {
        let follower = self.follow(id, waiter).await?;
        let status = Status::of(&follower, self.last_words(&follower), cursor)?;
        let text = status.text(id, T::BY, follower.summary());
        Ok(Answer { data: T::new(id.to_owned(), status, follower.summary()), text })
    }

    /// The end of what the process of a rollout has printed, where it ran in the background.
    fn last_words(&self, follower: &Follower) -> Option<String> {
        let id = follower.summary().rollout.as_ref()?.id;
        last_words(self.settings.journals.open_output(id).ok()?)
    }

    /// When a call has to be answered that began now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.pace.patience
    }
}

/// A client that wants to hear of progress.
struct Progress<'a> {
    context: &'a RequestContext<RoleServer>,
    token: ProgressToken,
    beat: Duration,
    told_at: Instant,
    /// What it was told last. The numbers have to grow with each message, also while nothing happens.
    reached: f64,
}

impl<'a> Progress<'a> {
    /// `None` for a client that did not ask.
    fn towards(context: &'a RequestContext<RoleServer>, beat: Duration) -> Option<Self> {
        let token = context.meta.get_progress_token()?;
        Some(Self { context, token, beat, told_at: Instant::now(), reached: 0.0 })
    }

    /// Tells what happened, or after a while that nothing did.
    async fn tell(&mut self, news: Option<String>, summary: &Summary) {
        if news.is_none() && self.told_at.elapsed() < self.beat {
            return;
        }
        self.told_at = Instant::now();
        let (done, total) = (count(done(summary)), count(summary.hosts.len()));
        self.reached = done.max(self.reached + 0.001);
        let message = news.unwrap_or_else(|| format!("{done:.0} of {total:.0} hosts are done"));
        let progress = ProgressNotificationParam::new(self.token.clone(), self.reached);
        let progress = progress.with_total(total.max(self.reached)).with_message(message);
        // A client that is gone is noticed elsewhere.
        self.context.peer.notify_progress(progress).await.ok();
    }
}

/// What happened, where it is worth telling by itself.
fn in_words(event: &EventKind) -> Option<String> {
    Some(match event {
        EventKind::WaveStarted { wave } => format!("wave {wave} began"),
        EventKind::Dispatched { host, .. } => format!("{} was asked", safe(host.as_str())),
        EventKind::Retrying { host, outcome, .. } => {
            format!("{} is {outcome} and will be asked again", safe(host.as_str()))
        }
        EventKind::Final { host, outcome, .. } => format!("{} is {outcome}", safe(host.as_str())),
        EventKind::Draining { wave, .. } => format!("wave {wave} failed; hosts in flight are awaited"),
        EventKind::Baking { wave, .. } => format!("wave {wave} is left running for a while"),
        EventKind::Checking { wave } => format!("wave {wave} is checked"),
        EventKind::WaveEnded { wave, .. } => format!("wave {wave} is over"),
        EventKind::Interrupted { .. } => "it was told to stop".to_owned(),
        _ => return None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a fleet is counted in thousands")]
const fn count(hosts: usize) -> f64 {
    hosts as f64
}

fn last_words(mut file: File) -> Option<String> {
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_OUTPUT_BYTES))).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    // Reports are framed and wrapped for a terminal.
    let words = text.split_whitespace().filter(|word| !matches!(*word, "│" | "×" | "╰─▶" | "├─▶"));
    let said = safe(&words.collect::<Vec<_>>().join(" "));
    (!said.is_empty()).then_some(said)
}
