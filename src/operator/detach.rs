//! Rollouts in the background: the same command once more, out of reach of the terminal.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::journal::Journal;

/// This very program, even when its file was replaced by an update.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Starts this command once more for the rollout with this id, whose [journal](Journal::inherited) is handed over; what it
/// prints goes to `output`.
pub fn start(id: &str, journal: Journal, output: &Path) -> io::Result<()> {
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(output)?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut command = Command::new(THIS_PROGRAM);
    command.args(arguments).args([OsString::from("--take-over"), id.into()]);
    command.env_remove("HOMELAB_DEPLOY_DETACH");
    command.stdin(journal).stdout(output.try_clone()?).stderr(output);
    // Ctrl-C and the end of a terminal are for the group of processes in its foreground. The new process is never in that
    // one, not even for the moment in which it starts.
    command.process_group(0);
    // It is on its own from here: nobody waits for it, and its journal tells what it does.
    command.spawn().map(drop)
}
