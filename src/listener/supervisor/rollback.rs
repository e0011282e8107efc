//! Tells the run's changes to the host from those of others, and rolls the former back.
//!
//! Somebody may switch the host by hand at any moment. A rollback undoes only what the run did: the system that it
//! built, in the places where it put it. What somebody else switched to meanwhile stays.
//!
//! Neither `nix-env --rollback` nor `nixos-rebuild --rollback` can be used: the one takes the generation before the
//! current one, whatever that is, and the other evaluates. The recorded system activates itself.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::process::Command;
use std::time::Duration;

use tokio::time::sleep;

use super::process::ProcessRunner;
use crate::listener::nixos::{Host, PROFILE, SystemSnapshot};
use crate::listener::run::verdict::{EXIT_UNITS_FAILED, ProcessEnd};
use crate::listener::run::{BEFORE, RunDir};
use crate::protocol::{Action, ErrorCode, Phase};

/// The interval at which changes by others are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who changed one place of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Ours,
    /// Somebody else, meanwhile.
    Theirs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) current: Change,
    pub(super) profile: Change,
}

impl Changes {
    /// Returns the changes between two snapshots. If the system that the run built is unknown, all count as the run's.
    pub(super) fn between(before: &SystemSnapshot, now: &SystemSnapshot, built: Option<&str>) -> Self {
        let is_theirs = |now: Option<&str>| built.zip(now).is_some_and(|(built, now)| built != now);
        Self::of(before, now, |now| if is_theirs(now) { Change::Theirs } else { Change::Ours })
    }

    /// Returns the changes during a run that changed nothing: all by others.
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

