//! The way back to what a host ran before, as it was taken down then.
//!
//! Only what the run itself did is undone: what somebody else switched to meanwhile stays.
//!
//! Neither `nix-env --rollback` nor `nixos-rebuild --rollback` leads there: the one takes the generation before the
//! current one, whatever that is, and the other evaluates. The recorded system activates itself.

use std::process::Command;
use std::time::Duration;

use super::changes::{Change, Changes};
use super::process::ProcessRunner;
use crate::listener::host::Host;
use crate::listener::snapshot::{PROFILE, SystemSnapshot};
use crate::listener::verdict::{End, UNITS_FAILED};
use crate::protocol::{Action, ErrorCode, Phase};

/// A part of the way from one system to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ActivationStep {
    /// Let the system profile point at this system.
    SetProfile(String),
    /// Let this system do this to the host.
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
pub(super) enum RolledBack {
    /// Nothing was done: what there was to undo has been replaced by somebody else meanwhile, with this.
    Nowhere { theirs: String, now: SystemSnapshot },
    Back {
        /// Why the host is not what it was before.
        problem: Option<(ErrorCode, String)>,
        /// What somebody else did, which stays.
        theirs: Option<String>,
        now: SystemSnapshot,
    },
}

/// Undoes what a run did that brought the system `made`, where that is known. It may take so long.
pub(super) async fn roll_back(
    runner: &mut ProcessRunner,
    host: &Host,
    action: Action,
    before: &SystemSnapshot,
    made: Option<&str>,
    limit: Duration,
) -> RolledBack {
    let now = SystemSnapshot::seen(host);
    let changes = Changes::between(before, &now, made);
    let theirs = changes.theirs(&now);
    let way = steps(action, before, &now, changes);
    if let Some(theirs) = &theirs
        && way.is_empty()
    {
        return RolledBack::Nowhere { theirs: theirs.clone(), now: SystemSnapshot::learned(host).await };
    }
    runner.log.enter(Phase::Return);
    runner.bounds.renew(limit);
    let mut problem = None;
    for step in way {
        // Checks that speak against leaving the new system are no reason to stay with it.
        let end = runner.run(step.command(host).env("NIXOS_NO_CHECK", "1")).await;
        let stops = matches!(end, End::TimedOut | End::Stopped(_));
        // The rest is tried anyway: a host that serves with the wrong profile is better than one that does not.
        problem = problem.or_else(|| complaint(&step, &end));
        if stops {
            break;
        }
    }
    let now = SystemSnapshot::learned(host).await;
    let difference = difference(before, &now, changes).map(|text| (ErrorCode::VerifyFailed, text));
    let problem = problem.filter(|problem| !is_old_news(problem, before, &now)).or(difference);
    RolledBack::Back { problem, theirs, now }
}

/// The steps that undo what `action` may have done, on a host that is like this now. What was only built needs none, and
/// neither does what somebody else has replaced since.
fn steps(action: Action, before: &SystemSnapshot, now: &SystemSnapshot, changes: Changes) -> Vec<ActivationStep> {
    let (Some(current), Some(profile)) = (before.current_path(), before.profile_path()) else { return Vec::new() };
    let activate = |system: &str, how| ActivationStep::Activate(system.to_owned(), how);
    let set = (now.profile_path() != Some(profile)).then(|| ActivationStep::SetProfile(profile.to_owned()));
    let boot = || set.iter().cloned().chain([activate(profile, Action::Boot)]).collect();
    match (changes.current, changes.profile) {
        _ if !action.activates() && !action.sets_next_boot() => Vec::new(),
        // Nothing was activated; the boot loader follows the profile.
        (_, Change::None | Change::Ours) if !action.activates() => boot(),
        // What somebody else runs stays, and what was ours is not to come back with the next boot.
        (Change::Theirs, Change::Ours) => boot(),
        (Change::Theirs, _) => Vec::new(),
        (_, Change::Theirs) if action.activates() => vec![activate(current, Action::Test)],
        (_, Change::Theirs) => Vec::new(),
        _ if current == profile => set.into_iter().chain([activate(current, Action::Switch)]).collect(),
        // What ran was to be gone after the next boot.
        _ => boot().into_iter().chain([activate(current, Action::Test)]).collect(),
    }
}

/// What is wrong when a step ends like this.
fn complaint(step: &ActivationStep, end: &End) -> Option<(ErrorCode, String)> {
    let what = match step {
        ActivationStep::SetProfile(system) => format!("setting the profile to {system}"),
        ActivationStep::Activate(system, how) => format!("{system}/bin/switch-to-configuration {how}"),
    };
    match end {
        End::Exited(0) => None,
        End::Exited(code) => Some((ErrorCode::ActivationFailed, format!("{what} ended with code {code}"))),
        End::Killed(signal) => Some((ErrorCode::ActivationFailed, format!("signal {signal} ended {what}"))),
        End::Stopped(signal) => Some((ErrorCode::Interrupted, format!("signal {signal} came before {what} was done"))),
        End::TimedOut => Some((ErrorCode::Timeout, format!("{what} took too long"))),
        End::NotStarted(why) | End::Refused(_, why) => Some((ErrorCode::ActivationFailed, why.clone())),
    }
}

