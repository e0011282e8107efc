//! Waiting for a rollout, as long as a call may take, and telling what became of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::service::RequestContext;
use tokio::time::{Instant, sleep};

use super::answer::Answer;
use super::context::Context;
use super::error::ToolError;
use super::progress::Progress;
use super::status::{StatusReport, state};
use crate::operator::follow::Follower;
use crate::protocol::{HostName, Phase};
use crate::rollout::{Event, EventKind, Summary};
use crate::text::safe;

/// How often the journal of a rollout that runs is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many bytes are read from the end of what the process of a rollout prints.
const MAX_OUTPUT_BYTES: u64 = 256 * 1024;

/// How long a call waits for a rollout.
pub(super) struct WaitUntil<'a> {
    pub(super) context: &'a RequestContext<RoleServer>,
    pub(super) until: Instant,
    pub(super) progress: Option<Progress<'a>>,
    /// What was to be said before the rollout began.
    pub(super) warnings: Vec<String>,
}

impl Context {
    /// Waits until a rollout is over, the time has come, or the client gives up. The rollout goes on in any case.
    pub(super) async fn wait(&self, id: &str, mut wait: WaitUntil<'_>) -> Result<Answer, ToolError> {
        let mut follower = self.settings.journals.follow(id)?;
        loop {
            let mut news = None;
            follower.look(|event, _| news = in_words(&event.kind).or_else(|| news.take()))?;
            if !follower.is_running() || Instant::now() >= wait.until {
                break;
            }
            if let Some(progress) = &mut wait.progress {
                let (done, total) = (done(follower.summary()), follower.summary().hosts.len());
                let still = || progress.is_due().then(|| format!("{done} of {total} hosts are done"));
                if let Some(message) = news.or_else(still) {
                    progress.say(self.redactor.clean(&message), done, total).await;
                }
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = wait.context.ct.cancelled() => break,
            }
        }
        self.report(&follower, wait.warnings)
    }

    fn report(&self, follower: &Follower, warnings: Vec<String>) -> Result<Answer, ToolError> {
        let summary = follower.summary();
        let rollout = summary.rollout.as_deref().ok_or_else(|| {
            ToolError::new("nothing_recorded", "the rollout ended before anything was recorded, so nothing was sent")
                .next("start it again")
        })?;
        let state = state(summary, follower.is_running());
        let output = self.settings.journals.open_output(rollout.id).ok().and_then(read_output);
        let (phases, words) = output.unwrap_or_default();
        let (now, redactor) = ((self.settings.clock)(), &self.redactor);
        let report = StatusReport { rollout, summary, state, warnings, phases, words, now, redactor };
        Ok(Answer::fitting(report.told(), "hosts"))
    }
}

fn done(summary: &Summary) -> usize {
    let counts = summary.counts();
    counts.total() - counts.pending - counts.in_flight
}

/// What happened, where it is worth a message of its own.
fn in_words(event: &EventKind) -> Option<String> {
    Some(match event {
        EventKind::WaveStarted { wave } => format!("wave {wave} began"),
        EventKind::Dispatched { host, .. } => format!("{} was asked", safe(host.as_str())),
        EventKind::Retrying { host, outcome, .. } => {
            format!("{} is {outcome} and will be asked again", safe(host.as_str()))
        }
        EventKind::Final { host, outcome, .. } => format!("{} is {outcome}", safe(host.as_str())),
        EventKind::Returning { host, .. } => format!("{} returns to what it ran before", safe(host.as_str())),
        EventKind::Draining { wave, .. } => format!("wave {wave} failed; hosts in flight are awaited"),
        EventKind::Baking { wave, .. } => format!("wave {wave} bakes"),
        EventKind::Checking { wave } => format!("wave {wave} is checked"),
        EventKind::WaveEnded { wave, .. } => format!("wave {wave} is over"),
        EventKind::Interrupted { .. } => "the rollout was told to stop".to_owned(),
        _ => return None,
    })
}

/// What the process of a rollout printed last: events that no journal has, and, where it broke off, why.
fn read_output(mut file: File) -> Option<(BTreeMap<HostName, Phase>, String)> {
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_OUTPUT_BYTES))).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut phases = BTreeMap::new();
    let mut words = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Event { kind: EventKind::Started { host, phase: Some(phase) }, .. }) => _ = phases.insert(host, phase),
            Ok(_) => {}
            Err(_) if line.starts_with('{') => {}
            // Errors are framed and wrapped for a terminal.
            Err(_) => words.extend(line.split_whitespace().filter(|word| !["│", "×", "╰─▶", "├─▶"].contains(word))),
        }
    }
    Some((phases, words.join(" ")))
}
