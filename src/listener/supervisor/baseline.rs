//! What was so on the host right before a run changed anything: it is what the host can return to.
//!
//! `nixos-rebuild` evaluates once more before it moves anything. That takes a while, and what somebody else switches to
//! meanwhile is not the run's to undo.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::changes::{Change, Changes};
use crate::listener::host::Host;
use crate::listener::run::RunDir;
use crate::listener::snapshot::SystemSnapshot;
use crate::protocol::Phase;

/// How often it is looked whether somebody else has changed it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Keeps `before` up to date until the run changes something: it activates, or the system `made` takes the place of
/// another.
pub(super) async fn follow(host: &Host, dir: &RunDir, before: &mut SystemSnapshot, made: Option<&str>) -> Infallible {
    loop {
        let now = SystemSnapshot::seen(host);
        let Changes { current, profile } = Changes::between(before, &now, made);
        // The phase is read last: what was seen before an activation is not the activation's doing.
        if [current, profile].contains(&Change::Ours) || dir.phase() >= Phase::Activate {
            return pending().await;
        }
        if [current, profile].contains(&Change::Theirs) {
            *before = now.completed(host).await;
            // It was on record before, and so there is room for it.
            note(host, dir, before).ok();
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Puts it on record, and keeps it from the garbage collector.
pub(super) fn note(host: &Host, dir: &RunDir, before: &SystemSnapshot) -> io::Result<()> {
    host.keep(before.current_path(), before.profile_path());
    dir.write_before(before)
}
