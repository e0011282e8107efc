//! Carries out a deployment: builds, activates, waits for the confirmation, and rolls back without one. Carries out a
//! requested rollback by the same steps.

use std::io;
use std::time::Duration;

use miette::Diagnostic;
use tokio::time::sleep;

use super::activation;
use super::process::ProcessRunner;
use super::rollback::{self, ActivationStep, Change, Changes, RollbackOutcome, follow_baseline, note_baseline};
use super::system::{fetch, nixos_rebuild};
use crate::clock;
use crate::listener::nixos::{Host, SystemSnapshot};
use crate::listener::output::{clean, tells_unadvertised};
use crate::listener::run::verdict::{Attempt, ProcessEnd, judge, may_have_changed};
use crate::listener::run::{BEFORE, COMMIT, CONFIRMED, RollbackTarget, RunDir, RunResult, RunSpec, Verdict};
use crate::lookup::{LookupError, commit_of};
use crate::protocol::response::bounded_tail;
use crate::protocol::{Action, Commit, ErrorCode, FlakeUrl, Phase, ROLLBACK_WITHIN, Revision, Status, SystemPath};

/// The messages of the system and of Nix' database about a full disk.
const FULL_DISK: [&str; 2] = ["No space left on device", "database or disk is full"];

/// The interval at which the confirmation is looked for.
const LOOK_FOR_CONFIRMATION: Duration = Duration::from_millis(100);

pub(super) struct Deployment {
    pub(super) dir: RunDir,
    pub(super) spec: RunSpec,
    pub(super) host: Host,
    pub(super) runner: ProcessRunner,
}

impl Deployment {
    /// Deploys or rolls back. Fails if nothing was begun.
    pub(super) async fn carry_out(mut self) -> io::Result<RunResult> {
        let started_at = clock::now();
        let found = SystemSnapshot::capture(&self.host).await;
        self.dir.write_and_copy(BEFORE, &found)?;
        let (verdict, after) = match self.spec.rollback_to.clone() {
            Some(target) => self.roll_back_run(&target).await,
            None => self.deploy_and_confirm(found).await,
        };
        self.dir.forget_built().ok();
        let tail = bounded_tail(&self.runner.log.lines());
        Ok(RunResult { verdict, started_at, ended_at: clock::now(), after, tail })
    }

    /// Deploys, and rolls back after a failure or without a confirmation, if the request asks for that.
    async fn deploy_and_confirm(&mut self, found: SystemSnapshot) -> (Verdict, SystemSnapshot) {
        let mut attempt = self.deploy(found).await;
        let verdict = self.judge(&mut attempt).await;
        let Some(limit) = self.spec.confirm_timeout_ms.map(Duration::from_millis) else {
            return (with_theirs(verdict, &attempt), attempt.after);
        };
        let failure = if verdict.status == Status::Completed {
            match self.wait_for_confirmation(limit).await {
                Ok(()) => return self.recheck_after_confirmation(verdict, attempt.after).await,
                Err(ProcessEnd::TimedOut) => {
                    let why = format!("no deployer confirmed within {} s that it heard the host", limit.as_secs());
                    Verdict::failed(ErrorCode::NotConfirmed, why)
                }
                // A supervisor that is told to stop starts no further activation.
                Err(end) => {
                    attempt.end = end;
                    let after = attempt.after.clone();
                    return (self.judge(&mut attempt).await.with("the deployed system is kept"), after);
                }
            }
        } else if !may_have_changed(&verdict, &attempt)
            || matches!(attempt.end, ProcessEnd::Stopped(_))
            || self.spec.action == Action::DryActivate
        {
            return (with_theirs(verdict, &attempt), attempt.after);
        } else {
            verdict
        };
        let RollbackOutcome { is_tried, problem, theirs, now } =
            self.roll_back(&attempt.before, attempt.built.as_deref()).await;
        let rolled_back = is_tried.then_some(problem.is_none());
        let verdict = match problem {
            None => failure.with("the host returned to what ran before"),
            Some((_, why)) if is_tried => failure.with(&format!("the host could not return to what ran before: {why}")),
            Some((_, why)) => failure.with(&format!("nothing is undone: {why}")),
        };
        (Verdict { rolled_back, ..with_all(verdict, theirs).with(&what_runs(&now)) }, now)
    }

    /// Waits for the confirmation, which a listener notes in the run's directory. The error is the timeout or a signal.
    async fn wait_for_confirmation(&mut self, limit: Duration) -> Result<(), ProcessEnd> {
        if !self.spec.action.activates() {
            return Ok(());
        }
        // A confirmation from before the activation does not count.
        self.dir.forget(CONFIRMED).ok();
        self.runner.log.enter(Phase::Confirm);
        self.runner.stop.renew(limit);
        let noted = async {
            while !self.dir.has(CONFIRMED) {
                sleep(LOOK_FOR_CONFIRMATION).await;
            }
        };
        tokio::select! {
            () = noted => Ok(()),
            end = self.runner.stop.reached() => Err(end),
        }
    }

