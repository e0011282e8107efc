//! The flake as it is used from outside: by its URL, with Nix, and with `tests/nixpkgs` in the place of nixpkgs.
//!
//! It builds the package, which takes minutes where nothing is compiled yet, so it is not part of `make test`: `make nix` runs it
//! with several versions of Nix. Without the variable `NIX`, the path of one, it is skipped and says so.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod changes;
#[path = "../support/git.rs"]
#[expect(dead_code, reason = "the box makes this server ill, which is nobody's wish here")]
mod git;
#[path = "../support/skip.rs"]
mod skip;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use self::git::Git;
use self::skip::skip;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How Nix works here: on its own, below one folder.
const SETTINGS: &str = "experimental-features = nix-command flakes
sandbox = false
build-users-group =
substituters =
flake-registry =
";

/// What Nix says where an input is replaced, of which the lock file of the flake knows nothing.
const REPLACED: &str = "warning: not writing modified lock file of flake";

/// The project on a server, and a Nix with a store of its own.
struct Stage {
    nix: OsString,
    /// What nixpkgs is replaced by.
    nixpkgs: PathBuf,
    server: Git,
    folder: TempDir,
}

impl Stage {
    fn set(nix: OsString) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nixpkgs = folder.path().join("nixpkgs");
        done(Command::new("cp").arg("-R").arg(Path::new(ROOT).join("tests/nixpkgs")).arg(&nixpkgs));
        fs::write(nixpkgs.join("flake.nix"), format!("{{ outputs = _: import ./. {{ build = {}; }}; }}", toolchain()))
            .unwrap();
        let stage = Self { nix, nixpkgs, server: Git::serve(folder.path()).unwrap(), folder };
        done(Command::new("git").args(["init", "--quiet", "--bare"]).arg(stage.repository()));
        stage.commit(Path::new(ROOT));
        stage
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("project.git")
    }

    /// Commits all that is in a folder and not ignored. The repository that may be there knows nothing of it.
    fn commit(&self, folder: &Path) {
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.arg("--git-dir").arg(self.repository()).arg("--work-tree").arg(folder);
            git.args(["-c", "core.bare=false", "-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]);
            done(git.args(arguments).current_dir(folder));
        };
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message", "all of it"]);
    }

    /// The URL that people type, without what may follow `#`.
    fn url(&self) -> String {
        format!("git+{}", self.server.url("project.git"))
    }

    /// Calls Nix, as who has installed it for himself alone.
    fn call(&self, arguments: &[&str]) -> Output {
        let at = |name: &str| self.folder.path().join(name);
        Command::new(&self.nix)
            .args(arguments)
            .envs([("NIX_STORE_DIR", at("store")), ("NIX_STATE_DIR", at("state")), ("NIX_LOG_DIR", at("log"))])
            .envs([("HOME", at("home")), ("XDG_CACHE_HOME", at("cache")), ("NIX_CONF_DIR", at("conf"))])
            .env("NIX_CONFIG", SETTINGS)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// Calls Nix with nixpkgs replaced, expects that it succeeds without a warning, and returns what it prints.
    fn nix(&self, command: &[&str], more: &[&str]) -> String {
        let nixpkgs = format!("path:{}", self.nixpkgs.display());
        // A branch is taken anew: the commits here follow each other within the hour for which Nix remembers one.
        let replaced = ["--override-input", "nixpkgs", &nixpkgs, "--no-write-lock-file", "--refresh"];
        let output = self.call(&[command, &replaced, more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        let warning = said.lines().find(|line| line.contains("warning:") && !line.contains(REPLACED));
        assert_eq!(warning, None, "{command:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What is in a store may not be removed by its owner otherwise.
        Command::new("chmod").args(["-R", "u+w"]).arg(self.folder.path()).status().ok();
    }
}

/// The cargo that the package is built by, as a set of Nix: with all that it has compiled already.
fn toolchain() -> String {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_homelab-deploy"));
    let target = program.ancestors().nth(2).unwrap();
    let home = PathBuf::from(env::var_os("HOME").unwrap());
    let or_in_home = |name: &str, folder: &str| env::var_os(name).unwrap_or_else(|| home.join(folder).into());
    let text = |value: &OsStr| format!("{:?}", value.to_str().unwrap());
    format!(
        "{{ PATH = {}; CARGO_HOME = {}; RUSTUP_HOME = {}; CARGO_TARGET_DIR = {}; }}",
        text(&env::var_os("PATH").unwrap()),
        text(&or_in_home("CARGO_HOME", ".cargo")),
        text(&or_in_home("RUSTUP_HOME", ".rustup")),
        text(target.as_os_str())
    )
}

/// The Nix to test with.
fn nix() -> Option<OsString> {
    let nix = env::var_os("NIX").filter(|nix| !nix.is_empty());
    if nix.is_none() {
        skip("NIX names no nix, see `make nix`");
    }
    nix
}

fn done(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// The files below a folder, in order.
fn files(folder: &Path) -> Vec<String> {
    let output = Command::new("find").args([".", "-type", "f"]).current_dir(folder).output().unwrap();
    let mut files: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn what_people_type_first_works() {
    let Some(nix) = nix() else { return };
    let stage = Stage::set(nix);
    let url = stage.url();

    // Without a lock file that is complete, nobody can use a flake that is not his own: Nix would have to write one. This one
    // call has nothing replaced, and nothing needs to be fetched for it.
    let metadata = stage.call(&["flake", "metadata", "--json", &url]);
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    assert!(String::from_utf8_lossy(&metadata.stdout).contains("21a67dc470149f337cecafbe965d8d252a390518"));

    let shown = stage.nix(&["flake", "show", "--all-systems", "--json", &url], &[]);
    assert!(shown.contains("aarch64-darwin") && shown.contains("demo"), "{shown}");
    stage.nix(&["flake", "check", "--all-systems", "--no-build", &url], &[]);

    let version = stage.nix(&["run"], &[&url, "--", "--version"]);
    assert_eq!(version, format!("homelab-deploy {}\n", env!("CARGO_PKG_VERSION")));
    let built = stage.nix(&["build", "--no-link", "--print-out-paths", &format!("{url}#default")], &[]);
    let files = files(Path::new(built.trim()));
    for file in [
        "./bin/homelab-deploy",
        "./share/bash-completion/completions/homelab-deploy",
        "./share/fish/vendor_completions.d/homelab-deploy.fish",
        "./share/man/man1/homelab-deploy-listener.1",
        "./share/man/man1/homelab-deploy.1",
        "./share/zsh/site-functions/_homelab-deploy",
    ] {
        assert!(files.iter().any(|found| found == file), "{file} is not among {files:?}");
    }

    let derivation = || stage.nix(&["eval", "--raw", &format!("{url}#default.drvPath")], &[]);
    let before = derivation();
    let changed = stage.folder.path().join("changed");
    done(Command::new("git").args(["clone", "--quiet"]).arg(stage.repository()).arg(&changed));
    let append = |file: &str| {
        let path = changed.join(file);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "\n").unwrap();
        stage.commit(&changed);
    };
    append("README.md");
    append("tests/nix/main.rs");
    assert_eq!(derivation(), before, "a word in a README makes every host compile anew");
    append("src/main.rs");
    assert_ne!(derivation(), before, "a change of the program is not built");
}
