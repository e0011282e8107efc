//! Finds the folders of a user by their environment variables.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// Returns the folder for data that may be lost at any time, or `None` for a user without a home folder.
pub(super) fn cache_dir() -> Option<PathBuf> {
    Some(user_folder("XDG_CACHE_HOME", ".cache")?.join("homelab-deploy"))
}

/// Returns the folder in an `XDG_…_HOME` variable, else `usual` below the home folder. An empty variable counts as
/// unset: <https://specifications.freedesktop.org/basedir-spec/latest/>.
pub(super) fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    folder_by(|variable| env::var_os(variable), variable, usual)
}

fn folder_by(value: impl Fn(&str) -> Option<OsString>, variable: &str, usual: &str) -> Option<PathBuf> {
    let set = |variable: &str| value(variable).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| Some(set("HOME")?.join(usual)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        let [empty, state, home] = ["", "/s", "/h"].map(OsString::from);
        let found = |state: Option<&OsString>, home: Option<&OsString>| {
            let value = |variable: &str| if variable == "HOME" { home.cloned() } else { state.cloned() };
            folder_by(value, "XDG_STATE_HOME", ".local/state")
        };
        assert_eq!(found(Some(&state), Some(&home)), Some("/s".into()));
        assert_eq!(found(Some(&empty), Some(&home)), Some("/h/.local/state".into()));
        assert_eq!(found(None, Some(&home)), Some("/h/.local/state".into()));
        assert_eq!(found(None, Some(&empty)), None);
    }
}
