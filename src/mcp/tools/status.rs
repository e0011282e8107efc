//! Implements `rollout_status`, `abort_rollout` and `host_log`, and waits for rollouts within the limit of a call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::RequestContext;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::mcp::answer::{BY_HOST, MAX_HOSTS, MAX_WAVES, ToolError, answer, first_warnings, subject};
use crate::mcp::call::Progress;
use crate::mcp::context::{ToolContext, is_running};
use crate::mcp::redact::Redactor;
use crate::operator::journal::Recorded;
use crate::plan::ResolvedWave;
use crate::protocol::{Action, HostName, Phase, RolloutId};
use crate::report::{self, Liveness, Style, describe, is_active, last_response, outcome};
use crate::rollout::summary::{HostProgress, HostState, WaveProgress, WaveState};
use crate::rollout::{Event, EventKind, HostOutcome, Rollout, Summary, WaveVerdict};

const MAX_LISTED: usize = 20;
const MAX_WAIT: u64 = 45;
/// The interval at which the journal of a running rollout is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The limits of a host's log in lines and bytes, in a status and in `host_log`.
const MAX_LOG: (usize, usize) = (10, 1_500);
const MAX_WHOLE_LOG: (usize, usize) = (usize::MAX, 8_000);
const MAX_MESSAGE_BYTES: usize = 500;
/// The bytes that are read from the end of the output of a background process.
const MAX_OUTPUT_BYTES: u64 = 256 * 1024;

/// Tell what became of a deployment or rollout, also one that a person began on this machine, and wait for its end. Only state
/// succeeded is good.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StatusArguments {
    /// The rollout. Without it: the one that runs, else the latest.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
    /// How many seconds to wait for its end.
    #[schemars(range(max = 45))]
    wait_seconds: u64,
    /// true: list the last 20 rollouts instead.
    list: bool,
}

/// Stop a rollout that runs: nothing new is sent, hosts in flight are awaited. What was deployed stays.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AbortArguments {
    /// The rollout. Without it: the one that runs.
    #[schemars(with = "String")]
    rollout_id: Option<String>,
}

/// Show the end of a host's log from its latest failure, or from a given rollout.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogArguments {
    /// The name of the host.
    #[schemars(with = "String")]
    hostname: HostName,
    /// The rollout. Without it: the latest in which the host failed.
    #[schemars(with = "String", default)]
    rollout_id: Option<String>,
}

