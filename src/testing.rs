//! Helpers for the tests of several modules.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes a program of a shell script. Another process writes it: a file that this process writes may stay open in a
/// child that another test has forked, and cannot be run until that child calls `exec`.
pub(crate) fn make_program(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = Command::new("sh");
    writer.args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).stdin(Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}
