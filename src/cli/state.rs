//! Where the records of this operator are.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::home;
use crate::operator::journal::Journals;

/// Where to keep records.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// Folder for the records of rollouts [default: ~/.local/state/homelab-deploy]
    #[arg(long, env = "HOMELAB_DEPLOY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[arg(long, env = "XDG_STATE_HOME", hide = true)]
    state_home: Option<OsString>,

    #[arg(long, env = "HOME", hide = true)]
    user_home: Option<OsString>,
}

impl StateArgs {
    /// The journals of this operator.
    pub(super) fn journals(&self) -> Journals {
        let home =
            || home::folder(self.state_home.as_ref(), self.user_home.as_ref(), ".local/state").unwrap_or_default();
        let folder = || home().join("homelab-deploy");
        Journals::below(&self.state_dir.clone().unwrap_or_else(folder))
    }
}
