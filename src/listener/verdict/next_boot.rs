//! What the next boot starts after a run that failed, as far as it is known. Pure.
//!
//! `nixos-rebuild` sets the profile before anything else; the boot loader learns of it in the middle of
//! `switch-to-configuration`, behind its lock and its checks. Until then the host boots what it booted before.

use super::{End, Evidence, NEEDS_REBOOT, UNITS_FAILED};
use crate::listener::output::switch::{self, BootLoader};

/// What is to be said of it; nothing where the profile has not moved.
pub(super) fn after(evidence: &Evidence<'_>) -> Option<String> {
    let Evidence { before, after, built, .. } = evidence;
    let moved = before.profile_path() != after.profile_path();
    // What somebody else set the profile to is not in the words of this run.
    let ours = built.is_none_or(|built| after.profile_path() == Some(built));
    let generation = after.generation().filter(|_| moved && ours)?;
    let profile = format!("the profile points at generation {generation}");
    Some(match known(evidence) {
        Some(BootLoader::New) => format!("the next boot starts generation {generation}"),
        Some(BootLoader::Old) => {
            let old = match before.generation() {
                Some(old) if before.profile_path() != after.current_path() => format!("generation {old}"),
                _ => "what runs now".to_owned(),
            };
            format!("{profile}, the boot loader does not: a reboot starts {old}")
        }
        None => format!("{profile}, and it is not known whether the boot loader does"),
    })
}

/// Some exit codes come only after the boot loader was told.
fn known(Evidence { end, lines, .. }: &Evidence<'_>) -> Option<BootLoader> {
    let by_code = matches!(end, End::Exited(UNITS_FAILED | NEEDS_REBOOT)).then_some(BootLoader::New);
    switch::boot_loader(lines).or(by_code)
}
