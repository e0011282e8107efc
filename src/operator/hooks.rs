//! Runs the hooks: programs on this machine that are notified of a rollout's progress. They cannot change the rollout.

use std::io;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::plan::Hook;
use crate::process_group::end_of;
use crate::rollout::{Event, EventKind, Interrupt, Rollout, Summary, WaveVerdict};

/// How long a hook may run, and so how long the end of a rollout waits for one.
const LIMIT: Duration = Duration::from_secs(30);

/// Formats the rollout for a hook, which reads it from its standard input.
pub type Summarize = fn(&Summary) -> String;

/// The running hooks of a rollout.
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
    pub(super) fn hear(&mut self, event: &Event, summary: &Summary) {
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
            let command = command(hook, program, arguments, rollout);
            let (program, told) = (program.clone(), (self.summarize)(summary));
            self.tasks.spawn(async move { (hook, tell(command, &program, told.as_bytes()).await) });
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

fn command(hook: Hook, program: &str, arguments: &[String], rollout: &Rollout) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("HOMELAB_DEPLOY_HOOK", hook.as_str())
        .env("HOMELAB_DEPLOY_ROLLOUT", rollout.name())
        .env("HOMELAB_DEPLOY_REVISION", rollout.revision.as_str());
    command
}

/// Runs a hook. The error describes why it failed.
async fn tell(mut command: Command, program: &str, summary: &[u8]) -> Result<(), String> {
    match end_of(&mut command, summary, LIMIT).await {
        Ok((status, _)) if status.success() => Ok(()),
        Ok((status, said)) => Err(format!("{status}{}", said.map(|line| format!(": {line}")).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(format!("{program} did not end within {} s, and was ended", LIMIT.as_secs()))
        }
        Err(error) => Err(format!("cannot run {program}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use jiff::Timestamp;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::plan::Hooks;

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
        assert_eq!(reason, "sh did not end within 30 s, and was ended");
        let pid = std::fs::read_to_string(pid_file).unwrap();
        let is_running = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        while is_running() {
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
}
