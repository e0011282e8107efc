//! Tests that cannot run on this machine.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::thread;

/// Says that the test of this thread is skipped. `scripts/run-tests` counts and repeats at the end what is in the file that the
/// variable `SKIPPED` names.
pub fn skip(why: &str) {
    let line = format!("SKIPPED {}: {why}", thread::current().name().unwrap_or("a test"));
    // Past the test harness, which shows only what tests that fail say.
    writeln!(io::stderr(), "{line}").ok();
    if let Some(file) = env::var_os("SKIPPED") {
        let mut file = OpenOptions::new().append(true).create(true).open(file).expect("SKIPPED names a file");
        file.write_all(format!("{line}\n").as_bytes()).expect("it can be written");
    }
}