    /// Judges a confirmed deployment: somebody may have switched the host to another system before the confirmation.
    async fn recheck_after_confirmation(&self, verdict: Verdict, after: SystemSnapshot) -> (Verdict, SystemSnapshot) {
        let now = SystemSnapshot::from_links(&self.host);
        let changes = Changes::by_others(&after, &now);
        let Some(theirs) = changes.theirs(&now) else { return (verdict, after) };
        let action = self.spec.action;
        let spoilt = action == Action::Switch || action.activates() && changes.current == Change::Theirs;
        let verdict = if spoilt { Verdict::failed(ErrorCode::VerifyFailed, theirs) } else { verdict.with(&theirs) };
        (verdict, SystemSnapshot::capture(&self.host).await)
    }

    /// Rolls back an earlier run, which is all that was asked for.
    async fn roll_back_run(&mut self, to: &RollbackTarget) -> (Verdict, SystemSnapshot) {
        let RollbackOutcome { problem, theirs, now, .. } =
            self.roll_back(&to.snapshot, to.built_system.as_deref()).await;
        let rolled_back = Some(problem.is_none());
        let verdict = match problem {
            None => with_all(Verdict::completed(format!("returned to what ran before {}", to.run)), theirs),
            Some((error, why)) => Verdict::failed(error, format!("not returned to what ran before {}: {why}", to.run)),
        };
        (Verdict { rolled_back, ..verdict.with(&what_runs(&now)) }, now)
    }

    async fn roll_back(&mut self, before: &SystemSnapshot, built: Option<&str>) -> RollbackOutcome {
        // An operator waits no longer for a rollback, even if deployments have more time.
        let limit = ROLLBACK_WITHIN.min(self.spec.settings.timeout);
        rollback::roll_back(&mut self.runner, &self.host, self.spec.action, before, built, limit).await
    }

    async fn deploy(&mut self, found: SystemSnapshot) -> Attempt {
        let mut attempt = Attempt {
            end: ProcessEnd::Exited(0),
            phase: Phase::Resolve,
            after: found.clone(),
            before: found,
            built: None,
            activated: false,
            lines: Vec::new(),
        };
        let deployed = match self.spec.system.clone() {
            Some(system) => self.deploy_system(&system, &mut attempt).await,
            None => self.deploy_revision(&mut attempt).await,
        };
        attempt.end = deployed.err().unwrap_or(ProcessEnd::Exited(0));
        attempt
    }

    /// Deploys a system that was built elsewhere: fetches and then activates it, by the steps of a rollback.
    async fn deploy_system(&mut self, system: &SystemPath, attempt: &mut Attempt) -> Result<(), ProcessEnd> {
        self.runner.log.enter(Phase::Build);
        fetch(&mut self.runner, &self.host, &self.spec, system).await?;
        let action = self.spec.action;
        if action == Action::Fetch {
            return Ok(());
        }
        self.begin_to_change(attempt).await?;
        let path = || system.as_str().to_owned();
        attempt.built = Some(path());
        if action.sets_next_boot() {
            self.runner.run(&mut ActivationStep::SetProfile(path()).command(&self.host)).await.success()?;
        }
        self.runner.log.enter(Phase::Activate);
        self.runner.run(&mut ActivationStep::Activate(path(), action).command(&self.host)).await.success()
    }

    /// Deploys a revision: builds first, then activates. The baseline is taken in between, as a build takes long, and
    /// this run must not undo what somebody else switched to meanwhile.
    async fn deploy_revision(&mut self, attempt: &mut Attempt) -> Result<(), ProcessEnd> {
        self.runner.log.enter(Phase::Resolve);
        let revision = self.resolve().await?.into();
        self.runner.log.enter(Phase::Build);
        let flake = self.build(&revision).await?;
        self.begin_to_change(attempt).await?;
        self.activate(&flake, &revision, attempt).await.success()
    }

    /// Resolves the commit, which is then deployed: given a branch, Nix may use its state of an hour ago.
    async fn resolve(&mut self) -> Result<Commit, ProcessEnd> {
        let found = self.runner.until_stopped(commit_of(&self.spec.revision, &self.spec.settings.flake)).await?;
        let commit = found.map_err(|error| unresolved(&error))?;
        // A full disk must not stop the run; the deployment may be what frees it.
        self.dir.write_volatile(COMMIT, &commit).ok();
        Ok(commit)
    }

