//! Whose doing it is that a host is not what it was before a run. Pure.
//!
//! Somebody may switch the host by hand at any moment. What a run undoes is its own doing and nothing else: the system
//! that it built, in the places where it may have put it.

use crate::listener::snapshot::SystemSnapshot;

/// Who made one thing on the host what it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is what it was.
    None,
    /// The run did.
    Ours,
    /// Somebody else did, meanwhile.
    Theirs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) current: Change,
    /// The system that the next boot starts.
    pub(super) profile: Change,
}

impl Changes {
    /// What has changed between these two moments, where the run brought the system `made`. Where that is not known,
    /// every change counts as the run's: it was at work all the time.
    pub(super) fn between(before: &SystemSnapshot, now: &SystemSnapshot, made: Option<&str>) -> Self {
        let change = |before: Option<&str>, now: Option<&str>| match made {
            _ if now == before => Change::None,
            Some(made) if now.is_some_and(|now| now != made) => Change::Theirs,
            _ => Change::Ours,
        };
        Self {
            current: change(before.current_path(), now.current_path()),
            profile: change(before.profile_path(), now.profile_path()),
        }
    }

    /// The same for a run that built and did no more: none of it is its doing.
    pub(super) fn by_others(before: &SystemSnapshot, now: &SystemSnapshot) -> Self {
        let change = |moved| if moved { Change::Theirs } else { Change::None };
        Self {
            current: change(before.current_path() != now.current_path()),
            profile: change(before.profile_path() != now.profile_path()),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::listener::host::{Profile, System};

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
}
