//! Checks the flake that hosts name: revisions are looked up in it if neither the plan nor the operator names one.
//!
//! The operator's machine contacts no URL that hosts name before the operator has accepted it: the flake decides what
//! all hosts run, and which server this machine connects to. An accepted URL is remembered for the fleet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;

use miette::Diagnostic;
use thiserror::Error;

use super::discovery::fleet_name;
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::protocol::{FlakeUrl, Revision};

const FILE: &str = "flakes.json";

/// Asks a person whether the URL in the question may be contacted.
pub type Consent = fn(String) -> Pin<Box<dyn Future<Output = bool> + Send>>;

/// Flakes besides those that the plan and the hosts name.
#[derive(Debug, Clone)]
pub struct FlakeRules {
    pub given: Option<FlakeUrl>,
    /// The URL that the operator accepts if the hosts name it.
    pub accept: Option<FlakeUrl>,
    pub accepted: AcceptedFlakes,
    /// `None` if no person can answer.
    pub consent: Option<Consent>,
}

/// The accepted flakes, one for each fleet. A fleet is identified by its servers.
#[derive(Debug, Clone)]
pub struct AcceptedFlakes {
    folder: PathBuf,
    fleet: String,
}

#[derive(Debug, Error, Diagnostic)]
pub enum FlakeError {
    #[error("the hosts name the flake {url}, which was not accepted{}", before(.was.as_ref()))]
    #[diagnostic(help(
        "the flake decides what the hosts run: look at the URL, then add --accept-flake {url}, or set `flake` \
         in the plan; a full commit id of 40 digits needs no lookup"
    ))]
    NotAccepted { url: FlakeUrl, was: Option<FlakeUrl> },
    #[error("the hosts name the flake {url}, and --accept-flake accepts {accepted}")]
    #[diagnostic(help(
        "find out which one is right; a full commit id of 40 digits needs no lookup, and `flake` in the plan takes \
         precedence over what hosts name"
    ))]
    AcceptedAnother { url: FlakeUrl, accepted: FlakeUrl },
    /// On this machine the path would be another file than on the hosts.
    #[error("the hosts name the flake {0}, which is on their own disks")]
    #[diagnostic(help(
        "name the repository to look revisions up in with `flake` in the plan, or --flake; a full commit id of 40 \
         digits needs no lookup"
    ))]
    Local(FlakeUrl),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] PrivateDirError),
    #[error("{} was not written by this program", .0.display())]
    #[diagnostic(help("remove it; then the flake of each fleet has to be accepted again"))]
    Damaged(PathBuf),
}

fn before(was: Option<&FlakeUrl>) -> String {
    was.map(|was| format!("; it was {was} before")).unwrap_or_default()
}

impl FlakeRules {
    /// Returns the flake that hosts name if it is accepted. Asks nobody.
    pub fn if_accepted(&self, named: Option<FlakeUrl>) -> Option<FlakeUrl> {
        named.filter(|url| self.check(url).is_ok())
    }

    /// Returns the flake that hosts name, in which this revision will be looked up. Fails if it is not accepted.
    pub async fn accept(&self, named: Option<FlakeUrl>, revision: &Revision) -> Result<Option<FlakeUrl>, FlakeError> {
        let Some(url) = named else { return Ok(None) };
        match (self.check(&url), self.consent) {
            (Err(FlakeError::NotAccepted { was, .. }), Some(consent)) => {
                let before = before(was.as_ref());
                let question =
                    format!("The hosts name the flake {url}{before}. Look up {revision} there, now and later?");
                if !consent(question).await {
                    return Err(FlakeError::NotAccepted { url, was });
                }
                self.accepted.record(&url)?;
            }
            (checked, _) => checked?,
        }
        Ok(Some(url))
    }

    /// Fails if the flake is not accepted. Remembers one that the operator accepts.
    fn check(&self, url: &FlakeUrl) -> Result<(), FlakeError> {
        if url.is_local() {
            return Err(FlakeError::Local(url.clone()));
        }
        let was = self.accepted.read()?;
        match self.accept.as_ref().map(FlakeUrl::public) {
            _ if was.as_ref() == Some(url) => Ok(()),
            Some(accepted) if accepted == *url => self.accepted.record(url),
            Some(accepted) => Err(FlakeError::AcceptedAnother { url: url.clone(), accepted }),
            None => Err(FlakeError::NotAccepted { url: url.clone(), was }),
        }
    }
}

impl AcceptedFlakes {
    /// `folder` is the operator's state folder. The URLs of the servers have no credentials.
    pub fn of(folder: PathBuf, servers: impl IntoIterator<Item = String>) -> Self {
        Self { folder, fleet: fleet_name(servers) }
    }

