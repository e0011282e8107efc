//! The folder of plans, as far as an assistant may reach: plain names, and files that lie in it.

use std::path::PathBuf;

use super::error::ToolError;

/// The longest name of a plan, in bytes.
const MAX_NAME_BYTES: usize = 63;

#[derive(Debug, Clone)]
pub struct Plans {
    /// `None` where there are no plans.
    folder: Option<PathBuf>,
}

impl Plans {
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The names of all plans that can be read, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = self.folder.iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let names = paths.filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned()));
        let mut names: Vec<String> = names.filter(|name| self.path(name).is_ok()).collect();
        names.sort();
        names
    }

    /// The path of a plan's file: within the folder, also when it is a link.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf, ToolError> {
        if !is_name(name) {
            let shown: String = name.chars().take(80).collect();
            let what = "is not the name of a plan: those have lower-case letters, digits and - only";
            return Err(ToolError::new("invalid_plan", format!("{shown:?} {what}"))
                .next("give plan a name that list_plans shows, without a path and without .toml"));
        }
        let unknown =
            || ToolError::new("unknown_plan", format!("there is no plan {name}")).next("list_plans shows the plans");
        let folder = self.folder.as_ref().and_then(|folder| folder.canonicalize().ok()).ok_or_else(unknown)?;
        let file = folder.join(format!("{name}.toml")).canonicalize().map_err(|_| unknown())?;
        if file.starts_with(folder) && file.is_file() { Ok(file) } else { Err(unknown()) }
    }
}

/// Whether this can be the name of a plan: lower-case letters, digits and `-`, not beginning with `-`. So it is never a path.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plans_are_files_in_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("plans");
        fs::create_dir_all(folder.join("dir.toml")).unwrap();
        for file in ["b.toml", "a.toml", "UPPER.toml", "-dash.toml", "no-plan.txt", ".toml"] {
            fs::write(folder.join(file), "revision = 'main'").unwrap();
        }
        fs::write(place.path().join("outside.toml"), "secret").unwrap();
        symlink(place.path().join("outside.toml"), folder.join("out.toml")).unwrap();
        symlink("a.toml", folder.join("within.toml")).unwrap();
        symlink("nowhere.toml", folder.join("dangling.toml")).unwrap();
        symlink(&folder, place.path().join("link")).unwrap();
        for folder in [folder, place.path().join("link")] {
            let plans = Plans::new(Some(folder));
            assert_eq!(plans.names(), ["a", "b", "within"]);
            assert!(plans.path("within").unwrap().ends_with("a.toml"));
            for hidden in ["out", "dir", "dangling", "missing"] {
                assert_eq!(plans.path(hidden).unwrap_err().code, "unknown_plan", "{hidden}");
            }
        }
        assert_eq!(Plans::new(None).names(), [""; 0]);
        assert_eq!(Plans::new(Some(place.path().join("missing"))).names(), [""; 0]);
    }

    proptest! {
        #[test]
        fn a_name_is_never_a_path(text in "\\PC{0,8}|[a-z0-9./-]{0,8}|[a-z]{60,66}") {
            let error = Plans::new(None).path(&text).unwrap_err();
            match is_name(&text) {
                true => prop_assert_eq!(Path::new("f").join(text).components().count(), 2),
                false => prop_assert_eq!(error.code, "invalid_plan"),
            }
        }
    }
}
