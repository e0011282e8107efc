//! What a host was before a run, and whose doing it is that it is something else.
//!
//! Somebody may switch the host by hand at any moment. What a run undoes is its own doing and nothing else: the system
//! that it built, in the places where it may have put it.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::time::sleep;

use crate::listener::host::Host;
use crate::listener::run::{RunDir, files};
use crate::listener::snapshot::SystemSnapshot;
use crate::protocol::Phase;

/// How often it is looked whether somebody else has changed it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who made one thing on the host what it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The run did.
    Ours,
    /// Somebody else did, meanwhile.
    Theirs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) current: Change,
    pub(super) profile: Change,
}

impl Changes {
    /// What has changed between these two moments, where the run brought the system `made`. Where that is not known,
    /// every change counts as the run's: it was at work all the time.
    pub(super) fn between(before: &SystemSnapshot, now: &SystemSnapshot, made: Option<&str>) -> Self {
        let is_theirs = |now: Option<&str>| made.zip(now).is_some_and(|(made, now)| made != now);
        Self::of(before, now, |now| if is_theirs(now) { Change::Theirs } else { Change::Ours })
    }

    /// The same for a run that built and did no more: none of it is its doing.
    pub(super) fn by_others(before: &SystemSnapshot, now: &SystemSnapshot) -> Self {
        Self::of(before, now, |_| Change::Theirs)
    }

    fn of(before: &SystemSnapshot, now: &SystemSnapshot, whose: impl Fn(Option<&str>) -> Change) -> Self {
        let change = |before, now| if before == now { Change::None } else { whose(now) };
        Self {
            current: change(before.current_path(), now.current_path()),
            profile: change(before.profile_path(), now.profile_path()),
        }
    }

    /// What somebody else did, in words; `None` when nobody did anything.
    pub(super) fn theirs(self, now: &SystemSnapshot) -> Option<String> {
        let path = |path: Option<&str>| path.unwrap_or("nothing that is known").to_owned();
        match self {
            Self { current: Change::Theirs, .. } => {
                Some(format!("meanwhile the host was switched to {} by other means", path(now.current_path())))
            }
            Self { profile: Change::Theirs, .. } => {
                Some(format!("meanwhile {} was set to boot next by other means", path(now.profile_path())))
            }
            _ => None,
        }
    }
}

/// Keeps `before` up to date until the run changes something: it activates, or the system `made` takes the place of
/// another. `nixos-rebuild` evaluates once more before it moves anything. That takes a while, and what somebody else switches
/// to meanwhile is not the run's to undo.
pub(super) async fn follow_baseline(
    host: &Host,
    dir: &RunDir,
    before: &mut SystemSnapshot,
    made: Option<&str>,
) -> Infallible {
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
            note_baseline(host, dir, before).ok();
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Puts on record what the host can return to, and keeps it from the garbage collector.
pub(super) fn note_baseline(host: &Host, dir: &RunDir, before: &SystemSnapshot) -> io::Result<()> {
    host.keep(before.current_path(), before.profile_path());
    dir.keep(files::BEFORE, before)
}

#[cfg(test)]
pub(super) mod tests;
