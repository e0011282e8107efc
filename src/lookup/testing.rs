//! Creates temporary repositories for tests.

use std::path::Path;
use std::process::Command;

use crate::protocol::FlakeUrl;

pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(arguments);
    let output = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn repository() -> (tempfile::TempDir, FlakeUrl) {
    let folder = tempfile::tempdir().unwrap();
    git(folder.path(), &["init", "-q", "-b", "main"]);
    git(folder.path(), &["commit", "-q", "--allow-empty", "-m", "one"]);
    git(folder.path(), &["tag", "-a", "v1", "-m", "first"]);
    git(folder.path(), &["commit", "-q", "--allow-empty", "-m", "two"]);
    let url = format!("git+file://{}", folder.path().display()).parse().unwrap();
    (folder, url)
}