/// Whether the only complaint is about units, and none has failed that had not before.
fn is_old_news((_, complaint): &(ErrorCode, String), before: &SystemSnapshot, now: &SystemSnapshot) -> bool {
    let about_units = complaint.ends_with(&format!("ended with code {UNITS_FAILED}"));
    let units = before.failed_units.as_ref().zip(now.failed_units.as_ref());
    about_units && units.is_some_and(|(before, now)| now.is_subset(before))
}

/// In what the host is not what it was, but for what somebody else changed.
fn difference(before: &SystemSnapshot, now: &SystemSnapshot, changes: Changes) -> Option<String> {
    if before.current.is_none() || before.profile.is_none() {
        return Some("what ran before is not on record".to_owned());
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
    use crate::listener::supervisor::changes::tests::facts;

    /// The way from what a run of the system `new` left.
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
        let (old, new) = (facts("old", "old"), facts("new", "new"));
        insta::assert_snapshot!(way(Action::Switch, &old, &new), @"set old, switch old");
        // The profile may be right already, and the units are not for all that.
        insta::assert_snapshot!(way(Action::Switch, &old, &facts("new", "old")), @"switch old");
        insta::assert_snapshot!(way(Action::Test, &old, &facts("new", "old")), @"switch old");
        insta::assert_snapshot!(way(Action::Boot, &old, &facts("old", "new")), @"set old, boot old");
        insta::assert_snapshot!(way(Action::DryActivate, &old, &new), @"");
    }

    #[test]
    fn what_was_only_tested_is_tested_again_and_what_was_to_boot_boots() {
        let tested = facts("tried", "old");
        insta::assert_snapshot!(way(Action::Switch, &tested, &facts("new", "new")), @"set old, boot old, test tried");
        insta::assert_snapshot!(way(Action::Test, &tested, &facts("new", "old")), @"boot old, test tried");
        insta::assert_snapshot!(way(Action::Boot, &tested, &facts("tried", "new")), @"set old, boot old");
    }

    #[test]
    fn what_somebody_else_switched_to_stays() {
        let old = facts("old", "old");
        insta::assert_snapshot!(way(Action::Switch, &old, &facts("hand", "hand")), @"");
        insta::assert_snapshot!(way(Action::Test, &old, &facts("hand", "hand")), @"");
        insta::assert_snapshot!(way(Action::Boot, &old, &facts("hand", "hand")), @"");
        // They only tried theirs, or only set it to boot: the other half is still ours.
        insta::assert_snapshot!(way(Action::Switch, &old, &facts("hand", "new")), @"set old, boot old");
        insta::assert_snapshot!(way(Action::Switch, &old, &facts("new", "hand")), @"test old");
        insta::assert_snapshot!(way(Action::Boot, &old, &facts("hand", "new")), @"set old, boot old");
        insta::assert_snapshot!(way(Action::Test, &old, &facts("hand", "old")), @"");
    }

    #[test]
    fn a_host_has_returned_when_it_is_what_it_was() {
        let differs = |before: &SystemSnapshot, now: &SystemSnapshot| {
            difference(before, now, Changes::between(before, now, Some("new")))
        };
        let old = facts("old", "old");
        assert_eq!(differs(&old, &old), None);
        insta::assert_snapshot!(differs(&old, &facts("new", "old")).unwrap(), @"/run/current-system is new and was old");
        insta::assert_snapshot!(differs(&old, &facts("old", "new")).unwrap(), @"the system profile is new and was old");
        let gone = SystemSnapshot { current: None, ..old.clone() };
        insta::assert_snapshot!(differs(&old, &gone).unwrap(), @"/run/current-system is nothing and was old");
        insta::assert_snapshot!(differs(&gone, &old).unwrap(), @"what ran before is not on record");
    }

    #[test]
    fn units_that_had_failed_before_do_not_spoil_the_return() {
        let old = facts("old", "old");
        let step = ActivationStep::Activate("old".to_owned(), Action::Switch);
        let units = complaint(&step, &End::Exited(4)).unwrap();
        assert!(is_old_news(&units, &old, &old));
        let worse = SystemSnapshot { failed_units: Some(["x.service".to_owned()].into()), ..old.clone() };
        assert!(!is_old_news(&units, &old, &worse));
        assert!(!is_old_news(&units, &old, &SystemSnapshot { failed_units: None, ..old.clone() }));
        assert!(!is_old_news(&complaint(&step, &End::Exited(2)).unwrap(), &old, &old));
    }
}
