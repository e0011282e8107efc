//! A deployment from its beginning to its verdict.

use std::io;
use std::process::Command;
use std::time::Duration;

use miette::Diagnostic;

use super::activation;
use super::confirmation::confirmed;
use super::program::Keeper;
use super::way_back::{self, Returned};
use crate::clock;
use crate::listener::facts::{Facts, answer};
use crate::listener::host::Host;
use crate::listener::output::{built_system, clean, clean_lines};
use crate::listener::rebuild_flag::RebuildFlag;
use crate::listener::run::{ReturnTo, RunDir, RunResult, Spec};
use crate::listener::verdict::{End, Evidence, Verdict, judge, left_traces};
use crate::lookup::{LookupError, commit_of};
use crate::protocol::{Action, Commit, ErrorCode, Phase, RETURN_WITHIN, Revision, Status};

/// What is deployed, where, and under what.
pub(super) struct Deployment {
    pub(super) dir: RunDir,
    pub(super) spec: Spec,
    pub(super) host: Host,
    pub(super) keeper: Keeper,
}

/// What a run has come to, unless the host returns from there.
struct Outcome {
    verdict: Verdict,
    /// What is so on the host now.
    after: Facts,
    /// Whether there is anything to return from.
    traces: bool,
}

impl Deployment {
    /// Deploys or returns, and tells how it ended. An error is that nothing was begun.
    pub(super) async fn carry_out(mut self) -> io::Result<RunResult> {
        let started_at = clock::now();
        let before = Facts::learned(&self.host).await;
        self.dir.write_before(&before)?;
        let (verdict, after) = match self.spec.return_to.clone() {
            Some(to) => self.return_to(&to).await,
            None => self.deploy_for_good(&before).await,
        };
        Ok(RunResult { verdict, started_at, ended_at: clock::now(), after })
    }

    /// Deploys, and returns from what went wrong or was not confirmed, if that is asked for.
    async fn deploy_for_good(&mut self, before: &Facts) -> (Verdict, Facts) {
        self.host.keep(before);
        let end = self.deploy().await;
        let Outcome { verdict, after, traces } = self.judge(&end, before).await;
        let Some(limit) = self.spec.confirm_timeout_ms.map(Duration::from_millis) else { return (verdict, after) };
        let activates = matches!(self.spec.action, Action::Switch | Action::Test);
        let failure = if verdict.status == Status::Completed {
            let heard = if activates { self.confirmed(limit).await } else { Ok(()) };
            match heard {
                Ok(()) => return (verdict, after),
                Err(End::TimedOut) => Verdict::failed(ErrorCode::NotConfirmed, not_confirmed(limit)),
                // Whoever ends this process gets no further activation from it.
                Err(end) => return (self.judge(&end, before).await.verdict.with("what was deployed stays"), after),
            }
        } else if !traces || matches!(end, End::Stopped(_)) || self.spec.action == Action::DryActivate {
            return (verdict, after);
        } else {
            verdict
        };
        let Returned { problem, now } = self.go_back(self.spec.action, before).await;
        (rolled_back(failure, problem.as_ref(), &now), now)
    }

    /// Waits to be told that the host was heard from.
    async fn confirmed(&mut self, limit: Duration) -> Result<(), End> {
        // One that was told before there was anything to confirm is none.
        self.dir.forget_confirmed().ok();
        self.keeper.log.enter(Phase::Confirm);
        self.keeper.bounds.renew(limit);
        confirmed(&self.dir, &mut self.keeper.bounds).await
    }

    /// Returns to what ran before another run, which is all that there is to do.
    async fn return_to(&mut self, to: &ReturnTo) -> (Verdict, Facts) {
        let Returned { problem, now } = self.go_back(self.spec.action, &to.facts).await;
        let verdict = match problem {
            None => {
                let verdict = Verdict::completed(format!("returned to what ran before {}", to.run));
                Verdict { rolled_back: Some(true), ..verdict.with(&what_runs(&now)) }
            }
            Some((error, why)) => {
                let verdict = Verdict::failed(error, format!("not returned to what ran before {}: {why}", to.run));
                Verdict { rolled_back: Some(false), ..verdict.with(&what_runs(&now)) }
            }
        };
        (verdict, now)
    }

    /// Undoes what an action did to a host that was like this before.
    async fn go_back(&mut self, action: Action, before: &Facts) -> Returned {
        // A deployer waits no longer for the end of it, where a deployment has more time than that.
        let limit = RETURN_WITHIN.min(Duration::from_millis(self.spec.timeout_ms));
        way_back::go(&mut self.keeper, &self.host, action, before, limit).await
    }

