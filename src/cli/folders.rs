//! The folders of a user, by the variables that name them.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// The folder for what may be lost at any time; `None` for an operator without a home.
pub(super) fn cache_dir() -> Option<PathBuf> {
    Some(user_folder("XDG_CACHE_HOME", ".cache")?.join("homelab-deploy"))
}

/// The folder that an `XDG_…_HOME` variable names, else this one below the home folder. A variable that is set to nothing
/// counts as not set: <https://specifications.freedesktop.org/basedir-spec/latest/>.
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
