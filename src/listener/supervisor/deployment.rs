//! A deployment from its beginning to its verdict.

use std::io;
use std::process::Command;

use miette::Diagnostic;

use super::activation;
use super::program::Keeper;
use crate::clock;
use crate::listener::facts::{Facts, answer};
use crate::listener::host::Host;
use crate::listener::output::{built_system, clean, clean_lines};
use crate::listener::run::{RunDir, RunResult, Spec};
use crate::listener::verdict::{End, Evidence, Verdict, judge};
use crate::lookup::{LookupError, commit_of};
use crate::protocol::{Action, Commit, ErrorCode, Phase, Revision};

/// What is deployed, where, and under what.
pub(super) struct Deployment {
    pub(super) dir: RunDir,
    pub(super) spec: Spec,
    pub(super) host: Host,
    pub(super) keeper: Keeper,
}

impl Deployment {
    /// Deploys, and tells how it ended. An error is that nothing was begun.
    pub(super) async fn carry_out(mut self) -> io::Result<RunResult> {
        let started_at = clock::now();
        let before = Facts::learned(&self.host).await;
        self.dir.write_before(&before)?;
        let end = self.deploy().await;
        let (verdict, after) = self.judge(&end, &before).await;
        Ok(RunResult { verdict, started_at, ended_at: clock::now(), after })
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
        let installable = self.spec.flake.installable(&commit.into(), &self.spec.host);
        let mut command = Command::new("nixos-rebuild");
        let started_at = clock::now();
        let end = self.keeper.run(command.args([self.spec.action.as_str(), "--flake", &installable])).await;
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

    async fn judge(&mut self, end: &End, before: &Facts) -> (Verdict, Facts) {
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
        (judge(&self.spec, &evidence), after)
    }

    /// What Nix says that the configuration of the host comes down to. It has just evaluated it, and remembers.
    async fn ask_what_was_built(&self) -> Option<String> {
        let flake = self.spec.flake.at(&Revision::from(self.dir.commit()?));
        let system = format!("{flake}#nixosConfigurations.\"{}\".config.system.build.toplevel.outPath", self.spec.host);
        let features = ["--extra-experimental-features", "nix-command flakes"];
        let said = answer("nix", &[&features[..], &["eval", "--raw", &system]].concat()).await?;
        Some(said.trim().to_owned()).filter(|path| path.starts_with("/nix/store/"))
    }
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
