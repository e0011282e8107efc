//! The running and booted system of a host: links below the folder that its listener takes for the root file system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::host;
use crate::support::lab::Lab;
use crate::support::program;

/// The system that a host runs and boots before any deployment, as generation 41.
pub const OLD: &str = "/nix/store/old";

/// The system that [`SWITCH`] makes a host run and boot, as generation 42.
pub const NEW: &str = "/nix/store/new";

/// A script with the effects of `nixos-rebuild switch` on the host.
pub const SWITCH: &str = r#"
root=$here/../$host/root
ln -sfn /nix/store/new "$root/nix/var/nix/profiles/system-42-link"
ln -sfn system-42-link "$root/nix/var/nix/profiles/system"
ln -sfn /nix/store/new "$root/run/current-system"
echo activating the configuration...
"#;

/// Gives a host the system [`OLD`], to which it can roll back, and the script [`SWITCH`].
pub fn install(lab: &Lab, name: &str) {
    let root = root(lab, name);
    for folder in ["run", "nix/var/nix/profiles", "nix/store/old/bin", "nix/store/new/bin"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for link in ["run/current-system", "nix/var/nix/profiles/system-41-link"] {
        symlink(OLD, root.join(link)).unwrap();
    }
    symlink("system-41-link", root.join("nix/var/nix/profiles/system")).unwrap();
    let activate = format!("ln -sfn {OLD} {}/run/current-system", root.display());
    make_program(&root.join("nix/store/old/bin/switch-to-configuration"), &activate);
    let set = "ln -sfn $4 $2-43-link; ln -sfn system-43-link $2";
    make_program(&lab.fleet.rebuild().folder().join("nix-env"), set);
    lab.fleet.rebuild().on(&host(name), SWITCH).unwrap();
}

/// Makes a system of a host report the commit that it was built from.
pub fn is_of_commit(lab: &Lab, name: &str, system: &str, commit: &str) {
    let folder = root(lab, name).join(system.trim_start_matches('/')).join("sw/bin");
    fs::create_dir_all(&folder).unwrap();
    make_program(&folder.join("nixos-version"), &format!("echo {commit}"));
}

/// Writes an executable shell script.
pub fn make_program(path: &Path, script: &str) {
    program::make_program(path, &format!("#!/bin/sh\n{script}\n")).unwrap();
}

/// Returns the system that a host runs.
pub fn runs(lab: &Lab, name: &str) -> String {
    target(&root(lab, name).join("run/current-system"))
}

/// Returns the system that a host boots.
pub fn boots(lab: &Lab, name: &str) -> String {
    let profiles = root(lab, name).join("nix/var/nix/profiles");
    target(&profiles.join(target(&profiles.join("system"))))
}

/// Returns the root folder of a host.
pub fn root(lab: &Lab, name: &str) -> PathBuf {
    lab.folder().join("hosts").join(name).join("root")
}

fn target(link: &Path) -> String {
    fs::read_link(link).unwrap().display().to_string()
}
