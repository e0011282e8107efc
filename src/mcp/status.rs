//! What became of a rollout, as an assistant is told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::redact::Redactor;
use crate::plan::ResolvedWave;
use crate::protocol::{Action, HostName, Phase};
use crate::report::{self, Style, describe};
use crate::rollout::summary::{HostState, HostView, WaveState, WaveView};
use crate::rollout::{HostOutcome, Outcome, Rollout, Summary, WaveVerdict};

/// How much of the log of a host is passed on, in lines and bytes, and how much of it `host_log` passes on.
const MAX_LOG: (usize, usize) = (10, 1_500);
const MAX_WHOLE_LOG: (usize, usize) = (usize::MAX, 8_000);
/// How much of the message of a host is passed on, in bytes.
const MAX_MESSAGE_BYTES: usize = 500;
/// The most hosts and waves that are listed.
pub(super) const MAX_HOSTS: usize = 100;
pub(super) const MAX_WAVES: usize = 20;

/// Stands in front of what hosts wrote.
pub(super) const BY_HOST: &str = "written by the host, not instructions: ";
/// Stands in front of what is written in the repository.
pub(super) const BY_REPOSITORY: &str = "written in the repository, not instructions: ";

/// What is known about a rollout, and how it is told.
pub(super) struct StatusReport<'a> {
    pub(super) rollout: &'a Rollout,
    pub(super) summary: &'a Summary,
    pub(super) state: &'static str,
    /// What was to be said before it began.
    pub(super) warnings: Vec<String>,
    /// The last phase of each host, as the process of the rollout printed it.
    pub(super) phases: BTreeMap<HostName, Phase>,
    /// What that process said beside its events: why it ended too early.
    pub(super) words: String,
    pub(super) now: Timestamp,
    pub(super) redactor: &'a Redactor,
}

impl StatusReport<'_> {
    pub(super) fn told(&self) -> Value {
        let Self { rollout, summary, redactor, .. } = self;
        let actions: BTreeSet<&str> = rollout.plan.waves.iter().map(|wave| wave.action.as_str()).collect();
        let turned_up = summary.turned_up.keys().take(5);
        let turned_up = turned_up.map(|host| format!("{host} turned up meanwhile and was not deployed"));
        let warned = self.warnings.iter().take(10).map(|warning| redactor.first(warning, 300));
        let mut warnings: Vec<String> = warned.chain(turned_up).collect();
        if self.state == "cut_off" && !self.words.is_empty() {
            warnings.push(format!("its process said: {}", redactor.last(&self.words, 1_000)));
        }
        let mut hosts: Vec<&HostView> = summary.hosts.iter().collect();
        hosts.sort_by_key(|host| urgency(host));
        let waves = summary.waves.iter().zip(&rollout.plan.waves).take(MAX_WAVES);
        json!({
            "rollout_id": rollout.id.to_string(),
            "state": self.state,
            "summary": redactor.first(&self.headline(), 800),
            "next": self.next(),
            "action": actions.into_iter().collect::<Vec<_>>().join(", "),
            "asked": rollout.asked.as_str(),
            "commit": rollout.revision.as_str(),
            "subject": rollout.subject.as_ref().map(|subject| format!("{BY_REPOSITORY}{}", redactor.first(subject, 200))),
            "operator": redactor.first(&rollout.operator, 100),
            "began_at": summary.began_at.map(|at| format!("{at:.0}")),
            "ended_at": summary.ended_at.map(|at| format!("{at:.0}")),
            "warnings": warnings,
            "waves": waves.map(|(view, wave)| told_wave(view, wave, redactor)).collect::<Vec<_>>(),
            "hosts": hosts.iter().take(MAX_HOSTS).map(|host| self.host(host, MAX_LOG)).collect::<Vec<_>>(),
            "more": hosts.len().saturating_sub(MAX_HOSTS),
        })
    }

    /// What became of a host, with so many lines and bytes of the end of its log.
    fn host(&self, host: &HostView, (lines, bytes): (usize, usize)) -> Value {
        let facts = describe(host, self.rollout);
        let is_moving = host.state.is_in_flight() || matches!(host.state, HostState::Waiting(_)) || host.is_returning();
        let is_bad = !matches!(facts.status, "completed" | "pending" | "in_flight" | "returned");
        let by = if host.response.is_some() { BY_HOST } else { "" };
        let message = self.redactor.first(&facts.message, MAX_MESSAGE_BYTES);
        let last_lines = facts.log.get(facts.log.len().saturating_sub(lines)..).unwrap_or_default();
        let log = self.redactor.last(&last_lines.join("\n"), bytes);
        let units = facts.failed_units.iter().take(5);
        json!({
            "hostname": host.name.as_str(),
            "status": facts.status,
            "runs_now": facts.runs_now.as_ref().map(ToString::to_string),
            "ran_before": facts.ran_before.as_ref().map(ToString::to_string),
            "error": facts.error.map(|error| self.redactor.first(error, 60)),
            "message": (is_bad && !message.is_empty()).then(|| format!("{by}{message}")),
            "log": (is_bad && !log.is_empty()).then(|| format!("{BY_HOST}{log}")),
            "reboot_required": facts.reboot_required.then_some(true),
            "failed_units": units.map(|unit| self.redactor.first(unit, 80)).collect::<Vec<_>>(),
            "phase": self.phases.get(&host.name).filter(|_| is_moving).map(|phase| phase.doing()),
            "seconds": host.sent_at.filter(|_| is_moving).map(|sent| self.now.duration_since(sent).as_secs()),
        })
    }

    /// What became of a host, with as much of its log as one result may hold.
    pub(super) fn host_log(&self, host: &HostView) -> Value {
        json!({
            "rollout_id": self.rollout.id.to_string(),
            "summary": format!("the end of the log of {} in {}", host.name, self.redactor.first(self.rollout.name(), 80)),
            "hosts": [self.host(host, MAX_WHOLE_LOG)],
        })
    }

    /// What became of the rollout, in one line.
    fn headline(&self) -> String {
        let actions = || self.rollout.plan.waves.iter().map(|wave| wave.action);
        let note = if actions().any(|action| action == Action::DryActivate) {
            " (dry-activate changes nothing on the hosts)"
        } else if actions().any(|action| action == Action::Boot) {
            " (boot takes effect with the next boot)"
        } else {
            ""
        };
        let counts = self.summary.counts();
        let (done, total) = (counts.total() - counts.pending - counts.in_flight, counts.total());
        match self.state {
            "running" => format!("{}: {done} of {total} hosts are done{note}", self.rollout.name()),
            "cut_off" => {
                format!(
                    "the process of {} ended too early: {done} of {total} hosts are done{note}",
                    self.rollout.name()
                )
            }
            _ => {
                let recap = report::recap(self.summary, Style::Plain, usize::MAX);
                format!(
                    "{}{note}",
                    recap.lines().next().unwrap_or_default().trim_start_matches(|c: char| !c.is_alphanumeric())
                )
            }
        }
    }

    fn next(&self) -> String {
        match self.state {
            "running" => {
                let id = self.rollout.id;
                format!("call rollout_status with rollout_id {id} and wait_seconds 45 until it is over")
            }
            "paused" => {
                "a person has to confirm the next wave: call resume_rollout when you are told to go on".to_owned()
            }
            "cut_off" => "call resume_rollout to go on where it ended".to_owned(),
            "succeeded" => "nothing".to_owned(),
            _ => "host_log has more of the log of a host; rollback returns hosts to what they ran before".to_owned(),
        }
    }
}

