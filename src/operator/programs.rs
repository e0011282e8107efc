//! Runs programs on the operator's machine during a rollout: the check of a wave decides whether its hosts are healthy, and
//! hooks are notified of the progress. Hooks cannot change the rollout.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::plan::Hook;
use crate::process_group::end_of;
use crate::rollout::{Event, EventKind, Interrupt, Rollout, Summary, WaveIndex, WaveVerdict};

/// Runs the check of a wave, if there is one. The error says why the wave is unhealthy.
pub(super) async fn run_check(rollout: &Rollout, wave: WaveIndex) -> Result<(), String> {
    let wave = rollout.plan.waves.get(wave.0);
    let Some((wave, check)) = wave.and_then(|wave| Some((wave, wave.limits.check.as_ref()?))) else { return Ok(()) };
    let Some((program, arguments)) = check.command.split_first() else {
        return Err("the check names no program".to_owned());
    };
    let hosts: Vec<&str> = wave.hosts.iter().map(|host| host.hostname.as_str()).collect();
    let about = [("HOMELAB_DEPLOY_WAVE", wave.name.as_str()), ("HOMELAB_DEPLOY_HOSTS", &hosts.join(" "))];
    let command = command(program, arguments, rollout, about);
    let describe = |status: ExitStatus| match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    };
    run(command, &[], check.timeout, describe).await
}

/// How long a hook may run, and so how long the end of a rollout waits for one.
const LIMIT: Duration = Duration::from_secs(30);

/// Formats the rollout for a hook, which reads it from its standard input.
pub type Summarize = fn(&Summary) -> String;

pub(super) struct HookRunner {
    summarize: Summarize,
    tasks: JoinSet<(Hook, Result<(), String>)>,
    has_halted: bool,
}

impl HookRunner {
    pub(super) fn new(summarize: Summarize) -> Self {
        Self { summarize, tasks: JoinSet::new(), has_halted: false }
    }

    /// Starts the hook for an event, if there is one. `summary` already includes the event.
    pub(super) fn on_event(&mut self, event: &Event, summary: &Summary) {
        match &event.kind {
            EventKind::Begun(_) | EventKind::Resumed => self.start(Hook::OnStart, summary),
            EventKind::Draining { .. } | EventKind::WaveEnded { verdict: WaveVerdict::Failed(_), .. }
                if !self.has_halted =>
            {
                self.has_halted = true;
                self.start(Hook::OnHalt, summary);
            }
            _ => {}
        }
    }

    /// Starts the hook for the rollout's end. After an abort, kills all hooks instead: an abort must not wait.
    pub(super) fn finish(&mut self, summary: &Summary) {
        if summary.interrupt == Some(Interrupt::Abort) {
            self.tasks.abort_all();
        } else {
            self.start(Hook::OnFinish, summary);
        }
    }

    fn start(&mut self, hook: Hook, summary: &Summary) {
        let Some(rollout) = &summary.rollout else { return };
        if let Some((program, arguments)) = rollout.plan.hooks.get(&hook).and_then(|argv| argv.split_first()) {
            let command = command(program, arguments, rollout, [("HOMELAB_DEPLOY_HOOK", hook.as_str())]);
            let input = (self.summarize)(summary).into_bytes();
            self.tasks.spawn(async move { (hook, run(command, &input, LIMIT, |status| status.to_string()).await) });
        }
    }

    /// Waits for the next hook that fails. Returns `None` once no hook is running.
    pub(super) async fn next_failure(&mut self) -> Option<EventKind> {
        loop {
            match self.tasks.join_next().await? {
                Ok((hook, Err(reason))) => return Some(EventKind::HookFailed { hook, reason }),
                Ok((_, Ok(()))) | Err(_) => {}
            }
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }
}

fn command<'a>(
    program: &str,
    arguments: &[String],
    rollout: &Rollout,
    about: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("HOMELAB_DEPLOY_ROLLOUT", rollout.name())
        .env("HOMELAB_DEPLOY_REVISION", rollout.revision.as_str())
        .envs(about);
    command
}

/// Runs a program to its end. The error says why it failed, with the last line of its stderr.
async fn run(
    mut command: Command,
    input: &[u8],
    limit: Duration,
    describe: fn(ExitStatus) -> String,
) -> Result<(), String> {
    let ended = end_of(&mut command, input, limit).await;
    let program = command.as_std().get_program().display();
    match ended {
        Ok((status, _)) if status.success() => Ok(()),
        Ok((status, None)) => Err(describe(status)),
        Ok((status, Some(line))) => Err(format!("{}: {line}", describe(status))),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(format!("{program} did not end within {}", humantime::format_duration(limit)))
        }
        Err(error) => Err(format!("cannot run {program}: {error}")),
    }
}

#[cfg(test)]
mod tests;
