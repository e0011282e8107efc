//! Tests checks and hooks with the shell.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::*;
use crate::operator::testing::{HOUR, rollout};
use crate::plan::{Check, Hooks};

async fn check(script: &str, timeout: Duration) -> Result<(), String> {
    let mut rollout = rollout(&[&["web", "dns"]]);
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Arc::make_mut(&mut rollout).plan.waves[0].limits.check = Some(Check { command, timeout });
    run_check(&rollout, WaveIndex(0)).await
}

#[tokio::test]
async fn the_exit_code_decides_and_the_last_line_tells_why() {
    assert_eq!(check("echo fine; exit 0", HOUR).await, Ok(()));
    assert_eq!(
        check("echo looking >&2; echo 'ns1 is silent' >&2; exit 3", HOUR).await,
        Err("exit code 3: ns1 is silent".to_owned())
    );
    assert_eq!(check("kill -9 $$", HOUR).await, Err("signal: 9 (SIGKILL)".to_owned()));
}

#[tokio::test]
async fn the_environment_says_what_was_deployed() {
    let script = r#"test "$HOMELAB_DEPLOY_HOSTS $HOMELAB_DEPLOY_WAVE" = "web dns wave1" || { env >&2; exit 1; }"#;
    assert_eq!(check(script, HOUR).await, Ok(()));
}

#[tokio::test]
async fn a_check_that_is_too_late_ends_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let script = format!("sleep 300 & echo $! > {}; wait", pid_file.display());
    let late = check(&script, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(late, "sh did not end within 300ms");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_running(pid.trim()) {
        assert!(Instant::now() < deadline, "what the check started still runs");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_a_check_leaves_running_does_not_hold_it_up() {
    let began = Instant::now();
    assert_eq!(check("sleep 20 & exit 0", HOUR).await, Ok(()));
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// Whether the process exists and is not a zombie.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Creates a rollout whose `on_finish` hook is this script.
fn begun(script: &str) -> Summary {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut rollout = Rollout::clone(&rollout(&[&["a"]]));
    rollout.plan.hooks = Hooks::from([(Hook::OnFinish, argv)]);
    let begun = EventKind::Begun(Arc::new(rollout));
    Summary::of(&[Event { at: Timestamp::UNIX_EPOCH, kind: begun }])
}

async fn failure(script: &str) -> Option<String> {
    let mut hooks = HookRunner::new(|_| "the summary".repeat(50_000));
    hooks.finish(&begun(script));
    match hooks.next_failure().await {
        Some(EventKind::HookFailed { reason, .. }) => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn a_program_reads_the_summary_or_leaves_it_and_says_why_it_failed() {
    assert_eq!(failure("test $(wc -c) = 550000 -a $HOMELAB_DEPLOY_HOOK = on_finish").await, None);
    assert_eq!(failure("exit 0").await, None);
    assert_eq!(failure("echo fine; sleep 300 & exit 0").await, None);
    let failed = failure("echo 'no such \u{1b}[31mroom' >&2; exit 3").await;
    assert_eq!(failed.as_deref(), Some("exit status: 3: no such room"));
    let mut summary = begun("exit 1");
    let rollout = Arc::make_mut(summary.rollout.as_mut().unwrap());
    rollout.plan.hooks.insert(Hook::OnFinish, vec!["/no/such/program".to_owned()]);
    let mut hooks = HookRunner::new(|_| String::new());
    hooks.finish(&summary);
    let Some(EventKind::HookFailed { reason, .. }) = hooks.next_failure().await else { panic!("it did not fail") };
    assert!(reason.starts_with("cannot run /no/such/program: "), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_hangs_is_ended_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    // The script and its child ignore SIGTERM.
    let script = format!("trap '' TERM; sleep 300 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
    let mut hooks = HookRunner::new(|_| String::new());
    hooks.finish(&begun(&script));
    tokio::task::yield_now().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !pid_file.exists() {
        assert!(Instant::now() < deadline, "it did not begin");
        std::thread::yield_now();
    }
    let Some(EventKind::HookFailed { reason, .. }) = hooks.next_failure().await else { panic!("it did not fail") };
    assert_eq!(reason, "sh did not end within 30s");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    while is_running(pid.trim()) {
        assert!(Instant::now() < deadline, "what it started still runs");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn who_leaves_at_once_is_not_held_up() {
    let mut summary = begun("sleep 300");
    summary.interrupt = Some(Interrupt::Abort);
    let mut hooks = HookRunner::new(|_| String::new());
    hooks.start(Hook::OnFinish, &summary);
    hooks.finish(&summary);
    assert_eq!(hooks.next_failure().await, None);
    assert!(!hooks.is_busy());
}
