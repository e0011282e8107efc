//! A run from the listener's side: begins it, watches its files, and concludes it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::launch::launch;
use super::{BEFORE, FINAL, RESULT, RunDir, RunSpec, UNIT, UnitEnd, Verdict, commit_of};
use crate::listener::output::clean_lines;
use crate::protocol::response::bounded_tail;
use crate::protocol::{ErrorCode, Phase, Response};

const POLL: Duration = Duration::from_millis(50);

/// The time for which a run without result may be unlocked. Its supervisor may be about to start, and after a kill
/// systemd still has to report the unit's end.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) enum RunEvent {
    /// The run goes on, in this phase.
    Phase(Phase),
    Finished(Finished),
    /// The final response is kept, and has to be delivered.
    Concluded(Box<Response>),
}

/// Proof that a run is over or was never begun. It holds the lock, so that a late supervisor does nothing.
#[derive(Debug)]
pub(crate) struct Finished {
    _lock: Option<File>,
}

/// Makes the run durable, and then starts its supervisor. Blocks.
pub(crate) fn begin(supervisor: &Path, dir: &RunDir, spec: &RunSpec) -> RunEvent {
    // The lock is released before the launch, as the supervisor takes it.
    let begun = dir.create(spec).map(drop).and_then(|()| launch(supervisor, dir, spec));
    let Err(error) = begun else { return RunEvent::Phase(dir.phase()) };
    let _lock = match dir.lock() {
        // The supervisor runs in spite of the error.
        Err(held) if held.kind() == io::ErrorKind::WouldBlock => return RunEvent::Phase(dir.phase()),
        lock => lock,
    };
    let verdict = Verdict::failed(ErrorCode::BuildFailed, format!("the run cannot be started: {error}"));
    let response = spec.response(dir, verdict);
    keep(dir, &response);
    RunEvent::Concluded(Box::new(response))
}

/// Waits until the run has left this phase or is over.
pub(crate) async fn next_event(dir: RunDir, phase: Phase) -> RunEvent {
    // The time since which nobody holds the lock.
    let mut unlocked: Option<Instant> = None;
    loop {
        if let Some(finished) = reported(&dir) {
            return RunEvent::Finished(finished);
        }
        if let Ok(lock) = dir.lock() {
            if unlocked.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                return RunEvent::Finished(Finished { _lock: Some(lock) });
            }
        } else {
            unlocked = None;
        }
        let now = dir.phase();
        if now != phase {
            return RunEvent::Phase(now);
        }
        sleep(POLL).await;
    }
}

/// Returns whether an earlier run is over, as far as the files tell at once.
pub(crate) fn finished(dir: &RunDir, spec: &RunSpec, boot_id: Option<&str>) -> Option<Finished> {
    reported(dir).or_else(|| {
        let lock = rebooted(spec, boot_id).then(|| dir.lock().ok()).flatten()?;
        Some(Finished { _lock: Some(lock) })
    })
}

/// Returns whether the supervisor or systemd has reported the end. Processes that still hold the lock are not waited
/// for: the program may have left them behind on purpose.
fn reported(dir: &RunDir) -> Option<Finished> {
    (dir.has(RESULT) || dir.has(UNIT)).then(|| Finished { _lock: dir.lock().ok() })
}

/// Keeps the final response of a run that is over. `deployed` is the last deployment by this listener. It tells the
/// previous commit of a system that does not know its own, unless somebody has switched the host since.
pub(crate) fn conclude(
    _finished: &Finished,
    dir: &RunDir,
    spec: &RunSpec,
    boot_id: Option<&str>,
    deployed: Option<&Response>,
) -> Response {
    let mut response = spec.result(dir).unwrap_or_else(|| {
        let why = explain(spec, dir.phase(), boot_id, dir.get(UNIT).as_ref());
        let log_tail = bounded_tail(&clean_lines(&dir.output_tail()));
        Response { log_tail, ..spec.response(dir, Verdict::failed(ErrorCode::Interrupted, why)) }
    });
    let before = dir.get(BEFORE).filter(|_| response.previous_revision.is_none());
    if let Some(commit) = before.and_then(|before| commit_of(deployed, before.current_path()).cloned()) {
        response.previous_revision = Some(commit);
    }
    keep(dir, &response);
    response
}

fn keep(dir: &RunDir, response: &Response) {
    if let Err(error) = dir.write_and_copy(FINAL, response) {
        // The response is delivered anyway; only a restarted listener would not know it.
        tracing::error!("cannot store how the run in {} ended: {error}", dir.path().display());
    }
    for error in dir.tidy_up().into_iter().filter_map(Result::err) {
        tracing::warn!("cannot clean up after the run in {}: {error}", dir.path().display());
    }
}

