//! The folder of plans, as far as an assistant may reach: plain names, and files that lie in it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::ToolError;

/// The longest name of a plan, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// The name of a plan: lower-case letters, digits and `-`, not beginning with `-`. So it is never a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlanName(String);

#[derive(Debug, Clone)]
pub struct Plans {
    /// `None` where there are no plans.
    folder: Option<PathBuf>,
}

impl FromStr for PlanName {
    type Err = ToolError;

    fn from_str(text: &str) -> Result<Self, ToolError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_name = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('-');
        if is_name { Ok(Self(text.to_owned())) } else { Err(no_name(text)) }
    }
}

impl fmt::Display for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Plans {
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The names of all plans that can be read, in order.
    pub(super) fn names(&self) -> Vec<PlanName> {
        let entries = self.folder.iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let names = paths.filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".toml")?.parse().ok());
        let mut names: Vec<PlanName> = names.filter(|name| self.path(name).is_ok()).collect();
        names.sort();
        names
    }

    /// The path of a plan's file: within the folder, also when it is a link.
    pub(super) fn path(&self, name: &PlanName) -> Result<PathBuf, ToolError> {
        let folder = self.folder.as_ref().and_then(|folder| folder.canonicalize().ok()).ok_or_else(|| unknown(name))?;
        let file = folder.join(format!("{name}.toml")).canonicalize().map_err(|_| unknown(name))?;
        if file.starts_with(folder) && file.is_file() { Ok(file) } else { Err(unknown(name)) }
    }
}

fn no_name(text: &str) -> ToolError {
    let shown: String = text.chars().take(80).collect();
    ToolError::new(
        "invalid_plan",
        format!("{shown:?} is not the name of a plan: those have lower-case letters, digits and - only"),
    )
    .next("give plan a name that list_plans shows, without a path and without .toml")
}

fn unknown(name: &PlanName) -> ToolError {
    ToolError::new("unknown_plan", format!("there is no plan {name}")).next("list_plans shows the plans")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn names(plans: &Plans) -> Vec<String> {
        plans.names().iter().map(ToString::to_string).collect()
    }

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
            assert_eq!(names(&plans), ["a", "b", "within"]);
            assert!(plans.path(&"within".parse().unwrap()).unwrap().ends_with("a.toml"));
            for hidden in ["out", "dir", "dangling", "missing"] {
                assert_eq!(plans.path(&hidden.parse().unwrap()).unwrap_err().code, "unknown_plan", "{hidden}");
            }
        }
        assert_eq!(names(&Plans::new(None)), [""; 0]);
        assert_eq!(names(&Plans::new(Some(place.path().join("missing")))), [""; 0]);
    }

    proptest! {
        #[test]
        fn a_name_is_never_a_path(text in "\\PC{0,8}|[a-z0-9./-]{0,8}|[a-z]{60,66}") {
            match text.parse::<PlanName>() {
                Ok(name) => prop_assert_eq!(Path::new("f").join(name.to_string()).components().count(), 2),
                Err(error) => prop_assert_eq!(error.code, "invalid_plan"),
            }
        }
    }
}
