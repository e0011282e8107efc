//! Opens folders that only this user can write to, and files in them.
//!
//! The program trusts these files: a journal names a command that is run. So a folder and each file in it must be no
//! link, must belong to this user or root, and must not be writable by others. The folder stays open. Its parents are
//! not checked: in a world-writable one such as /tmp, another user can only put a folder of theirs in its place, which
//! is refused because of its owner.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::process::geteuid;
use thiserror::Error;

const FOR_US: Mode = Mode::RWXU;

const FILE_FOR_US: Mode = Mode::RUSR.union(Mode::WUSR);

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub struct PrivateDir {
    handle: OwnedFd,
    path: PathBuf,
}

#[derive(Debug, Error, Diagnostic)]
pub enum PrivateDirError {
    #[error("{path} cannot be used: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("it has to be a place that this user may write to; --state-dir names another folder"))]
    Io(PathBuf, #[source] io::Error),
    #[error("{path} is not {expected}", path = .0.display(), expected = .1)]
    #[diagnostic(help("links are not followed: name the place that it leads to, or remove it"))]
    Kind(PathBuf, &'static str),
    #[error("{} {why}", .path.display())]
    #[diagnostic(help(
        "its content could make this program run somebody else's command: find out who wrote it, and {remedy}"
    ))]
    Untrusted { path: PathBuf, why: String, remedy: String },
}

impl PrivateDirError {
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(_, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

type Result<T> = std::result::Result<T, PrivateDirError>;

impl PrivateDir {
    /// Opens a folder. Removes the permission of other users to read it.
    pub fn open(path: &Path) -> Result<Self> {
        // With a trailing slash, a link would be followed.
        let path: PathBuf = path.components().collect();
        Self::checked(rustix::fs::open(&path, FOLDER, Mode::empty()), path)
    }

    /// Opens a folder; creates it and its parents if they are missing.
    pub fn create(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Err(error) if error.is_missing() => {}
            opened => return opened,
        }
        let missing = path.ancestors().take_while(|folder| !folder.exists()).count();
        let made = DirBuilder::new().recursive(true).mode(FOR_US.bits()).create(path);
        // A new folder's name is on disk only once its parent is synced.
        let mut above = path.ancestors().skip(1).take(missing).filter(|folder| *folder != Path::new(""));
        let synced = made.and_then(|()| above.try_for_each(|folder| File::open(folder)?.sync_all()));
        synced.map_err(|error| PrivateDirError::Io(path.to_owned(), error))?;
        Self::open(path)
    }

    pub fn open_folder(&self, name: &str) -> Result<Self> {
        Self::checked(rustix::fs::openat(&self.handle, name, FOLDER, Mode::empty()), self.path.join(name))
    }

    /// Opens a folder in this one; creates it if it is missing.
    pub fn create_folder(&self, name: &str) -> Result<Self> {
        match rustix::fs::mkdirat(&self.handle, name, FOR_US) {
            Ok(()) => self.sync().and_then(|()| self.open_folder(name)),
            Err(rustix::io::Errno::EXIST) => self.open_folder(name),
            Err(error) => Err(PrivateDirError::Io(self.path.join(name), error.into())),
        }
    }

    fn checked(opened: rustix::io::Result<OwnedFd>, path: PathBuf) -> Result<Self> {
        let handle = opened.map_err(|error| not_opened(&path, error, "a folder"))?;
        let status = status_of(&handle, &path)?;
        is_trusted(&status, &path)?;
        let readable = Mode::from_raw_mode(status.st_mode).intersects(Mode::RWXG | Mode::RWXO);
        if readable && status.st_uid == geteuid().as_raw() {
            // A failure does not matter: no other user can write there.
            rustix::fs::fchmod(&handle, FOR_US).ok();
        }
        Ok(Self { handle, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in the folder. Only this user may access a new file.
    pub fn file(&self, name: &str, flags: OFlags) -> Result<File> {
        let path = self.path.join(name);
        // Opening a named pipe would block.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&self.handle, name, flags, FILE_FOR_US);
        let file = File::from(opened.map_err(|error| not_opened(&path, error, "a file"))?);
        let status = status_of(&file, &path)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(PrivateDirError::Kind(path, "a file"));
        }
        is_trusted(&status, &path)?;
        Ok(file)
    }

    /// Reads a file in the folder. Returns `None` if it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut file = match self.file(name, OFlags::RDONLY) {
            Err(error) if error.is_missing() => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| self.unusable(name, error))?;
        Ok(Some(bytes))
    }

    /// Replaces a file atomically and durably: a reader sees the old or the new content.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let draft = format!(".{name}.{}", std::process::id());
        rustix::fs::unlinkat(&self.handle, draft.as_str(), AtFlags::empty()).ok();
        let mut file = self.file(&draft, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| self.unusable(name, error))?;
        let moved = rustix::fs::renameat(&self.handle, draft.as_str(), &self.handle, name);
        moved.map_err(|error| self.unusable(name, error.into()))?;
        self.sync()
    }

    /// Waits until the names of the folder's files are on disk.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.handle).map_err(|error| PrivateDirError::Io(self.path.clone(), error.into()))
    }

    fn unusable(&self, name: &str, error: io::Error) -> PrivateDirError {
        PrivateDirError::Io(self.path.join(name), error)
    }
}