    /// Describes what somebody else did; `None` if nothing.
    pub(super) fn theirs(self, now: &SystemSnapshot) -> Option<String> {
        let path = |path: Option<&str>| path.unwrap_or("an unknown system").to_owned();
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

/// Updates the baseline until the run changes something: it activates, or its system replaces another. `nixos-rebuild`
/// evaluates once more before that, which takes a while, and this run must not undo what somebody else does meanwhile.
pub(super) async fn follow_baseline(
    host: &Host,
    dir: &RunDir,
    before: &mut SystemSnapshot,
    built: Option<&str>,
) -> Infallible {
    loop {
        let now = SystemSnapshot::from_links(host);
        let Changes { current, profile } = Changes::between(before, &now, built);
        // The phase is read last, so that the snapshot is older than any activation.
        if [current, profile].contains(&Change::Ours) || dir.phase() >= Phase::Activate {
            return pending().await;
        }
        if [current, profile].contains(&Change::Theirs) {
            *before = now.with_answers(host).await;
            // Written over the earlier record, which has the room.
            note_baseline(host, dir, before).ok();
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Records the baseline, and keeps its systems from the garbage collector.
pub(super) fn note_baseline(host: &Host, dir: &RunDir, before: &SystemSnapshot) -> io::Result<()> {
    host.protect_from_gc(before.current_path(), before.profile_path());
    dir.write_and_copy(BEFORE, before)
}

/// A step from one system to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ActivationStep {
    /// Point the system profile at this system.
    SetProfile(String),
    /// Run this system's activation with this action.
    Activate(String, Action),
}

impl ActivationStep {
    pub(super) fn command(&self, host: &Host) -> Command {
        match self {
            Self::SetProfile(system) => {
                let mut command = Command::new("nix-env");
                command.arg("--profile").arg(host.at(PROFILE)).arg("--set").arg(system);
                command
            }
            Self::Activate(system, how) => {
                let mut command = Command::new(host.at(system).join("bin/switch-to-configuration"));
                command.arg(how.as_str()).env("NIXOS_INSTALL_BOOTLOADER", "0");
                command
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct RollbackOutcome {
    /// Whether there was anything to undo: somebody else may have replaced all of it meanwhile.
    pub(super) is_tried: bool,
    /// Why the host is not as it was before.
    pub(super) problem: Option<(ErrorCode, String)>,
    /// The changes of others, which stay.
    pub(super) theirs: Option<String>,
    pub(super) now: SystemSnapshot,
}

/// Undoes a run that built the system `built`, if known, within the limit.
pub(super) async fn roll_back(
    runner: &mut ProcessRunner,
    host: &Host,
    action: Action,
    before: &SystemSnapshot,
    built: Option<&str>,
    limit: Duration,
) -> RollbackOutcome {
    let now = SystemSnapshot::from_links(host);
    let changes = Changes::between(before, &now, built);
    let theirs = changes.theirs(&now);
    let way = steps(action, before, &now, changes);
    if way.is_empty() && theirs.is_some() {
        let problem = theirs.map(|theirs| (ErrorCode::VerifyFailed, theirs));
        return RollbackOutcome { is_tried: false, problem, theirs: None, now: SystemSnapshot::capture(host).await };
    }
    runner.log.enter(Phase::Return);
    runner.stop.renew(limit);
    let mut failure = None;
    for step in way {
        // Pre-switch checks must not keep the host on the new system.
        let end = runner.run(step.command(host).env("NIXOS_NO_CHECK", "1")).await;
        let stops = matches!(end, ProcessEnd::TimedOut | ProcessEnd::Stopped(_));
        // The other steps are tried anyway: a host that serves with the wrong profile is better than one that does not.
        failure = failure.or_else(|| Some((complaint(&step, &end)?, end)));
        if stops {
            break;
        }
    }
    let now = SystemSnapshot::capture(host).await;
    let difference = difference(before, &now, changes).map(|text| (ErrorCode::VerifyFailed, text));
    let failure = failure.filter(|(_, end)| !failed_before(end, before, &now));
    let problem = failure.map(|(complaint, _)| complaint).or(difference);
    RollbackOutcome { is_tried: true, problem, theirs, now }
}

/// Returns the steps that undo `action` on a host in this state, except where somebody else has changed it.
fn steps(action: Action, before: &SystemSnapshot, now: &SystemSnapshot, changes: Changes) -> Vec<ActivationStep> {
    let (Some(current), Some(profile)) = (before.current_path(), before.profile_path()) else { return Vec::new() };
    let activate = |system: &str, how| ActivationStep::Activate(system.to_owned(), how);
    let set = (now.profile_path() != Some(profile)).then(|| ActivationStep::SetProfile(profile.to_owned()));
    let boot = || set.iter().cloned().chain([activate(profile, Action::Boot)]).collect();
    match (changes.current, changes.profile) {
        _ if !action.activates() && !action.sets_next_boot() => Vec::new(),
        // Nothing was activated; the boot loader follows the profile.
        (_, Change::None | Change::Ours) if !action.activates() => boot(),
        // What somebody else runs stays, but the run's system must not come back with the next boot.
        (Change::Theirs, Change::Ours) => boot(),
        (Change::Theirs, _) => Vec::new(),
        (_, Change::Theirs) if action.activates() => vec![activate(current, Action::Test)],
        (_, Change::Theirs) => Vec::new(),
        _ if current == profile => set.into_iter().chain([activate(current, Action::Switch)]).collect(),
        // The previous system was not the one to boot next.
        _ => boot().into_iter().chain([activate(current, Action::Test)]).collect(),
    }
}

/// Describes the failure of a step, if it failed.
fn complaint(step: &ActivationStep, end: &ProcessEnd) -> Option<(ErrorCode, String)> {
    let what = match step {
        ActivationStep::SetProfile(system) => format!("setting the profile to {system}"),
        ActivationStep::Activate(system, how) => format!("{system}/bin/switch-to-configuration {how}"),
    };
    Some(match end {
        ProcessEnd::Exited(0) => return None,
        ProcessEnd::Exited(code) => (ErrorCode::ActivationFailed, format!("{what} ended with code {code}")),
        ProcessEnd::Killed(signal) => (ErrorCode::ActivationFailed, format!("signal {signal} ended {what}")),
        ProcessEnd::Stopped(signal) => (ErrorCode::Interrupted, format!("signal {signal} came before {what} was done")),
        ProcessEnd::TimedOut => (ErrorCode::Timeout, format!("{what} took too long")),
        ProcessEnd::NotStarted(why) | ProcessEnd::Refused(_, why) => (ErrorCode::ActivationFailed, why.clone()),
    })
}

/// Whether a step failed only because of units, and all of them had failed before the run.
fn failed_before(end: &ProcessEnd, before: &SystemSnapshot, now: &SystemSnapshot) -> bool {
    let units = before.failed_units.as_ref().zip(now.failed_units.as_ref());
    *end == ProcessEnd::Exited(EXIT_UNITS_FAILED) && units.is_some_and(|(before, now)| now.is_subset(before))
}

/// Describes how the host differs from the baseline, apart from the changes of others.
fn difference(before: &SystemSnapshot, now: &SystemSnapshot, changes: Changes) -> Option<String> {
    if before.current.is_none() || before.profile.is_none() {
        return Some("there is no record of what ran before".to_owned());
    }
    let is_not = |what: &str, change: Change, now: Option<&str>, before: Option<&str>| {
        let path = |path: Option<&str>| path.unwrap_or("nothing").to_owned();
        (change != Change::Theirs && now != before).then(|| format!("{what} is {} and was {}", path(now), path(before)))
    };
    is_not("/run/current-system", changes.current, now.current_path(), before.current_path())
        .or_else(|| is_not("the system profile", changes.profile, now.profile_path(), before.profile_path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::nixos::{Profile, System};

    /// Returns a host that runs one system, and boots another next.
    fn snapshot(current: &str, profile: &str) -> SystemSnapshot {
        let system = |path: &str| System { path: path.to_owned(), kernel: [None, None, None] };
        SystemSnapshot {
            current: Some(system(current)),
            profile: Some(Profile { generation: Some(41), system: system(profile) }),
            failed_units: Some(["old.service".to_owned()].into()),
            ..SystemSnapshot::default()
        }
    }

    #[test]
    fn what_is_neither_as_before_nor_what_was_built_is_somebody_elses() {
        let before = snapshot("old", "old");
        let between = |current, profile, made| {
            let Changes { current, profile } = Changes::between(&before, &snapshot(current, profile), made);
            (current, profile)
        };
        assert_eq!(between("old", "old", Some("new")), (Change::None, Change::None));
        assert_eq!(between("new", "new", Some("new")), (Change::Ours, Change::Ours));
        assert_eq!(between("new", "hand", Some("new")), (Change::Ours, Change::Theirs));
        assert_eq!(between("hand", "new", Some("new")), (Change::Theirs, Change::Ours));
        assert_eq!(between("hand", "hand", Some("old")), (Change::Theirs, Change::Theirs));
        assert_eq!(between("hand", "hand", None), (Change::Ours, Change::Ours));
    }

    #[test]
    fn what_somebody_else_did_is_told_and_nothing_else() {
        let before = snapshot("old", "old");
        let theirs = |now: &SystemSnapshot, made| Changes::between(&before, now, made).theirs(now);
        assert_eq!(theirs(&snapshot("new", "new"), Some("new")), None);
        assert_eq!(
            theirs(&snapshot("hand", "hand"), Some("new")).unwrap(),
            "meanwhile the host was switched to hand by other means"
        );
        assert_eq!(
            theirs(&snapshot("new", "hand"), Some("new")).unwrap(),
            "meanwhile hand was set to boot next by other means"
        );
        let built_only = Changes::by_others(&before, &snapshot("old", "hand"));
        assert_eq!((built_only.current, built_only.profile), (Change::None, Change::Theirs));
    }

    /// Returns the steps back from the state after a run of the system `new`.
    fn way(action: Action, before: &SystemSnapshot, now: &SystemSnapshot) -> String {
        let changes = Changes::between(before, now, Some("new"));
        let words = steps(action, before, now, changes).into_iter().map(|step| match step {
            ActivationStep::SetProfile(system) => format!("set {system}"),
            ActivationStep::Activate(system, how) => format!("{how} {system}"),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_recorded_system_activates_itself() {
        let (old, new) = (snapshot("old", "old"), snapshot("new", "new"));
        insta::assert_snapshot!(way(Action::Switch, &old, &new), @"set old, switch old");
        // Even if the profile is right already, the units may not be.
        insta::assert_snapshot!(way(Action::Switch, &old, &snapshot("new", "old")), @"switch old");
        insta::assert_snapshot!(way(Action::Test, &old, &snapshot("new", "old")), @"switch old");
        insta::assert_snapshot!(way(Action::Boot, &old, &snapshot("old", "new")), @"set old, boot old");
        insta::assert_snapshot!(way(Action::DryActivate, &old, &new), @"");
    }

    #[test]
    fn what_was_only_tested_is_tested_again_and_what_was_to_boot_boots() {
        let tested = snapshot("tried", "old");
        insta::assert_snapshot!(way(Action::Switch, &tested, &snapshot("new", "new")), @"set old, boot old, test tried");
        insta::assert_snapshot!(way(Action::Test, &tested, &snapshot("new", "old")), @"boot old, test tried");
        insta::assert_snapshot!(way(Action::Boot, &tested, &snapshot("tried", "new")), @"set old, boot old");
    }

    #[test]
    fn what_somebody_else_switched_to_stays() {
        let old = snapshot("old", "old");
        insta::assert_snapshot!(way(Action::Switch, &old, &snapshot("hand", "hand")), @"");
        insta::assert_snapshot!(way(Action::Test, &old, &snapshot("hand", "hand")), @"");
        insta::assert_snapshot!(way(Action::Boot, &old, &snapshot("hand", "hand")), @"");
        // Somebody only activated a system, or only set one to boot: the other half is the run's.
        insta::assert_snapshot!(way(Action::Switch, &old, &snapshot("hand", "new")), @"set old, boot old");
        insta::assert_snapshot!(way(Action::Switch, &old, &snapshot("new", "hand")), @"test old");
        insta::assert_snapshot!(way(Action::Boot, &old, &snapshot("hand", "new")), @"set old, boot old");
        insta::assert_snapshot!(way(Action::Test, &old, &snapshot("hand", "old")), @"");
    }

    #[test]
    fn a_host_has_returned_when_it_is_what_it_was() {
        let differs = |before: &SystemSnapshot, now: &SystemSnapshot| {
            difference(before, now, Changes::between(before, now, Some("new")))
        };
        let old = snapshot("old", "old");
        assert_eq!(differs(&old, &old), None);
        insta::assert_snapshot!(differs(&old, &snapshot("new", "old")).unwrap(), @"/run/current-system is new and was old");
        insta::assert_snapshot!(differs(&old, &snapshot("old", "new")).unwrap(), @"the system profile is new and was old");
        let gone = SystemSnapshot { current: None, ..old.clone() };
        insta::assert_snapshot!(differs(&old, &gone).unwrap(), @"/run/current-system is nothing and was old");
        insta::assert_snapshot!(differs(&gone, &old).unwrap(), @"there is no record of what ran before");
    }

    #[test]
    fn units_that_had_failed_before_do_not_spoil_the_return() {
        let old = snapshot("old", "old");
        let units = ProcessEnd::Exited(4);
        assert!(failed_before(&units, &old, &old));
        let worse = SystemSnapshot { failed_units: Some(["x.service".to_owned()].into()), ..old.clone() };
        assert!(!failed_before(&units, &old, &worse));
        assert!(!failed_before(&units, &old, &SystemSnapshot { failed_units: None, ..old.clone() }));
        assert!(!failed_before(&ProcessEnd::Exited(2), &old, &old));
    }
}
