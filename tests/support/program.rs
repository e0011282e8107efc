//! Creates programs for tests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use miette::{IntoDiagnostic, Result, ensure};

/// Makes a program of a script. Another process writes it: a file that this process writes may stay open in a child
/// that another test has forked, and cannot be run until that child calls `exec`.
pub fn make_program(path: &Path, script: &str) -> Result<()> {
    let mut writer = Command::new("sh");
    writer.args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).stdin(Stdio::piped());
    let mut writer = writer.spawn().into_diagnostic()?;
    if let Some(mut input) = writer.stdin.take() {
        input.write_all(script.as_bytes()).into_diagnostic()?;
    }
    ensure!(writer.wait().into_diagnostic()?.success(), "{} cannot be written", path.display());
    Ok(())
}
