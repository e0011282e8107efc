//! A run in files: begun, watched and concluded by the listener, which shares only these files with its supervisor. The
//! listener writes the request, the supervisor the progress and the result.

mod dir;
pub(super) mod launch;
mod output;
pub(super) mod verdict;
pub(super) mod watch;

use std::marker::PhantomData;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::dir::RunDir;
pub(super) use self::dir::{name_of, prepare_spares};
pub(super) use self::output::{OutputLog, OutputPage};
use super::config::RunSettings;
use super::nixos::SystemSnapshot;
use super::output::clean;
use crate::clock;
use crate::protocol::{
    Action, BusyWith, Commit, ErrorCode, Phase, ReplySubject, Request, RequestId, Response, Revision, Status,
    SystemPath,
};

/// A file of a run that holds one value.
pub struct Record<T>(&'static str, PhantomData<fn() -> T>);

pub(super) const REQUEST: Record<RunSpec> = Record("request.json", PhantomData);
/// The state of the host before the run, to which it can roll back.
pub(super) const BEFORE: Record<SystemSnapshot> = Record("before.json", PhantomData);
/// The result, from the supervisor.
pub(super) const RESULT: Record<RunResult> = Record("result.json", PhantomData);
/// The end of the run's unit, from systemd.
pub(super) const UNIT: Record<UnitEnd> = Record("unit.json", PhantomData);
/// The final response, from the listener.
pub(super) const FINAL: Record<Response> = Record("final.json", PhantomData);
/// There once the server has the final response.
pub(super) const DELIVERED: Record<()> = Record("told", PhantomData);
/// There once the operator has confirmed the activation.
pub(super) const CONFIRMED: Record<()> = Record("confirmed", PhantomData);
pub(super) const PHASE: Record<Phase> = Record("phase", PhantomData);
/// The commit, once it is resolved.
pub(super) const COMMIT: Record<Commit> = Record("commit", PhantomData);

/// The longest confirmation timeout, in seconds: while it waits, the host takes no other request.
const LONGEST_CONFIRMATION: u64 = 60 * 60;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Two deliveries with the same key are the same request.
    pub key: String,
    pub id: Option<RequestId>,
    pub reply_to: ReplySubject,
    pub action: Action,
    pub revision: Revision,
    pub operator: Option<String>,
    pub accepted_at: Timestamp,
    /// Its place in the order of this host's runs, which does not depend on the clock.
    #[serde(default)]
    pub number: u64,
    /// The boot in which the request was accepted.
    pub boot_id: Option<String>,
    #[serde(flatten)]
    pub settings: RunSettings,
    /// The system to deploy if it was built elsewhere: then nothing is evaluated or built here.
    pub system: Option<SystemPath>,
    /// The time that the host waits for a confirmation after the activation, in milliseconds. Without a confirmation,
    /// or after a failure, it rolls back. If absent, the host stays as it is.
    pub confirm_timeout_ms: Option<u64>,
    /// The target of a rollback; absent for a deployment.
    #[serde(rename = "return_to")]
    pub rollback_to: Option<Box<RollbackTarget>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackTarget {
    /// The run whose previous state is the target.
    pub run: String,
    #[serde(rename = "facts")]
    pub snapshot: SystemSnapshot,
    pub revision: Option<Commit>,
    /// The system that the run deployed, if known. If somebody else has replaced it, the replacement stays.
    #[serde(rename = "made")]
    pub built_system: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `completed` or `failed`.
    pub status: Status,
    pub error: Option<ErrorCode>,
    pub message: String,
    /// Whether the deployment takes effect only after a reboot; absent if nothing can be compared.
    pub reboot_required: Option<bool>,
    /// The units that failed because of the run.
    #[serde(default)]
    pub failed_units: Vec<String>,
    /// Whether the host rolled back; `false` if it tried and failed.
    pub rolled_back: Option<bool>,
}

/// The end of a run as the supervisor saw it. A run that updates the program, or rolls it back, is concluded by a listener of
/// another version: older and newer ones read this, and [`UnitEnd`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    pub verdict: Verdict,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    /// The state of the host at the end.
    pub after: SystemSnapshot,
    /// The last lines of the output, cleaned: the disk may have had no room for them.
    #[serde(default)]
    pub tail: Vec<String>,
}