pub(super) async fn status(
    context: &ToolContext,
    asked: StatusArguments,
    call: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ToolError> {
    if asked.wait_seconds > MAX_WAIT {
        let what = format!("wait_seconds is {}, and may be {MAX_WAIT} at most", asked.wait_seconds);
        return Err(ToolError::new("invalid_arguments", what).next("call with 45, as often as it takes"));
    }
    if asked.list {
        return list(context);
    }
    let (rollout, _) = context.rollout(asked.rollout_id.as_deref())?;
    let until = (Instant::now() + Duration::from_secs(asked.wait_seconds)).min(context.deadline());
    let progress = Progress::towards(call, context.settings.timeouts.progress);
    context.wait(rollout.id, until, call, progress, &[]).await
}

fn list(context: &ToolContext) -> Result<CallToolResponse, ToolError> {
    let all = context.rollouts()?;
    let listed = |recorded: &Recorded| {
        let liveness = if is_running(recorded) { Liveness::Running } else { Liveness::Over };
        let (rollout, counts) = (recorded.summary.rollout.as_deref()?, recorded.summary.counts());
        Some(json!({
            "rollout_id": rollout.id.to_string(),
            "name": context.redactor.first(rollout.name(), 80),
            "state": outcome(&recorded.summary, liveness),
            "asked": rollout.asked.as_str(),
            "commit": rollout.revision.as_str(),
            "operator": context.redactor.first(&rollout.operator, 80),
            "began_at": recorded.summary.began_at.map(|at| format!("{at:.0}")),
            "hosts": counts.total,
            "completed": counts.completed + counts.current,
        }))
    };
    let rollouts: Vec<Value> = all.iter().rev().take(MAX_LISTED).filter_map(listed).collect();
    let summary = format!("{} rollouts on record, the latest first", all.len());
    let more = all.len().saturating_sub(rollouts.len());
    Ok(answer(json!({ "summary": summary, "rollouts": rollouts, "more": more })))
}

pub(super) fn abort(context: &ToolContext, asked: &AbortArguments) -> Result<CallToolResponse, ToolError> {
    let (rollout, recorded) = context.rollout(asked.rollout_id.as_deref())?;
    let id = rollout.id;
    if !is_running(&recorded) {
        return Err(ToolError::new("not_running", format!("rollout {id} is not running"))
            .next("there is nothing to stop; rollout_status tells how it ended"));
    }
    context.settings.operator.journals.stop(id)?;
    Ok(answer(json!({
        "rollout_id": id.to_string(),
        "state": "stopping",
        "summary": "nothing new is sent; hosts in flight are awaited",
        "next": format!("call rollout_status with rollout_id {id} and wait_seconds 45 for how it ends"),
    })))
}

pub(super) fn log(context: &ToolContext, asked: &LogArguments) -> Result<CallToolResponse, ToolError> {
    let has_log = |recorded: &Recorded| {
        recorded.summary.host(&asked.hostname).is_some_and(|host| {
            let rollback = host.rollback.as_ref().and_then(|rollback| rollback.response.as_ref());
            host.response.iter().chain(rollback).any(|response| !response.log_tail.is_empty())
        })
    };
    let found = context.find(asked.rollout_id.as_deref(), has_log)?;
    let found = found.as_ref().and_then(|(rollout, found)| Some((rollout, found.summary.host(&asked.hostname)?)));
    let (rollout, host) = found.ok_or_else(|| {
        let what = format!("hostname: {} failed in no rollout on record here", asked.hostname);
        ToolError::new("no_log", what).next("rollout_status with list: true shows the rollouts on record")
    })?;
    let name = context.redactor.first(rollout.name(), 80);
    Ok(answer(json!({
        "rollout_id": rollout.id.to_string(),
        "summary": format!("the end of the log of {} in {name}", host.name),
        "hosts": [host_report(host, rollout, &BTreeMap::new(), MAX_WHOLE_LOG, context)],
    })))
}

impl ToolContext {
    /// Waits until a rollout is over, the deadline has come, or the client cancels the call. The rollout goes on in any case.
    /// `warnings` are those of its preparation.
    pub(super) async fn wait(
        &self,
        id: RolloutId,
        until: Instant,
        call: &RequestContext<RoleServer>,
        mut progress: Option<Progress<'_>>,
        warnings: &[String],
    ) -> Result<CallToolResponse, ToolError> {
        let mut follower = self.settings.operator.journals.follow(&id.to_string())?;
        loop {
            let mut news = None;
            follower.look(|event, summary| news = message(&event.kind, summary).or_else(|| news.take()))?;
            if !follower.is_running() || Instant::now() >= until {
                break;
            }
            if let Some(progress) = &mut progress {
                let (done, total) = (done(&follower.summary), follower.summary.hosts.len());
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
        let liveness = if follower.is_running() { Liveness::Running } else { Liveness::Over };
        rollout_report(&follower.summary, liveness, warnings, self).ok_or_else(|| {
            ToolError::new("nothing_recorded", "the rollout ended before anything was recorded, so nothing was sent")
                .next("start it again")
        })
    }
}

/// Reports a recorded rollout, with the warnings of its preparation.
fn rollout_report(
    summary: &Summary,
    liveness: Liveness,
    warnings: &[String],
    context: &ToolContext,
) -> Option<CallToolResponse> {
    let (rollout, redactor) = (summary.rollout.as_deref()?, &context.redactor);
    let state = outcome(summary, liveness);
    let output = context.settings.operator.journals.open_output(rollout.id).ok().and_then(read_output);
    let (phases, last_error) = output.unwrap_or_default();
    let actions: BTreeSet<&str> = rollout.plan.waves.iter().map(|wave| wave.action.as_str()).collect();
    let turned_up = summary.late_hosts.keys().take(5);
    let turned_up = turned_up.map(|host| format!("{host} answered meanwhile and was not deployed"));
    let mut warnings: Vec<String> = first_warnings(warnings, redactor).into_iter().chain(turned_up).collect();
    if state == "cut_off" && !last_error.is_empty() {
        warnings.push(format!("its process said: {}", redactor.last(&last_error, 1_000)));
    }
    let mut hosts: Vec<&HostProgress> = summary.hosts.iter().collect();
    hosts.sort_by_key(|host| urgency(host));
    let reports = hosts.iter().take(MAX_HOSTS).map(|host| host_report(host, rollout, &phases, MAX_LOG, context));
    Some(answer(json!({
        "rollout_id": rollout.id.to_string(),
        "state": state,
        "summary": redactor.first(&headline(summary, rollout, state), 800),
        "next": next(rollout, state),
        "action": actions.into_iter().collect::<Vec<_>>().join(", "),
        "asked": rollout.asked.as_str(),
        "commit": rollout.revision.as_str(),
        "subject": subject(rollout, redactor),
        "operator": redactor.first(&rollout.operator, 100),
        "began_at": summary.began_at.map(|at| format!("{at:.0}")),
        "ended_at": summary.ended_at.map(|at| format!("{at:.0}")),
        "warnings": warnings,
        "waves": wave_reports(summary, rollout, redactor),
        "hosts": reports.collect::<Vec<_>>(),
        "more": hosts.len().saturating_sub(MAX_HOSTS),
    })))
}

/// Reports a host, with so many lines and bytes of the end of its log.
fn host_report(
    host: &HostProgress,
    rollout: &Rollout,
    phases: &BTreeMap<HostName, Phase>,
    (lines, bytes): (usize, usize),
    context: &ToolContext,
) -> Value {
    let redactor = &context.redactor;
    let facts = describe(host, rollout);
    let is_active = is_active(host);
    let is_bad = !matches!(facts.status, "completed" | "pending" | "in_flight" | "returned");
    let by = if last_response(host).is_some() { BY_HOST } else { "" };
    let message = redactor.first(&facts.message, MAX_MESSAGE_BYTES);
    let last_lines = facts.log.get(facts.log.len().saturating_sub(lines)..).unwrap_or_default();
    let log = redactor.last(&last_lines.join("\n"), bytes);
    let sent_at = host.sent_at.filter(|_| is_active);
    json!({
        "hostname": host.name.as_str(),
        "status": facts.status,
        "runs_now": facts.runs_now.as_ref().map(ToString::to_string),
        "ran_before": facts.ran_before.as_ref().map(ToString::to_string),
        "error": facts.error.map(|error| redactor.first(error, 60)),
        "message": (is_bad && !message.is_empty()).then(|| format!("{by}{message}")),
        "log": (is_bad && !log.is_empty()).then(|| format!("{BY_HOST}{log}")),
        "reboot_required": facts.reboot_required.then_some(true),
        "failed_units": facts.failed_units.iter().take(5).map(|unit| redactor.first(unit, 80)).collect::<Vec<_>>(),
        "phase": phases.get(&host.name).filter(|_| is_active).map(|phase| phase.doing()),
        "seconds": sent_at.map(|sent_at| (context.settings.clock)().duration_since(sent_at).as_secs()),
    })
}

/// Reports the waves. Of many, the one that runs or failed is always among those that are listed.
fn wave_reports(summary: &Summary, rollout: &Rollout, redactor: &Redactor) -> Vec<Value> {
    let first = summary.current_wave.0.min(summary.waves.len().saturating_sub(MAX_WAVES));
    let report = |(view, wave): (&WaveProgress, &ResolvedWave)| {
        let why = match &view.state {
            WaveState::Ended(WaveVerdict::Failed(reason)) => Some(redactor.first(&report::failure_reason(reason), 300)),
            _ => None,
        };
        json!({ "name": redactor.first(&wave.name, 80), "state": report::wave_status(&view.state), "why": why })
    };
    summary.waves.iter().zip(&rollout.plan.waves).skip(first).take(MAX_WAVES).map(report).collect()
}

fn headline(summary: &Summary, rollout: &Rollout, state: &str) -> String {
    let has = |action| rollout.plan.waves.iter().any(|wave| wave.action == action);
    let note = match (has(Action::DryActivate), has(Action::Boot)) {
        (true, _) => " (dry-activate changes nothing on the hosts)",
        (false, true) => " (boot takes effect with the next boot)",
        (false, false) => "",
    };
    let (name, done, total) = (rollout.name(), done(summary), summary.hosts.len());
    match state {
        "running" => format!("{name}: {done} of {total} hosts are done{note}"),
        "cut_off" => format!("the process of {name} ended too early: {done} of {total} hosts are done{note}"),
        _ => {
            let recap = report::recap(summary, Style::Plain, usize::MAX);
            let headline = recap.lines().next().unwrap_or_default();
            format!("{}{note}", headline.trim_start_matches(|c: char| !c.is_alphanumeric()))
        }
    }
}

fn next(rollout: &Rollout, state: &str) -> String {
    match state {
        "running" => format!("call rollout_status with rollout_id {} and wait_seconds 45 until it is over", rollout.id),
        "paused" => "a person has to confirm the next wave: call resume_rollout when you are told to go on".to_owned(),
        "cut_off" => "call resume_rollout to go on where it ended".to_owned(),
        "succeeded" => "nothing".to_owned(),
        _ => "host_log has more of the log of a host; rollback returns hosts to what they ran before".to_owned(),
    }
}

/// Returns the number of hosts in a final state.
fn done(summary: &Summary) -> usize {
    let counts = summary.counts();
    counts.total - counts.pending - counts.in_flight
}

/// Returns the rank of a host in lists: failures first, then hosts in flight.
fn urgency(host: &HostProgress) -> u8 {
    match host.state {
        _ if host.rollback.is_some() => 0,
        HostState::Final(HostOutcome::Completed | HostOutcome::Current) => 3,
        HostState::Final(HostOutcome::Skipped(_)) => 4,
        HostState::Final(_) => 0,
        HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => 1,
        HostState::Pending => 2,
    }
}

/// Reads the output of a background process: the phases of hosts, which the journal lacks, and its last error.
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
            // miette frames and wraps errors for a terminal.
            Err(_) => words.extend(line.split_whitespace().filter(|word| !["│", "×", "╰─▶", "├─▶"].contains(word))),
        }
    }
    Some((phases, words.join(" ")))
}

