//! The activation that a run started in a unit of its own, out of reach of signals to the run's processes.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::listener::unit::ACTIVATION;

/// How long systemd may take to see the end of processes that it has killed.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Whether this command line, with its words ended by NUL, is that of the process which waits for the unit.
pub(super) fn waits(command_line: &[u8]) -> bool {
    let unit = ACTIVATION.trim_end_matches(".service");
    command_line.split(|&byte| byte == 0).any(|word| word.strip_prefix(b"--unit=") == Some(unit.as_bytes()))
}

/// Ends it: asks, waits for at most this long, and then forces it.
pub(super) async fn stop(grace: Duration) {
    if timeout(grace, systemctl(&["stop", ACTIVATION])).await.is_err() {
        systemctl(&["kill", "--signal=KILL", ACTIVATION]).await;
        // Returns at once when the unit has gone, and its end is what the result of the run waits for.
        timeout(KILLED_WITHIN, systemctl(&["stop", ACTIVATION])).await.ok();
    }
}

/// What cannot be stopped is left: the run has ended for all that, and says what it was at.
async fn systemctl(arguments: &[&str]) {
    let command = Command::new("systemctl").args(arguments).stdin(Stdio::null()).kill_on_drop(true).status().await;
    drop(command);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_activation_is_told_from_who_mentions_it() {
        let line =
            |words: &[&str]| words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        assert!(waits(&line(&["systemd-run", "--pipe", "--unit=nixos-rebuild-switch-to-configuration", "/x"])));
        assert!(!waits(&line(&["systemd-run", "--unit=nixos-rebuild-switch-to-configuration-2", "/x"])));
        assert!(!waits(&line(&["grep", "nixos-rebuild-switch-to-configuration"])));
    }
}