/// The end of a run's unit, as systemd passes it to `ExecStopPost=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitEnd {
    /// `$SERVICE_RESULT`: `success`, `signal`, `oom-kill` and so on.
    pub result: String,
    /// `$EXIT_CODE`: `exited`, `killed` or `dumped`.
    pub code: String,
    /// `$EXIT_STATUS`: the exit code, or the name of the signal.
    pub status: String,
}

impl RunSpec {
    pub(super) fn new(request: Request, settings: &RunSettings, accepted_at: Timestamp) -> Self {
        let confirm_timeout = request.confirm_timeout_s.map(|seconds| seconds.min(LONGEST_CONFIRMATION));
        Self {
            key: request.key().to_owned(),
            id: request.id,
            reply_to: request.reply_to,
            action: request.action,
            revision: request.revision,
            // Written by anyone, shown to others and logged.
            operator: request.operator.as_deref().map(clean),
            accepted_at,
            number: 0,
            boot_id: None,
            settings: settings.clone(),
            system: request.system,
            confirm_timeout_ms: confirm_timeout.map(|seconds| seconds * 1_000),
            rollback_to: None,
        }
    }

    pub(super) const fn doing(&self, phase: Phase) -> &'static str {
        match (phase, &self.system) {
            (Phase::Build, Some(_)) => "fetching",
            _ => phase.doing(),
        }
    }

    /// Returns the run as the reason why the host is busy.
    pub(super) fn holder(&self) -> BusyWith {
        BusyWith { id: self.key.clone(), operator: self.operator.clone(), since: self.accepted_at }
    }

    /// Returns the final response by the result that the supervisor wrote down, if there is one.
    pub(super) fn result(&self, dir: &RunDir) -> Option<Response> {
        let RunResult { verdict, ended_at, after, tail, .. } = dir.get(RESULT)?;
        let boots_next = self.action == Action::Boot && verdict.rolled_back.is_none();
        let system = if boots_next { after.profile_path() } else { after.current_path() };
        Some(Response {
            at: Some(ended_at),
            generation: after.generation(),
            system: system.map(str::to_owned),
            log_tail: if verdict.status == Status::Failed { tail } else { Vec::new() },
            ..self.response(dir, verdict)
        })
    }

    /// Returns the final response of this run, with what its directory knows of it.
    pub(super) fn response(&self, dir: &RunDir, verdict: Verdict) -> Response {
        let revision = match &self.rollback_to {
            Some(to) => to.revision.clone(),
            None => dir.get(COMMIT).or_else(|| self.revision.commit()),
        };
        Response {
            error: verdict.error,
            id: self.id.clone(),
            at: Some(clock::now()),
            revision,
            previous_revision: dir.get(BEFORE).and_then(|before| before.revision),
            reboot_required: verdict.reboot_required,
            rolled_back: verdict.rolled_back,
            failed_units: verdict.failed_units,
            ..Response::new(self.settings.host.clone(), verdict.status, verdict.message)
        }
    }
}

/// Returns the commit of the last deployment, if this system is the one that it made.
pub(super) fn commit_of<'a>(deployed: Option<&'a Response>, running: Option<&str>) -> Option<&'a Commit> {
    deployed.filter(|end| end.system.as_deref() == running)?.revision.as_ref()
}

impl Verdict {
    pub(super) fn completed(message: String) -> Self {
        let (error, reboot_required, rolled_back) = (None, None, None);
        Self { status: Status::Completed, error, message, reboot_required, failed_units: Vec::new(), rolled_back }
    }

    /// Appends something to the message.
    pub(super) fn with(mut self, addition: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(addition);
        self
    }

    pub(super) fn failed(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: Status::Failed, error: Some(error), ..Self::completed(message.into()) }
    }
}

#[cfg(test)]
pub(super) mod tests;
