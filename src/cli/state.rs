//! Where this operator's records are, and what can be done without.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::context::ContextArgs;
use super::home;
use crate::operator::journal::Journals;

// Where to keep records.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(flatten)]
    context: ContextArgs,

    /// Folder for the records of rollouts [default: ~/.local/state/homelab-deploy, for a context its folder there]
    #[arg(long, env = "HOMELAB_DEPLOY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[arg(long, env = "XDG_STATE_HOME", hide = true)]
    state_home: Option<OsString>,

    #[arg(long, env = "XDG_CACHE_HOME", hide = true)]
    cache_home: Option<OsString>,

    #[arg(long, env = "HOME", hide = true)]
    user_home: Option<OsString>,
}

impl StateArgs {
    pub(super) fn journals(&self) -> Journals {
        Journals::below(&self.folder())
    }

    /// The folder of all that this operator's commands remember.
    pub(super) fn folder(&self) -> PathBuf {
        let home =
            || home::folder(self.state_home.as_ref(), self.user_home.as_ref(), ".local/state").unwrap_or_default();
        let usual = || {
            let all = home().join("homelab-deploy");
            self.context.name().map_or(all.clone(), |name| all.join("contexts").join(name))
        };
        self.state_dir.clone().unwrap_or_else(usual)
    }

    /// The folder for what may be lost at any time; `None` for an operator without a home.
    pub(super) fn cache(&self) -> Option<PathBuf> {
        let cache = home::folder(self.cache_home.as_ref(), self.user_home.as_ref(), ".cache")?;
        Some(cache.join("homelab-deploy"))
    }
}