fn status_of(handle: impl AsFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(handle).map_err(|error| PrivateDirError::Io(path.to_owned(), error.into()))
}

/// Opens a file that only this user may write, in any folder. Only this user may access a new file. Refuses a folder
/// that others can write to, as they could replace the file.
pub fn file(path: &Path, flags: OFlags) -> Result<File> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opened = rustix::fs::open(above, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty());
    let handle = opened.map_err(|error| PrivateDirError::Io(above.to_owned(), error.into()))?;
    let folder = PrivateDir { handle, path: above.to_owned() };
    let status = status_of(&folder.handle, above)?;
    // In a sticky folder only owners can replace their files, so checking the file's owner is enough.
    if !Mode::from_raw_mode(status.st_mode).contains(Mode::SVTX) {
        is_trusted(&status, above)?;
    }
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or(".");
    folder.file(name, flags)
}

/// Fails if users other than this one and root may have written to it.
fn is_trusted(status: &Stat, path: &Path) -> Result<()> {
    let (us, owner, shown) = (geteuid().as_raw(), status.st_uid, path.display());
    let (why, remedy) = if owner != us && owner != 0 {
        let why = format!("belongs to another user (uid {owner}, and this is uid {us})");
        (why, format!("remove it, or make it yours: chown {us} {shown}"))
    } else if Mode::from_raw_mode(status.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        ("can be written to by other users".to_owned(), format!("restrict it: chmod go-w {shown}"))
    } else {
        return Ok(());
    };
    Err(PrivateDirError::Untrusted { path: path.to_owned(), why, remedy })
}

fn not_opened(path: &Path, error: rustix::io::Errno, expected: &'static str) -> PrivateDirError {
    use rustix::io::Errno;
    match error {
        // A link is either of the first two.
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR => PrivateDirError::Kind(path.to_owned(), expected),
        error => PrivateDirError::Io(path.to_owned(), error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_is_made_is_for_us_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("above/ours");
        let within = PrivateDir::create(&path).unwrap().create_folder("within").unwrap();
        within.replace("file", b"one").unwrap();
        within.replace("file", b"two").unwrap();
        assert_eq!(within.read("file").unwrap().unwrap(), b"two");
        assert_eq!(within.read("missing").unwrap(), None);
        let modes = ["above", "above/ours", "above/ours/within", "above/ours/within/file"]
            .map(|name| mode(&place.path().join(name)));
        assert_eq!(modes, [0o700, 0o700, 0o700, 0o600]);
        assert_eq!(fs::read_dir(within.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_others_can_read_is_shut_and_what_they_can_write_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("ours");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "text").unwrap();
        for readable in [0o755, 0o750, 0o705] {
            fs::set_permissions(&path, Permissions::from_mode(readable)).unwrap();
            PrivateDir::open(&path).unwrap();
            assert_eq!(mode(&path), 0o700, "{readable:o}");
        }
        for writable in [0o720, 0o702, 0o1777] {
            fs::set_permissions(&path, Permissions::from_mode(writable)).unwrap();
            assert!(refusal(PrivateDir::open(&path)).ends_with("can be written to by other users"), "{writable:o}");
            assert!(refusal(PrivateDir::create(&path)).ends_with("can be written to by other users"), "{writable:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let dir = PrivateDir::open(&path).unwrap();
        for writable in [0o620, 0o602] {
            fs::set_permissions(path.join("file"), Permissions::from_mode(writable)).unwrap();
            assert!(refusal(dir.read("file")).ends_with("can be written to by other users"), "{writable:o}");
        }
    }

    #[test]
    fn links_and_other_things_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let dir = PrivateDir::create(&place.path().join("ours")).unwrap();
        dir.replace("real", b"x").unwrap();
        symlink(dir.path(), place.path().join("link")).unwrap();
        for link in ["link", "link/", "link/."] {
            assert!(refusal(PrivateDir::open(&place.path().join(link))).ends_with("is not a folder"), "{link}");
        }
        symlink("real", dir.path().join("link")).unwrap();
        assert!(refusal(dir.read("link")).ends_with("is not a file"));
        symlink(".", dir.path().join("folder-link")).unwrap();
        for link in ["link", "folder-link"] {
            assert!(refusal(dir.open_folder(link)).ends_with("is not a folder"), "{link}");
            assert!(refusal(dir.create_folder(link)).ends_with("is not a folder"), "{link}");
        }
        fs::create_dir(dir.path().join("folder")).unwrap();
        assert!(refusal(dir.read("folder")).ends_with("is not a file"));
        assert!(refusal(dir.open_folder("real")).ends_with("is not a folder"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, FILE_FOR_US, 0).unwrap();
        assert!(refusal(dir.read("pipe")).ends_with("is not a file"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("theirs");
        let dir = PrivateDir::create(&path).unwrap();
        dir.replace("file", b"x").unwrap();
        // Only root can create a file of another user, so the test needs root.
        if std::os::unix::fs::chown(path.join("file"), Some(12345), None).is_err() {
            assert_ne!(fs::metadata(&path).unwrap().uid(), 0);
            return;
        }
        assert!(refusal(dir.read("file")).contains("belongs to another user"));
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(refusal(PrivateDir::open(&path)).contains("belongs to another user"));
    }
}
