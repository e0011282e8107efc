//! What is so on the host at one moment, as far as a run may change it: taken down before the run, so that the host can
//! return to it, and compared with what is so afterwards.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::failing;
use super::host::{Host, Profile, System};
use super::output::clean;
use crate::lookup::in_plain_words;
use crate::process_group::output_within;
use crate::protocol::Commit;

/// How long a program may take to answer. That one does not is no reason to stop a deployment.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemSnapshot {
    pub current: Option<System>,
    pub booted: Option<System>,
    pub profile: Option<Profile>,
    /// The commit of what runs, where its configuration tells.
    pub revision: Option<Commit>,
    /// The name of the specialisation that runs, where it is one of the system that the profile points at.
    pub specialisation: Option<String>,
    /// The units that have failed; unknown where there is no systemd.
    pub failed_units: Option<BTreeSet<String>>,
}

impl SystemSnapshot {
    pub(super) fn seen(host: &Host) -> Self {
        Self {
            current: host.current(),
            booted: host.booted(),
            profile: host.profile(),
            specialisation: host.specialisation().as_deref().map(clean),
            ..Self::default()
        }
    }

    /// The same, and what has to be asked for.
    pub(super) async fn learned(host: &Host) -> Self {
        Self::seen(host).completed(host).await
    }

    /// What was seen, with what has to be asked for.
    pub(super) async fn completed(self, host: &Host) -> Self {
        let revision = match &self.current {
            Some(system) => configuration_revision(host, system).await,
            None => None,
        };
        Self { revision, failed_units: failing::failed_units(host).await, ..self }
    }

    /// Whether this is a host that can be told from its links at all.
    pub(super) const fn is_nixos(&self) -> bool {
        self.current.is_some() || self.profile.is_some()
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.profile.as_ref()?.generation
    }

    /// The store path of the system that runs.
    pub(super) fn current_path(&self) -> Option<&str> {
        self.current.as_ref().map(|system| system.path.as_str())
    }

    /// The store path of the system that the next boot starts.
    pub(super) fn profile_path(&self) -> Option<&str> {
        self.profile.as_ref().map(|profile| profile.system.path.as_str())
    }
}

/// The commit of a system, where the flake sets `system.configurationRevision` to one. The system itself has a program
/// that says it; where it keeps it has changed over time.
pub(super) async fn configuration_revision(host: &Host, system: &System) -> Option<Commit> {
    let nixos_version = host.at(&system.path).join("sw/bin/nixos-version");
    answer(nixos_version, &["--configuration-revision"]).await?.trim().parse().ok()
}

/// What a program says, if it succeeds and does so soon.
pub(super) async fn answer(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    in_plain_words(command.as_std_mut());
    let output = output_within(command.args(arguments), ANSWER_WITHIN).await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::listener::host::tests::{make_system, point};

    const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

    #[tokio::test]
    async fn a_system_says_which_commit_it_is_of_if_it_knows() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let path = make_system(root, "a-nixos", "linux");
        point(root, "run/current-system", &path);
        let host = Host::new(root.to_owned());
        assert_eq!(SystemSnapshot::learned(&host).await.revision, None);

        let program = host.at(&path).join("sw/bin/nixos-version");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let says = |script: &str| {
            // Under another name first: a file that is open for writing cannot be run.
            let draft = program.with_extension("draft");
            fs::write(&draft, format!("#!/bin/sh\n[ \"$1\" = --configuration-revision ] || exit 9\n{script}\n"))
                .unwrap();
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&draft, &program).unwrap();
        };
        says(&format!("echo {COMMIT}"));
        assert_eq!(SystemSnapshot::learned(&host).await.revision.unwrap().as_str(), COMMIT);
        says(&format!("echo {COMMIT}-dirty"));
        assert_eq!(SystemSnapshot::learned(&host).await.revision, None);
        says("echo configuration revision is unknown >&2; exit 1");
        assert_eq!(SystemSnapshot::learned(&host).await.revision, None);
    }

    #[test]
    fn facts_of_another_version_are_read() {
        let facts: SystemSnapshot = serde_json::from_str(r#"{"later": true}"#).unwrap();
        assert_eq!((facts.is_nixos(), facts), (false, SystemSnapshot::default()));
    }
}
