//! Tests the archives of a release, made of a dummy program and the files that the program under test writes.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A dummy program: one for another architecture could not be run here either.
const STAND_IN: &str = "a program";

/// Makes the archive in this folder, and returns its checksum.
fn pack(folder: &Path, name: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/pack-archive");
    let program = folder.join("program");
    fs::write(&program, STAND_IN).unwrap();
    let packed = Command::new(script).arg(folder).arg("riscv64").arg(program).arg(super::program()).output().unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    assert_eq!(Path::new(String::from_utf8(packed.stdout).unwrap().trim()), folder.join(name));
    fs::read_to_string(folder.join(format!("{name}.sha256"))).unwrap()
}

/// Returns the output of shell commands in this folder.
fn shell(folder: &Path, commands: &str) -> String {
    let output = Command::new("sh").args(["-euc", commands]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_archive_has_all_that_goes_with_the_program_and_is_the_same_each_time() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let version = env!("CARGO_PKG_VERSION");
    let folder = format!("homelab-deploy-{version}-riscv64-linux");
    let name = format!("{folder}.tar.gz");
    assert_eq!(pack(one.path(), &name), pack(other.path(), &name));

    shell(one.path(), &format!("rm -r {folder}; sha256sum --check --strict {name}.sha256; tar xf {name}"));
    let files = shell(&one.path().join(&folder), "find . -type f | sort");
    insta::assert_snapshot!(files, @"
    ./LICENSE
    ./README.md
    ./bin/homelab-deploy
    ./share/bash-completion/completions/homelab-deploy
    ./share/fish/vendor_completions.d/homelab-deploy.fish
    ./share/man/man1/homelab-deploy-abort.1
    ./share/man/man1/homelab-deploy-apply.1
    ./share/man/man1/homelab-deploy-build.1
    ./share/man/man1/homelab-deploy-completions.1
    ./share/man/man1/homelab-deploy-deploy.1
    ./share/man/man1/homelab-deploy-doctor.1
    ./share/man/man1/homelab-deploy-hosts.1
    ./share/man/man1/homelab-deploy-init.1
    ./share/man/man1/homelab-deploy-keygen.1
    ./share/man/man1/homelab-deploy-listener.1
    ./share/man/man1/homelab-deploy-logs.1
    ./share/man/man1/homelab-deploy-man.1
    ./share/man/man1/homelab-deploy-mcp.1
    ./share/man/man1/homelab-deploy-nats-config.1
    ./share/man/man1/homelab-deploy-plan.1
    ./share/man/man1/homelab-deploy-report.1
    ./share/man/man1/homelab-deploy-rollback.1
    ./share/man/man1/homelab-deploy-rollouts.1
    ./share/man/man1/homelab-deploy-status.1
    ./share/man/man1/homelab-deploy.1
    ./share/zsh/site-functions/_homelab-deploy
    ");
    let read = |file: &str| fs::read_to_string(one.path().join(&folder).join(file)).unwrap();
    assert_eq!(read("bin/homelab-deploy"), STAND_IN);
    assert!(read("share/man/man1/homelab-deploy.1").contains(version));
    assert!(read("share/bash-completion/completions/homelab-deploy").contains("complete"));
    let runnable = shell(&one.path().join(&folder), "find . -type f -executable");
    assert_eq!(runnable, "./bin/homelab-deploy\n");
}