    async fn deploy(&mut self) -> End {
        self.keeper.log.enter(Phase::Resolve);
        let commit = match self.resolve().await {
            Ok(commit) => commit,
            Err(end) => return end,
        };
        self.keeper.log.enter(Phase::Build);
        // No part of it is read by a shell, and none can be taken for an option: the flake URL begins with its scheme,
        // and the action is one of ours.
        let installable = self.spec.flake.installable(&commit.into(), self.spec.configuration());
        let mut command = Command::new("nixos-rebuild");
        let started_at = clock::now();
        command.args([self.spec.action.as_str(), "--flake", &installable]);
        command.args(self.spec.rebuild_flags.iter().map(RebuildFlag::as_str));
        let end = self.keeper.run(&mut command).await;
        activation::checked(end, started_at).await
    }

    /// Finds the commit, which is what is deployed: a branch given to Nix may be what it was an hour ago.
    async fn resolve(&mut self) -> Result<Commit, End> {
        let found = self.keeper.within_bounds(commit_of(&self.spec.revision, &self.spec.flake)).await?;
        let commit = found.map_err(|error| unresolved(&error))?;
        // On a full disk it is not told on the way; the deployment may be what frees it.
        self.dir.write_commit(&commit).ok();
        Ok(commit)
    }

    async fn judge(&mut self, end: &End, before: &Facts) -> Outcome {
        let phase = self.keeper.log.phase();
        let by_itself = matches!(end, End::Exited(_));
        if by_itself {
            self.keeper.log.enter(Phase::Verify);
        }
        // One that was ended is not to start programs any more.
        let after = if by_itself { Facts::learned(&self.host).await } else { Facts::seen(&self.host) };
        let lines = clean_lines(&self.dir.output_tail());
        let built = match built_system(&lines) {
            Some(path) => Some(path.to_owned()),
            // Only here nothing on the host tells whether there was anything to activate.
            None if *end == End::Exited(0) && self.spec.action == Action::Test && after.current == before.current => {
                self.ask_what_was_built().await
            }
            None => None,
        };
        let evidence = Evidence { end, phase, before, after: &after, built: built.as_deref(), lines: &lines };
        let verdict = judge(&self.spec, &evidence);
        Outcome { traces: left_traces(&verdict, &evidence), verdict, after }
    }

    /// What Nix says that the configuration of the host comes down to. It has just evaluated it, and remembers.
    async fn ask_what_was_built(&self) -> Option<String> {
        let flake = self.spec.flake.at(&Revision::from(self.dir.commit()?));
        let system = format!(
            "{flake}#nixosConfigurations.\"{}\".config.system.build.toplevel.outPath",
            self.spec.configuration()
        );
        let features = ["--extra-experimental-features", "nix-command flakes"];
        let said = answer("nix", &[&features[..], &["eval", "--raw", &system]].concat()).await?;
        Some(said.trim().to_owned()).filter(|path| path.starts_with("/nix/store/"))
    }
}

fn not_confirmed(limit: Duration) -> String {
    format!("nobody confirmed within {} s that the host was heard from", limit.as_secs())
}

/// A failure after which the host was to return.
fn rolled_back(verdict: Verdict, problem: Option<&(ErrorCode, String)>, now: &Facts) -> Verdict {
    let verdict = match problem {
        None => verdict.with("the host returned to what ran before"),
        Some((_, why)) => verdict.with(&format!("the host could not return to what ran before: {why}")),
    };
    Verdict { rolled_back: Some(problem.is_none()), ..verdict.with(&what_runs(now)) }
}

fn what_runs(now: &Facts) -> String {
    let generation = now.generation().map(|generation| format!(", generation {generation} boots next"));
    format!("it runs {}{}", now.current_path().unwrap_or("nothing that is known"), generation.unwrap_or_default())
}

fn unresolved(error: &LookupError) -> End {
    let code = match error {
        LookupError::NoSuchRef { .. } => ErrorCode::InvalidRevision,
        LookupError::Failed { .. } => ErrorCode::BuildFailed,
        LookupError::NoAnswer { .. } => ErrorCode::Timeout,
    };
    let help = error.help().filter(|_| code == ErrorCode::InvalidRevision).map(|help| format!("; {help}"));
    // The URL of the repository may have a password in it.
    End::Unresolved(code, clean(&format!("{error}{}", help.unwrap_or_default())))
}
