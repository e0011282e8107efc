//! The folders of a user.

use std::ffi::OsString;
use std::path::PathBuf;

/// The folder that an `XDG_…_HOME` variable names, else this one below the home folder. A variable that is set to nothing
/// counts as not set: <https://specifications.freedesktop.org/basedir-spec/latest/>.
pub(super) fn folder(variable: Option<&OsString>, home: Option<&OsString>, usual: &str) -> Option<PathBuf> {
    let set = |folder: Option<&OsString>| folder.filter(|folder| !folder.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| Some(set(home)?.join(usual)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        let [empty, state, home] = ["", "/s", "/h"].map(OsString::from);
        let found = |variable, home| folder(variable, home, ".local/state");
        assert_eq!(found(Some(&state), Some(&home)), Some("/s".into()));
        assert_eq!(found(Some(&empty), Some(&home)), Some("/h/.local/state".into()));
        assert_eq!(found(None, Some(&home)), Some("/h/.local/state".into()));
        assert_eq!(found(None, Some(&empty)), None);
    }
}
