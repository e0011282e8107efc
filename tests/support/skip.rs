//! Reports tests that cannot run on this machine.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::thread;

/// Reports that the test of this thread is skipped. `scripts/run-tests` counts and repeats the lines in the file that
/// the variable `SKIPPED` names.
pub fn skip(why: &str) {
    let line = format!("SKIPPED {}: {why}", thread::current().name().unwrap_or("a test"));
    // Bypasses the test harness, which shows only the output of failing tests.
    writeln!(io::stderr(), "{line}").ok();
    if let Some(file) = env::var_os("SKIPPED") {
        let mut file = OpenOptions::new().append(true).create(true).open(file).expect("SKIPPED names a file");
        file.write_all(format!("{line}\n").as_bytes()).expect("it can be written");
    }
}
