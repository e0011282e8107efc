//! The random id that tells machines apart that go by the same name.
//!
//! A cloned machine has the machine id of its original, and its state folder. So the id is made anew in each boot. It stays
//! the same when the listener is restarted, which every deployment may do. A machine that is cloned while it runs shares it
//! until one of the two is booted: nothing that the two could read tells them apart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Config;

/// The file that the id is kept in.
const FILE: &str = "instance";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shelf {
    /// A folder that is empty after each boot.
    UntilReboot(PathBuf),
    /// A folder that stays. With the id goes the boot in which it was made; one that is not known is never the same.
    Lasting(PathBuf, Option<String>),
}

impl Shelf {
    /// Where a listener keeps it that was started in this boot.
    pub(super) fn of(config: &Config, boot: Option<&str>) -> Self {
        match &config.runtime_dir {
            Some(folder) => Self::UntilReboot(folder.clone()),
            None => Self::Lasting(config.state_dir.clone(), boot.map(str::to_owned)),
        }
    }

    pub(super) fn instance(&self) -> Uuid {
        let (folder, boot) = match self {
            Self::UntilReboot(folder) => (folder, Some("")),
            Self::Lasting(folder, boot) => (folder, boot.as_deref()),
        };
        if let Some(kept) = boot.and_then(|boot| read(&folder.join(FILE), boot)) {
            return kept;
        }
        let new = Uuid::new_v4();
        if let Err(error) = boot.map_or(Ok(()), |boot| write(folder, &format!("{new} {boot}"))) {
            tracing::warn!("cannot keep the id of this boot in {}: {error}", folder.display());
        }
        new
    }
}

fn read(file: &Path, boot: &str) -> Option<Uuid> {
    let text = fs::read_to_string(file).ok()?;
    let (instance, made_in) = text.split_once(' ')?;
    instance.parse().ok().filter(|_| made_in == boot)
}

fn write(folder: &Path, text: &str) -> io::Result<()> {
    let (file, new) = (folder.join(FILE), folder.join("instance.new"));
    fs::write(&new, text)?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_a_boot_and_changes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let in_boot = |boot: Option<&str>| Shelf::Lasting(folder.path().to_owned(), boot.map(str::to_owned)).instance();
        let first = in_boot(Some("b-1"));
        assert_eq!(in_boot(Some("b-1")), first);
        let second = in_boot(Some("b-2"));
        assert_ne!(second, first);
        assert_eq!(in_boot(Some("b-2")), second);
        assert_ne!(in_boot(Some("b-1")), first, "a boot does not come back");
        assert_ne!(in_boot(None), in_boot(None), "a boot that is not known");
    }

    #[test]
    fn a_folder_that_is_emptied_at_each_boot_needs_no_boot_id() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::UntilReboot(folder.path().to_owned());
        let first = shelf.instance();
        assert_eq!(shelf.instance(), first);
        fs::write(folder.path().join(FILE), "nonsense").unwrap();
        let second = shelf.instance();
        assert_ne!(second, first);
        assert_eq!(shelf.instance(), second);
        // One that cannot be kept is better than none.
        assert_ne!(Shelf::UntilReboot(folder.path().join("missing")).instance(), second);
    }
}
