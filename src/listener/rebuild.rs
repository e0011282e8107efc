//! A run from the listener's side: begun here, supervised elsewhere, concluded here. Beside the supervisor this is the
//! only place that starts a process.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::output::clean_lines;
use super::run::{RunDir, Spec};
use super::verdict::{Verdict, judge};
use crate::clock;
use crate::protocol::message::MAX_LOG_TAIL_LINES;
use crate::protocol::{Commit, ErrorCode, HostName, Response, Status};

/// How often it is looked whether a run that another listener began is over.
const POLL: Duration = Duration::from_millis(100);

/// A run that goes on.
#[derive(Debug)]
pub(super) enum Watch {
    /// Its supervisor is a child of this process.
    Own(Child),
    /// Its supervisor was started by an earlier listener, and holds the lock of this file.
    Adopted(File),
}

/// Makes the run durable, and then begins it.
pub(super) fn begin(supervisor: &Path, dir: &RunDir, spec: &Spec) -> io::Result<Watch> {
    let lock = dir.create(spec)?;
    // Nothing ties the supervisor to this process: no pipe that could break, and it makes itself a session.
    let child = Command::new(supervisor)
        .arg("supervise")
        .arg(dir.path())
        .stdin(lock)
        .stdout(Stdio::null())
        .stderr(dir.supervisor_log()?)
        .spawn()?;
    Ok(Watch::Own(child))
}

/// Takes up a run from before; `None` when it is over.
pub(super) fn adopt(dir: &RunDir) -> Option<Watch> {
    let file = File::open(dir.lock_file()).ok()?;
    matches!(file.try_lock(), Err(TryLockError::WouldBlock)).then_some(Watch::Adopted(file))
}

impl Watch {
    /// Waits for the end.
    pub(super) async fn ended(self) {
        match self {
            Self::Own(mut child) => {
                // Whatever came of the supervisor: the result tells, or its absence.
                child.wait().await.ok();
            }
            Self::Adopted(file) => {
                while let Err(TryLockError::WouldBlock) = file.try_lock() {
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }
}

/// Judges a run that is over, and keeps the verdict.
pub(super) fn conclude(dir: &RunDir, spec: &Spec, host: &HostName, previous: Option<Commit>) -> Response {
    let result = dir.result();
    let mut lines = clean_lines(&dir.output_tail());
    let verdict = judge(spec, host, result.as_ref(), &lines);
    let mut response = compose(spec, host, verdict);
    response.previous_revision = previous;
    if response.status == Status::Failed {
        response.log_tail = lines.split_off(lines.len().saturating_sub(MAX_LOG_TAIL_LINES));
    }
    if let Some(result) = result {
        response.at = Some(result.ended_at);
        response.generation = result.generation;
        response.system = result.system;
    }
    keep(dir, &response);
    response
}

/// What is told of a run that could not be begun.
pub(super) fn not_begun(dir: &RunDir, spec: &Spec, host: &HostName, error: &io::Error) -> Response {
    let verdict = Verdict::failed(ErrorCode::BuildFailed, format!("the run cannot be started: {error}"));
    let response = compose(spec, host, verdict);
    keep(dir, &response);
    response
}

fn compose(spec: &Spec, host: &HostName, verdict: Verdict) -> Response {
    Response {
        error: verdict.error,
        id: spec.id.clone(),
        at: Some(clock::now()),
        revision: spec.commit(),
        reboot_required: verdict.reboot_required,
        ..Response::new(host.clone(), verdict.status, verdict.message)
    }
}

fn keep(dir: &RunDir, response: &Response) {
    if let Err(error) = dir.write_final(response) {
        // It is told all the same; only a listener that starts anew would not know it.
        tracing::error!("cannot keep how the run in {} ended: {error}", dir.path().display());
    }
}
