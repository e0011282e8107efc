//! Runs a wave's check: a program on the operator's machine that decides whether the wave's hosts are healthy.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::process::Command;

use crate::plan::{Check, ResolvedWave};
use crate::process_group::end_of;
use crate::rollout::Rollout;

/// Runs the check of a wave. The error says why the wave is unhealthy.
pub async fn run_check(rollout: &Rollout, wave: &ResolvedWave, check: &Check) -> Result<(), String> {
    let Some((program, arguments)) = check.command.split_first() else {
        return Err("the check names no program".to_owned());
    };
    let hosts: Vec<&str> = wave.hosts.iter().map(|host| host.hostname.as_str()).collect();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("HOMELAB_DEPLOY_ROLLOUT", rollout.name())
        .env("HOMELAB_DEPLOY_WAVE", &wave.name)
        .env("HOMELAB_DEPLOY_REVISION", rollout.revision.as_str())
        .env("HOMELAB_DEPLOY_HOSTS", hosts.join(" "));
    match end_of(&mut command, &[], check.timeout).await {
        Ok((status, said)) => verdict(status, said),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(format!("{program} did not end within {}", humantime::format_duration(check.timeout)))
        }
        Err(error) => Err(format!("cannot run {program}: {error}")),
    }
}

fn verdict(status: ExitStatus, said: Option<String>) -> Result<(), String> {
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    Err(match said {
        Some(line) => format!("{how}: {line}"),
        None => how,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::operator::testing::{self, HOUR};

    async fn check(script: &str, timeout: Duration) -> Result<(), String> {
        let rollout = testing::rollout(&[&["web", "dns"]]);
        let wave = rollout.plan.waves.first().unwrap();
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        run_check(&rollout, wave, &Check { command, timeout }).await
    }

    #[tokio::test]
    async fn the_exit_code_decides_and_the_last_line_tells_why() {
        assert_eq!(check("echo fine; exit 0", HOUR).await, Ok(()));
        assert_eq!(
            check("echo looking >&2; echo 'ns1 is silent' >&2; exit 3", HOUR).await,
            Err("exit code 3: ns1 is silent".to_owned())
        );
        assert_eq!(check("kill -9 $$", HOUR).await, Err("signal 9".to_owned()));
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
}