    /// Builds the system, and returns the flake to activate it from.
    async fn build(&mut self, revision: &Revision) -> Result<FlakeUrl, ProcessEnd> {
        let flake = self.spec.settings.flake.clone();
        let end = self.build_in_place(&flake, revision).await;
        match flake.with_all_refs() {
            // Somebody has pushed since the commit was resolved, and many servers give out only tips over ssh.
            Some(flake) if matches!(end, ProcessEnd::Exited(1..)) && tells_unadvertised(&self.runner.log.lines()) => {
                self.build_in_place(&flake, revision).await.success().map(|()| flake)
            }
            _ => end.success().map(|()| flake),
        }
    }

    async fn build_in_place(&mut self, flake: &FlakeUrl, revision: &Revision) -> ProcessEnd {
        let mut command = nixos_rebuild("build", &self.spec, flake, revision);
        // The link to the built system is made in the working directory.
        self.runner.run(command.current_dir(self.dir.path())).await
    }

    /// Records the baseline right before anything changes.
    async fn begin_to_change(&mut self, attempt: &mut Attempt) -> Result<(), ProcessEnd> {
        let before = SystemSnapshot::capture(&self.host).await;
        note_baseline(&self.host, &self.dir, &before).map_err(|error| {
            let why = format!("cannot record what runs now, so it could not be restored: {error}");
            ProcessEnd::Refused(ErrorCode::BuildFailed, why)
        })?;
        (attempt.before, attempt.activated) = (before, true);
        self.runner.log.may_activate = true;
        Ok(())
    }

    async fn activate(&mut self, flake: &FlakeUrl, revision: &Revision, attempt: &mut Attempt) -> ProcessEnd {
        activation::clear_away().await;
        let began = clock::now();
        let (built_on, expected) = (attempt.before.clone(), self.dir.built());
        let mut command = nixos_rebuild(self.spec.action.as_str(), &self.spec, flake, revision);
        // `test` and `dry-activate` leave a link to the built system in the current directory, too.
        command.current_dir(self.dir.path());
        let before = &mut attempt.before;
        let end = tokio::select! {
            end = self.runner.run(&mut command) => end,
            never = Box::pin(follow_baseline(&self.host, &self.dir, before, expected.as_deref())) => match never {},
        };
        let ProcessRunner { log, activation, .. } = &mut self.runner;
        let end = activation::actual_end(activation.as_ref(), log, end, began).await;
        attempt.built = activation::switched_to(activation.as_ref(), log).or_else(|| expected.clone());
        if attempt.built != expected {
            // A configuration may depend on the time of day: this switch cannot be told from somebody else's.
            attempt.before = built_on;
            note_baseline(&self.host, &self.dir, &attempt.before).ok();
        }
        end
    }

    /// Judges an attempt by the state of the host after it.
    async fn judge(&mut self, attempt: &mut Attempt) -> Verdict {
        attempt.phase = self.runner.log.phase;
        attempt.after = if matches!(attempt.end, ProcessEnd::Exited(_)) {
            self.runner.log.enter(Phase::Verify);
            SystemSnapshot::capture(&self.host).await
        } else {
            // After a stop, no further program is started.
            SystemSnapshot::from_links(&self.host)
        };
        attempt.lines = self.runner.log.lines();
        with_all(judge(&self.spec, attempt), full_disk(&attempt.lines))
    }
}

/// Adds what somebody else did to the host meanwhile.
fn with_theirs(verdict: Verdict, Attempt { before, after, built, activated, .. }: &Attempt) -> Verdict {
    let changes =
        if *activated { Changes::between(before, after, built.as_deref()) } else { Changes::by_others(before, after) };
    with_all(verdict, changes.theirs(after))
}

/// Returns a note about a full disk, if a program reports one. The main error may only be a consequence.
fn full_disk(lines: &[String]) -> Option<String> {
    let words = FULL_DISK.into_iter().find(|words| lines.iter().any(|line| line.contains(words)))?;
    Some(format!("a disk of the host is full ({words})"))
}

fn with_all(verdict: Verdict, additions: impl IntoIterator<Item = String>) -> Verdict {
    additions.into_iter().fold(verdict, |verdict, addition| verdict.with(&addition))
}

fn what_runs(now: &SystemSnapshot) -> String {
    let generation = now.generation().map(|generation| format!(", generation {generation} boots next"));
    format!("it runs {}{}", now.current_path().unwrap_or("an unknown system"), generation.unwrap_or_default())
}

fn unresolved(error: &LookupError) -> ProcessEnd {
    let code = match error {
        LookupError::NoSuchRef { .. } => ErrorCode::InvalidRevision,
        LookupError::Failed { .. } => ErrorCode::BuildFailed,
        LookupError::NoAnswer { .. } => ErrorCode::Timeout,
    };
    let help = error.help().filter(|_| code == ErrorCode::InvalidRevision).map(|help| format!("; {help}"));
    // The URL of the repository may contain a password.
    ProcessEnd::Refused(code, clean(&format!("{error}{}", help.unwrap_or_default())))
}