/// Explains a missing result by the last phase, the current boot and the unit's end.
fn explain(spec: &RunSpec, phase: Phase, boot_id: Option<&str>, unit: Option<&UnitEnd>) -> String {
    let doing = spec.doing(phase);
    match unit {
        Some(UnitEnd { result, .. }) if result == "oom-kill" => format!("memory ran out while {doing}"),
        Some(UnitEnd { result, status, .. }) => format!(
            "the supervisor of the run ended while {doing} ({result} {status}); the journal of its unit says more"
        ),
        // The phase is not durable.
        None if rebooted(spec, boot_id) => "the host rebooted in the middle of the run".to_owned(),
        None => format!("the run was ended from outside while {doing}, and left no result"),
    }
}

/// Whether the run belongs to an earlier boot. If that is unknown, it does not.
fn rebooted(spec: &RunSpec, boot_id: Option<&str>) -> bool {
    spec.boot_id.as_deref().zip(boot_id).is_some_and(|(then, now)| then != now)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::listener::nixos::{System, SystemSnapshot};
    use crate::listener::run::PHASE;
    use crate::listener::run::tests::{give_back, spec};
    use crate::listener::service::history::RequestHistory;
    use crate::protocol::Status;

    fn run() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().join("run"));
        give_back(&dir.create(&spec("r-1")).unwrap());
        (folder, dir)
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_is_news_and_the_end_is_the_last() {
        let (_folder, dir) = run();
        let lock = dir.lock().unwrap();
        dir.write_volatile(PHASE, &Phase::Activate).unwrap();
        let event = next_event(dir.clone(), Phase::Resolve).await;
        assert!(matches!(event, RunEvent::Phase(Phase::Activate)), "it is not over");
        fs::write(dir.path().join("result.json"), "").unwrap();
        let event = next_event(dir.clone(), Phase::Activate).await;
        assert!(matches!(event, RunEvent::Finished(_)), "it has a result");
        drop(lock);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_in_nobodys_hands_is_given_time_to_be_taken_up_and_is_then_over_for_good() {
        let (_folder, dir) = run();
        let began = Instant::now();
        let RunEvent::Finished(finished) = next_event(dir.clone(), Phase::Resolve).await else {
            panic!("nobody has it")
        };
        assert!(began.elapsed() >= PATIENCE);
        assert!(dir.lock().is_err(), "who comes too late waits until it is concluded");
        drop(finished);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_in_somebodys_hands_goes_on_however_long_it_takes() {
        let (_folder, dir) = run();
        let _lock = dir.lock().unwrap();
        tokio::time::timeout(100 * PATIENCE, next_event(dir, Phase::Resolve)).await.unwrap_err();
    }

    #[test]
    fn a_run_from_before_a_reboot_is_over_at_once() {
        let (_folder, dir) = run();
        let spec = RunSpec { boot_id: Some("first".to_owned()), ..spec("r-1") };
        assert!(finished(&dir, &spec, Some("first")).is_none());
        assert!(finished(&dir, &spec, Some("second")).is_some());
    }

    /// The directory of a run as the last version left it whose supervisors wrote down a verdict and the host's state.
    #[test]
    fn an_update_of_the_program_itself_is_concluded_by_the_new_version() {
        const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::in_one(folder.path().to_owned());
        let system = |path: &str| format!(r#"{{"path":"{path}","kernel":["linux",null,null]}}"#);
        let (old, new) = (system("/nix/store/old"), system("/nix/store/new"));
        let result = |verdict: &str| {
            format!(
                r#"{{"verdict":{verdict},"started_at":"2026-11-23T10:00:01Z","ended_at":"2026-11-23T10:01:00Z","after":
                {{"current":{new},"booted":{old},"profile":{{"generation":42,"system":{new}}},"revision":null,
                "specialisation":null,"failed_units":[]}},"tail":["activating"]}}"#
            )
        };
        let request = format!(
            r#"{{"key":"r-1","id":"r-1","reply_to":"deploy.responses.prod.ns1.4f.r-1","action":"switch","revision":"main",
            "operator":"ops@desk","accepted_at":"2026-11-23T10:00:00Z","number":7,"boot_id":"first",
            "flake":"git+https://h/x","host":"ns1","attr":null,"root":"/","user_units":"fail","timeout_ms":600000,
            "grace_ms":10000,"system":null,"confirm_timeout_ms":60000,"return_to":{{"run":"r-0","facts":
            {{"current":{old}}},"revision":null,"made":"/nix/store/x"}}}}"#
        );
        let spec: RunSpec = serde_json::from_str(&request).unwrap();
        assert_eq!((spec.confirm_timeout_ms, spec.settings.timeout), (Some(60_000), Duration::from_mins(10)));
        assert_eq!(spec.rollback_to.as_ref().unwrap().snapshot.current_path(), Some("/nix/store/old"));
        let completed = r#"{"status":"completed","error":null,"message":"switched to generation 42","reboot_required":false,
            "failed_units":[],"rolled_back":null}"#;
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("request.json", &request);
        write("commit", &format!("\"{COMMIT}\""));
        write("before.json", &format!(r#"{{"current":{old},"revision":"{COMMIT}"}}"#));
        write("output.log", "activating\n");
        write("output.log.1", "building\n");
        let conclude = |verdict: &str| {
            write("result.json", &result(verdict));
            let spec = RunSpec { rollback_to: None, ..dir.spec().unwrap() };
            conclude(&finished(&dir, &spec, Some("first")).unwrap(), &dir, &spec, Some("first"), None)
        };
        let end = conclude(completed);
        assert_eq!((end.status, end.message.as_str()), (Status::Completed, "switched to generation 42"));
        assert_eq!((end.generation, end.system.as_deref()), (Some(42), Some("/nix/store/new")));
        assert_eq!(
            (end.revision.as_ref().unwrap().as_str(), end.at.unwrap().to_string().as_str()),
            (COMMIT, "2026-11-23T10:01:00Z")
        );
        assert!(end.previous_revision.is_some() && end.log_tail.is_empty());
        let end = conclude(
            r#"{"status":"failed","error":"timeout","message":"x","reboot_required":null,"rolled_back":true}"#,
        );
        assert_eq!(
            (end.error, end.rolled_back, end.log_tail),
            (Some(ErrorCode::Timeout), Some(true), vec!["activating".to_owned()])
        );
        dir.shrink().unwrap();
        assert!(!folder.path().join("output.log").exists() && !folder.path().join("output.log.1").exists());
    }

    fn explained(boot_id: &str, unit: Option<(&str, &str)>) -> String {
        let spec = RunSpec { boot_id: Some("first".to_owned()), ..spec("r-1") };
        let unit = unit.map(|(result, status)| UnitEnd {
            result: result.to_owned(),
            code: "killed".to_owned(),
            status: status.to_owned(),
        });
        explain(&spec, Phase::Build, Some(boot_id), unit.as_ref())
    }

    #[test]
    fn the_commit_that_ran_before_is_not_that_of_a_system_that_somebody_has_replaced_since() {
        const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let system = Some("/nix/store/ours".to_owned());
        let end = Response::new("ns1".parse().unwrap(), Status::Completed, "");
        history.ended(spec("r-0"), Response { revision: COMMIT.parse().ok(), system, ..end });
        let previous = |running: Option<&str>| {
            let (_folder, dir) = run();
            if let Some(path) = running {
                let current = Some(System { path: path.to_owned(), kernel: [None, None, None] });
                dir.write_volatile(BEFORE, &SystemSnapshot { current, ..SystemSnapshot::default() }).unwrap();
            }
            let finished = Finished { _lock: None };
            let deployed = history.last_deployed();
            conclude(&finished, &dir, &spec("r-1"), None, deployed).previous_revision.map(|commit| commit.to_string())
        };
        assert_eq!(previous(Some("/nix/store/ours")).as_deref(), Some(COMMIT));
        assert_eq!(previous(Some("/nix/store/by-hand")), None);
        assert_eq!(previous(None), None, "what ran is not on record");
    }

    #[test]
    fn a_reboot_a_kill_and_a_failure_are_told_apart() {
        insta::assert_snapshot!(explained("second", None), @"the host rebooted in the middle of the run");
        insta::assert_snapshot!(explained("first", None), @"the run was ended from outside while building, and left no result");
        insta::assert_snapshot!(explained("first", Some(("signal", "KILL"))), @"the supervisor of the run ended while building (signal KILL); the journal of its unit says more");
        insta::assert_snapshot!(explained("second", Some(("signal", "KILL"))), @"the supervisor of the run ended while building (signal KILL); the journal of its unit says more");
        insta::assert_snapshot!(explained("first", Some(("oom-kill", "KILL"))), @"memory ran out while building");
        insta::assert_snapshot!(explained("first", Some(("exit-code", "203"))), @"the supervisor of the run ended while building (exit-code 203); the journal of its unit says more");
    }

    #[test]
    fn an_unknown_boot_is_no_other_boot() {
        assert!(!rebooted(&spec("r-1"), Some("second")));
        assert!(!rebooted(&RunSpec { boot_id: Some("first".to_owned()), ..spec("r-1") }, None));
    }
}
