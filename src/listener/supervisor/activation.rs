//! The activation that a run started in a unit of its own, out of reach of signals to the run's processes.

use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::timeout;

use crate::listener::unit::ACTIVATION;
use crate::listener::verdict::End;

/// What the journal marks the lines with that say that a unit is being stopped; see `journalctl --catalog`.
const IS_STOPPED: &str = "MESSAGE_ID=de5b426a63be47a7b6ac3eaac82e2f6f";

/// How long a program may take that only looks.
const LOOKED_WITHIN: Duration = Duration::from_secs(10);

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

/// The end of the program, unless it takes an activation that was broken off for one that is done. When its unit is
/// stopped, by a shutdown or by hand, that counts as a clean end, and `nixos-rebuild` exits with 0.
pub(super) async fn checked(end: End, started_at: Timestamp) -> End {
    if end == End::Exited(0) && was_stopped(started_at).await { End::Killed(Signal::TERM.as_raw()) } else { end }
}

/// Whether the unit was told to stop since then. Where there is no systemd, none was.
async fn was_stopped(since: Timestamp) -> bool {
    if output("systemctl", &["is-system-running"]).await == "stopping" {
        return true;
    }
    // What is on its way to the journal is to be found, too.
    output("journalctl", &["--sync"]).await;
    // To the millisecond: a run right before this one may have had to be stopped.
    let since = format!("--since=@{}.{:03}", since.as_second(), since.as_millisecond().rem_euclid(1_000));
    !output("journalctl", &["--quiet", "--output=cat", &since, &format!("UNIT={ACTIVATION}"), IS_STOPPED])
        .await
        .is_empty()
}

/// What a program prints, without the white space around it; nothing where it cannot be run.
async fn output(program: &str, arguments: &[&str]) -> String {
    let running = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(LOOKED_WITHIN, running).await.ok().and_then(Result::ok);
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
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