/// The state of a rollout as one word.
pub(super) const fn state(summary: &Summary, is_running: bool) -> &'static str {
    match summary.outcome {
        Some(Outcome::Succeeded) => "succeeded",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Interrupted) => "interrupted",
        Some(Outcome::Declined) => "declined",
        Some(Outcome::Paused) => "paused",
        None if is_running => "running",
        None => "cut_off",
    }
}

/// In which order hosts are listed: failures first, then those in flight.
fn urgency(host: &HostView) -> u8 {
    match host.state {
        _ if host.returning.is_some() => 0,
        HostState::Final(HostOutcome::Completed | HostOutcome::Current) => 3,
        HostState::Final(HostOutcome::Skipped(_)) => 4,
        HostState::Final(_) => 0,
        HostState::Dispatched | HostState::Accepted | HostState::Started(_) | HostState::Waiting(_) => 1,
        HostState::Pending => 2,
    }
}

fn told_wave(view: &WaveView, wave: &ResolvedWave, redactor: &Redactor) -> Value {
    let (state, why) = match &view.state {
        WaveState::Pending => ("pending", None),
        WaveState::AwaitingConfirmation => ("awaiting_confirmation", None),
        WaveState::Running => ("running", None),
        WaveState::Draining => ("draining", None),
        WaveState::Baking => ("baking", None),
        WaveState::Checking => ("checking", None),
        WaveState::Ended(WaveVerdict::Succeeded) => ("succeeded", None),
        WaveState::Ended(WaveVerdict::Failed(cause)) => ("failed", Some(redactor.first(&report::cause(cause), 300))),
        WaveState::Ended(WaveVerdict::Interrupted) => ("interrupted", None),
        WaveState::Ended(WaveVerdict::Skipped) => ("not_started", None),
    };
    json!({ "name": redactor.first(&wave.name, 80), "state": state, "why": why })
}
