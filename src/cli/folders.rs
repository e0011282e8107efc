//! Finds the folders of a user by their environment variables.

use std::env;
use std::path::PathBuf;

/// Returns the folder for data that may be lost at any time, or `None` for a user without a home folder.
pub(super) fn cache_dir() -> Option<PathBuf> {
    Some(user_folder("XDG_CACHE_HOME", ".cache")?.join("homelab-deploy"))
}

/// The folder that an `XDG_…_HOME` variable names, else this one below the home folder. A variable that is empty or relative
/// counts as not set: <https://specifications.freedesktop.org/basedir-spec/latest/>.
pub(super) fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    folder_by(env::var_os(variable).map(PathBuf::from), env::home_dir(), usual)
}

fn folder_by(set: Option<PathBuf>, home: Option<PathBuf>, usual: &str) -> Option<PathBuf> {
    let absolute = |folder: Option<PathBuf>| folder.filter(|folder| folder.is_absolute());
    absolute(set).or_else(|| Some(absolute(home)?.join(usual)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_empty_or_relative_is_not_set() {
        let found = |state: Option<&str>, home: Option<&str>| {
            folder_by(state.map(PathBuf::from), home.map(PathBuf::from), ".local/state")
        };
        assert_eq!(found(Some("/s"), Some("/h")), Some("/s".into()));
        for unset in [None, Some(""), Some("state"), Some("./state")] {
            assert_eq!(found(unset, Some("/h")), Some("/h/.local/state".into()));
            assert_eq!(found(None, unset), None);
        }
    }
}
