//! Which units failed because of a run. Pure.

use super::Evidence;
use crate::listener::output::switch;

/// The units that have failed now and had not before; unknown where there is no systemd to ask.
pub(super) fn units_that_failed(Evidence { before, after, lines, .. }: &Evidence<'_>) -> Option<Vec<String>> {
    let (before, mut now) = (before.failed_units.as_ref()?, after.failed_units.clone()?);
    // One that is being started once more at the very moment is not on the list, nor one whose requirements failed.
    now.extend(switch::failed_units(lines));
    now.extend(switch::failed_jobs(lines));
    Some(now.difference(before).cloned().collect())
}
