//! Runs a wave's check: a program on the operator's machine that decides whether the wave's hosts are healthy.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::plan::{Check, ResolvedWave};
use crate::process_group::Group;
use crate::rollout::Rollout;
use crate::text::safe;

/// How much of a check's output is kept, in bytes.
const TAIL_BYTES: usize = 1024;

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
        .env("HOMELAB_DEPLOY_HOSTS", hosts.join(" "))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // In its own process group: its children can be killed with it, and Ctrl-C does not reach it.
        .process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    // Dropping this kills the check: when the rollout ends or the timeout expires.
    let group = Group::led_by(&child, Signal::KILL);
    let mut said = Tail::default();
    let outcome = timeout(check.timeout, said.follow(&mut child)).await;
    match outcome {
        Ok(Ok(status)) => {
            group.ended();
            verdict(status, said.last_line())
        }
        Ok(Err(error)) => Err(format!("{program} cannot be waited for: {error}")),
        Err(_) => Err(format!("{program} did not end within {}", humantime::format_duration(check.timeout))),
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

/// The end of a program's output, where programs say why they failed.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Reads the output until the program exits, without waiting for children that keep the pipe open.
    async fn follow(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        let Some(mut output) = child.stderr.take() else { return child.wait().await };
        let mut buffer = [0; TAIL_BYTES];
        loop {
            tokio::select! {
                biased;
                read = output.read(&mut buffer) => match read {
                    Ok(length @ 1..) => self.keep(buffer.get(..length).unwrap_or_default()),
                    Ok(0) | Err(_) => break child.wait().await,
                },
                status = child.wait() => break status,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..surplus);
    }

    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(safe)
    }
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