    fn read(&self) -> Result<Option<FlakeUrl>, FlakeError> {
        match PrivateDir::open(&self.folder) {
            Err(error) if error.is_missing() => Ok(None),
            folder => Ok(self.all(&folder?)?.remove(&self.fleet)),
        }
    }

    fn record(&self, url: &FlakeUrl) -> Result<(), FlakeError> {
        let folder = PrivateDir::create(&self.folder)?;
        let mut all = self.all(&folder)?;
        all.insert(self.fleet.clone(), url.clone());
        let text = serde_json::to_vec_pretty(&all).expect("texts can be written as JSON");
        Ok(folder.replace(FILE, &text)?)
    }

    fn all(&self, folder: &PrivateDir) -> Result<BTreeMap<String, FlakeUrl>, FlakeError> {
        let Some(text) = folder.read(FILE)? else { return Ok(BTreeMap::new()) };
        serde_json::from_slice(&text).map_err(|_| FlakeError::Damaged(self.folder.join(FILE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> FlakeUrl {
        text.parse().unwrap()
    }

    fn rules(folder: &tempfile::TempDir) -> FlakeRules {
        let accepted =
            AcceptedFlakes::of(folder.path().join("state"), ["nats://b:4222", "nats://a:4222"].map(str::to_owned));
        FlakeRules { given: None, accept: None, accepted, consent: None }
    }

    async fn accepted(rules: &FlakeRules, named: &str) -> String {
        match rules.accept(Some(url(named)), &"main".parse().unwrap()).await {
            Ok(url) => url.unwrap().to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn is_accepted(rules: &FlakeRules, named: &str) -> bool {
        rules.if_accepted(Some(url(named))).is_some()
    }

    #[tokio::test]
    async fn what_was_accepted_is_remembered_and_a_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let asking = rules(&folder);
        let [ours, theirs] = ["git+https://h/ours", "git+https://h/theirs"];
        assert_eq!(accepted(&asking, ours).await, format!("the hosts name the flake {ours}, which was not accepted"));
        assert!(!is_accepted(&asking, ours));

        let accepting = FlakeRules { accept: Some(url(ours)), ..asking.clone() };
        assert_eq!(
            accepted(&accepting, theirs).await,
            format!("the hosts name the flake {theirs}, and --accept-flake accepts {ours}")
        );
        assert!(!is_accepted(&asking, ours), "nothing was accepted by that");
        assert_eq!(accepted(&accepting, ours).await, ours);
        assert_eq!(accepted(&asking, ours).await, ours);
        assert_eq!(
            accepted(&asking, theirs).await,
            format!("the hosts name the flake {theirs}, which was not accepted; it was {ours} before")
        );
        let elsewhere = AcceptedFlakes::of(folder.path().join("state"), ["nats://a:4222".to_owned()]);
        assert!(!is_accepted(&FlakeRules { accepted: elsewhere, ..asking }, ours), "another fleet");
    }

    #[tokio::test]
    async fn only_a_person_who_says_yes_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let ours = "git+https://h/ours";
        let no: Consent = |_| Box::pin(async { false });
        let yes: Consent = |question| {
            Box::pin(async move {
                question == "The hosts name the flake git+https://h/ours. Look up main there, now and later?"
            })
        };
        assert!(accepted(&FlakeRules { consent: Some(no), ..rules(&folder) }, ours).await.contains("not accepted"));
        assert!(!is_accepted(&FlakeRules { consent: Some(yes), ..rules(&folder) }, ours), "no question");
        assert_eq!(accepted(&FlakeRules { consent: Some(yes), ..rules(&folder) }, ours).await, ours);
        assert_eq!(accepted(&rules(&folder), ours).await, ours);
    }

    #[tokio::test]
    async fn what_is_on_a_disk_is_not_for_hosts_to_name() {
        let folder = tempfile::tempdir().unwrap();
        let local = "git+file:///home/ops/secrets";
        let accepting = FlakeRules { accept: Some(url(local)), ..rules(&folder) };
        let refused = format!("the hosts name the flake {local}, which is on their own disks");
        assert_eq!(accepted(&accepting, local).await, refused);
    }

    #[tokio::test]
    async fn a_record_that_others_can_write_or_that_is_none_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (rules, ours) = (rules(&folder), "git+https://h/ours");
        rules.accepted.record(&url(ours)).unwrap();
        let file = folder.path().join("state").join(FILE);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o606)).unwrap();
        assert!(accepted(&rules, ours).await.contains("can be written to by other users"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, "[]").unwrap();
        assert!(accepted(&rules, ours).await.contains("was not written by this program"));
    }
}
