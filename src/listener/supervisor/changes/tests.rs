use super::*;
use crate::listener::snapshot::{Profile, System};

/// A host that runs one system, and boots another next.
pub(in crate::listener::supervisor) fn facts(current: &str, profile: &str) -> SystemSnapshot {
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
    let before = facts("old", "old");
    let between = |current, profile, made| {
        let Changes { current, profile } = Changes::between(&before, &facts(current, profile), made);
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
    let before = facts("old", "old");
    let theirs = |now: &SystemSnapshot, made| Changes::between(&before, now, made).theirs(now);
    assert_eq!(theirs(&facts("new", "new"), Some("new")), None);
    assert_eq!(
        theirs(&facts("hand", "hand"), Some("new")).unwrap(),
        "meanwhile the host was switched to hand by other means"
    );
    assert_eq!(
        theirs(&facts("new", "hand"), Some("new")).unwrap(),
        "meanwhile hand was set to boot next by other means"
    );
    let built_only = Changes::by_others(&before, &facts("old", "hand"));
    assert_eq!((built_only.current, built_only.profile), (Change::None, Change::Theirs));
}