/// Describes an event that deserves a progress message.
fn message(event: &EventKind, summary: &Summary) -> Option<String> {
    Some(match event {
        EventKind::WaveStarted { wave }
        | EventKind::Draining { wave, .. }
        | EventKind::Baking { wave, .. }
        | EventKind::Checking { wave }
        | EventKind::WaveEnded { wave, .. } => {
            format!("wave {wave}: {}", report::wave_status(&summary.waves.get(wave.0)?.state))
        }
        EventKind::Dispatched { host, .. } => format!("{host} was asked"),
        EventKind::Retrying { host, .. }
        | EventKind::Final { host, .. }
        | EventKind::RollingBack { host, .. }
        | EventKind::RollbackEnded { host, .. } => {
            format!("{host}: {}", describe(summary.host(host)?, summary.rollout.as_deref()?).status)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::rollout::{FailureReason, WaveIndex};

    #[test]
    fn the_wave_that_failed_is_listed_however_many_succeeded_before() {
        let rollout = rollout(&[[].as_slice(); 30]);
        let mut kinds = vec![EventKind::Begun(Arc::clone(&rollout))];
        let ended = |wave| EventKind::WaveEnded { wave: WaveIndex(wave), verdict: WaveVerdict::Succeeded };
        kinds.extend((0..24).map(ended));
        let verdict = WaveVerdict::Failed(FailureReason::Disconnected);
        kinds.push(EventKind::WaveEnded { wave: WaveIndex(24), verdict });
        let events: Vec<Event> = kinds.into_iter().map(|kind| Event { at: Timestamp::UNIX_EPOCH, kind }).collect();
        let reports = wave_reports(&Summary::of(&events), &rollout, &Redactor::default());
        let failed = reports.iter().find(|report| report["state"] == "failed").unwrap();
        assert_eq!((&failed["name"], reports.len()), (&json!("wave25"), MAX_WAVES));
        assert!(failed["why"].as_str().unwrap().contains("no connection"), "{failed}");
    }
}
