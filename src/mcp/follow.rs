//! Waiting for a rollout, as long as a call may take.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::service::RequestContext;
use tokio::time::{Instant, sleep};

use super::answer::ToolAnswer;
use super::call::Progress;
use super::context::ToolContext;
use super::error::ToolError;
use super::status::{StatusReport, done};
use crate::report::Liveness;
use crate::rollout::EventKind;
use crate::text::safe;

/// How often the journal of a rollout that runs is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl ToolContext {
    /// Waits until a rollout is over, the time has come, or the client gives up. The rollout goes on in any case. `warnings` is
    /// what was to be said before it began.
    pub(super) async fn wait(
        &self,
        id: &str,
        until: Instant,
        call: &RequestContext<RoleServer>,
        mut progress: Option<Progress<'_>>,
        warnings: &[String],
    ) -> Result<ToolAnswer, ToolError> {
        let mut follower = self.settings.journals.follow(id)?;
        loop {
            let mut news = None;
            follower.look(|event, _| news = in_words(&event.kind).or_else(|| news.take()))?;
            if !follower.is_running() || Instant::now() >= until {
                break;
            }
            if let Some(progress) = &mut progress {
                let (done, total) = (done(follower.summary()), follower.summary().hosts.len());
                let still = || progress.is_due().then(|| format!("{done} of {total} hosts are done"));
                if let Some(message) = news.or_else(still) {
                    progress.say(self.redactor.clean(&message), done, total).await;
                }
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = call.ct.cancelled() => break,
            }
        }
        let report = StatusReport::of(follower.summary(), self).ok_or_else(|| {
            ToolError::new("nothing_recorded", "the rollout ended before anything was recorded, so nothing was sent")
                .next("start it again")
        })?;
        let liveness = if follower.is_running() { Liveness::Running } else { Liveness::Over };
        Ok(report.told(liveness, warnings))
    }
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
