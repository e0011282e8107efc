//! Whether a run that is said to have gone well did. Pure.

use super::activation::units_that_failed;
use super::{Evidence, Verdict};
use crate::listener::snapshot::SystemSnapshot;
use crate::protocol::{Action, ErrorCode};

pub(super) fn success(action: Action, evidence: &Evidence<'_>) -> Verdict {
    let notes = match verify(action, evidence) {
        Ok(notes) => notes,
        Err(difference) => return Verdict::failed(ErrorCode::VerifyFailed, difference),
    };
    let failed_units = units_that_failed(evidence).unwrap_or_default();
    let since = (!failed_units.is_empty()).then(|| format!("failed since: {}", failed_units.join(" ")));
    let message = [Some(done(action, evidence.after)), left(action, evidence), notes, since];
    let message = message.into_iter().flatten().collect::<Vec<_>>().join("; ");
    Verdict { reboot_required: takes_effect_later(action, evidence.after), failed_units, ..Verdict::completed(message) }
}

fn done(action: Action, after: &SystemSnapshot) -> String {
    match (action, after.generation()) {
        (Action::Switch, Some(generation)) => format!("switched to generation {generation}"),
        (Action::Boot, Some(generation)) => format!("generation {generation} is the one for the next boot"),
        (Action::Switch | Action::Boot | Action::DryActivate, _) => format!("{action} completed"),
        (Action::Test, _) => "activated until the next boot".to_owned(),
        (Action::Fetch, _) => "fetched".to_owned(),
    }
}

/// The specialisation that ran until a switch, which always leads to the system itself.
fn left(action: Action, Evidence { before, after, .. }: &Evidence<'_>) -> Option<String> {
    let specialisation = before.specialisation.as_ref().filter(|_| after.specialisation.is_none())?;
    matches!(action, Action::Switch | Action::Test)
        .then(|| format!("the specialisation {specialisation} ran before, and does not any more"))
}

/// Compares what is so on the host with what was built. A difference is an error; that nothing could be compared is at
/// most a note, for which no deployment fails.
///
/// What was built is what `nixos-rebuild-ng` names in the end, or what Nix says when it is asked. Where neither is known,
/// the profile tells after `switch` and `boot`: both programs set it to what was built before anything else. A host
/// that has neither a profile nor a running system is no NixOS, and has nothing to compare.
pub(super) fn verify(
    action: Action,
    Evidence { before, after, built, .. }: &Evidence<'_>,
) -> Result<Option<String>, String> {
    if matches!(action, Action::DryActivate | Action::Fetch) || !(before.is_nixos() || after.is_nixos()) {
        return Ok(None);
    }
    let profile = after.profile_path();
    if matches!(action, Action::Switch | Action::Boot) {
        let profile = profile.ok_or("there is no system profile after it")?;
        if let Some(built) = built.filter(|&built| built != profile) {
            return Err(format!("{built} was built, and the system profile points at {profile}"));
        }
    }
    let activated = match action {
        Action::Switch => built.or(profile),
        Action::Test => *built,
        Action::Boot | Action::DryActivate | Action::Fetch => return Ok(None),
    };
    match (activated, after.current_path()) {
        (Some(activated), Some(current)) if activated == current => Ok(None),
        (_, None) => Err("/run/current-system is gone after it".to_owned()),
        (Some(activated), Some(current)) => Err(format!("{activated} was built, and /run/current-system is {current}")),
        (None, current) if current != before.current_path() => Ok(None),
        (None, Some(_)) => {
            Ok(Some("what ran before runs, and it is not known whether that is what was built".to_owned()))
        }
    }
}

/// Whether something of what was deployed waits for the next boot.
fn takes_effect_later(action: Action, after: &SystemSnapshot) -> Option<bool> {
    let booted = after.booted.as_ref()?;
    match action {
        Action::Switch | Action::Test => Some(after.current.as_ref()?.kernel != booted.kernel),
        Action::Boot => {
            let next = &after.profile.as_ref()?.system;
            Some(after.current_path() != Some(&next.path) || next.kernel != booted.kernel)
        }
        Action::DryActivate | Action::Fetch => None,
    }
}
