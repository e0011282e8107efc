//! Rollouts in the background: the same command once more, in a session of its own.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// This very program, even when its file was replaced by an update.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Starts this command once more for the rollout with this id; what it prints goes to `output`.
pub fn start(id: &str, output: &Path) -> io::Result<()> {
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(output)?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut command = Command::new(THIS_PROGRAM);
    command.args(arguments).args([OsString::from("--take-over"), id.into()]);
    command.env_remove("HOMELAB_DEPLOY_DETACH");
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // It is on its own from here: nobody waits for it, and its journal tells what it does.
    command.spawn().map(drop)
}

/// Makes this process independent of the terminal that it was started from, whose end would end it too.
pub fn leave_terminal() {
    // It can only fail when this process leads a session already, which is what is wanted.
    rustix::process::setsid().ok();
}
