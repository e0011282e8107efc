//! Where the records of this operator are.

use std::path::PathBuf;

use clap::Args;

use crate::operator::journal::Journals;

/// Where to keep records.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// Folder for the records of rollouts [default: ~/.local/state/homelab-deploy]
    #[arg(long, env = "HOMELAB_DEPLOY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[arg(long, env = "XDG_STATE_HOME", hide = true)]
    state_home: Option<PathBuf>,

    #[arg(long, env = "HOME", hide = true)]
    user_home: Option<PathBuf>,
}

impl StateArgs {
    /// The journals of this operator.
    pub(super) fn journals(&self) -> Journals {
        let home = || self.user_home.clone().unwrap_or_default().join(".local/state");
        let folder = || self.state_home.clone().unwrap_or_else(home).join("homelab-deploy");
        Journals::below(&self.state_dir.clone().unwrap_or_else(folder))
    }
}
